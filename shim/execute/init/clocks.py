"""Clocks of the job's own, which go on from where they were on its last host: time_namespaces(7). Shipped.

Only for who comes after: init itself keeps the host's, and every child that it forks from then on has the job's.
"""

from __future__ import annotations

import os
import time

from remoteio.errors import RexecError
from remoteio.syscalls import check, libc

_CLONE_NEWTIME = 0x80

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO


def go_on(proc: int, monotonic: int, boottime: int) -> None:
    """Have the clocks of all children forked from now on show these, in nanoseconds. `proc`: a descriptor of /proc.

    Raises RexecError: this host cannot.
    """
    try:
        check(libc.unshare(_CLONE_NEWTIME), "unshare")
        # relative to the kernel's own clocks, not to those that init sees: a host can be a container that has others
        with _open(proc, os.O_RDONLY) as f:
            offsets = {fields[0]: fields[1:] for fields in map(str.split, f)}
        lines = []
        for name, clock, wanted in (
            ("monotonic", time.CLOCK_MONOTONIC, monotonic), ("boottime", time.CLOCK_BOOTTIME, boottime),
        ):  # fmt: skip
            seconds, nanoseconds = map(int, offsets[name])
            ahead = wanted - time.clock_gettime_ns(clock) + seconds * 10**9 + nanoseconds
            lines.append("%s %d %d\n" % (name, *divmod(ahead, 10**9)))
        with _open(proc, os.O_WRONLY) as f:
            f.write("".join(lines))
    except OSError as e:
        raise RexecError(
            "%s can give the job no clocks of its own (%s); it needs Linux 5.6 with CONFIG_TIME_NS"
            % (os.uname().nodename, e.strerror)
        ) from e


def _open(proc: int, flags: int) -> TextIO:
    fd = os.open("self/timens_offsets", flags | os.O_CLOEXEC, dir_fd=proc)
    return open(fd, "r" if flags == os.O_RDONLY else "w")
