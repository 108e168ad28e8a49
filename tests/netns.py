"""A network namespace of this thread's own, and the way back to the machine's network for a download."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tests.desk_boot import CLONE_NEWNET, CLONE_NEWNS, check, libc

OWN = "/proc/thread-self/ns/net"
_machines: list[int] = []  # the machine's, once this process has left it


def leave() -> None:
    """Move this thread, and what it starts from then on, to an empty network and its own mounts. Raises OSError."""
    machines = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    check(libc.unshare(CLONE_NEWNS | CLONE_NEWNET), "unshare")
    _machines.append(machines)


@contextmanager
def outside() -> Iterator[None]:
    """Be in the machine's network for a while, if this process has left it: its own leads to the desk's hosts only."""
    if not _machines:
        yield
        return
    own = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        check(libc.setns(_machines[0], CLONE_NEWNET), "setns")
        try:
            yield
        finally:
            check(libc.setns(own, CLONE_NEWNET), "setns")
    finally:
        os.close(own)
