"""How many connections of this user are being made to one host at a time: a place in a file for each.

sshd lets in no more than some that have not logged in yet, and drops the others at random (MaxStartups, sshd_config(5);
10 by default). A connection takes its place until the host has answered; who finds none waits. The places are locks of
single bytes of one file (F_OFD_SETLK, fcntl(2)), which end with the process that has them, however it ends. It is a
courtesy: without such a file, or past one's patience, one goes on without.
"""

from __future__ import annotations

import fcntl
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from checkpoint.submit import xdg
from remoteio.kernel_structs import FLOCK

AT_ONCE = 8  # fewer than sshd's ten: other people connect too
_LONGEST_WAIT = 60.0


@contextmanager
def turn(destination: str, patience: float) -> Iterator[None]:
    """Have a place among the connections to `destination` while the body runs; wait for it `patience` seconds."""
    fd = _open()
    if fd < 0:
        yield
        return
    try:
        first = zlib.crc32(destination.encode()) * AT_ONCE
        until = time.monotonic() + min(patience, _LONGEST_WAIT)
        while not _take(fd, first) and time.monotonic() < until:
            import random  # hardly ever: few connect to one host at once

            time.sleep(random.uniform(0.02, 0.08))
        yield
    finally:
        os.close(fd)


def _open() -> int:
    """Open the file; -1: there can be none."""
    try:
        directory = xdg.cache()
        xdg.make(directory)
        return os.open(directory / "connecting", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (OSError, RuntimeError):
        return -1


def _take(fd: int, first: int) -> bool:
    """Take one of the places that begin at byte `first`, whichever is free. False: none is."""
    for k in range(AT_ONCE):
        place = first + (os.getpid() + k) % AT_ONCE  # where others begin elsewhere
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0))
        except BlockingIOError:
            continue
        except OSError:
            return True  # a filesystem without locks
        return True
    return False
