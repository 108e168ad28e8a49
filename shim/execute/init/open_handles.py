"""Which descriptor of which process is which open file of the link: asked of the descriptors themselves. Shipped."""

from __future__ import annotations

import fcntl
import os
import stat

from remoteio.syscalls import check, libc
from remoteio.wire.fuse_abi import ASK_HANDLE, HANDLE

_PIDFD_GETFD = 438  # the same on every architecture: pidfd_getfd(2), Linux 5.6


def handles(proc: int, root: int, pids: list[int]) -> list[tuple[int, int, int]]:
    """List (pid, descriptor, handle) of each regular file below `root`, a descriptor, that these processes have open.

    `proc`: /proc of their pid namespace. To be called from that namespace and the mount's user namespace: the kernel
    lets nobody else ask (fuse_allow_current_process). Raises OSError.
    """
    device = os.fstat(root).st_dev
    found = []
    for pid in pids:
        try:
            process = os.pidfd_open(pid)
            try:
                found += [(pid, number, fh) for number, fh in _of(process, "%d/fd" % pid, proc, device)]
            finally:
                os.close(process)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended: what it had open is closed
    return found


def _of(process: int, directory: str, proc: int, device: int) -> list[tuple[int, int]]:
    at = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
    try:
        numbers = [int(name) for name in os.listdir(at)]
        files = {number: os.stat(str(number), dir_fd=at) for number in numbers}
    finally:
        os.close(at)
    ours = [number for number, st in files.items() if st.st_dev == device and stat.S_ISREG(st.st_mode)]
    return [(number, fh) for number in ours if (fh := _ask(process, number)) is not None]


def _ask(process: int, number: int) -> int | None:
    fd = check(libc.syscall(_PIDFD_GETFD, process, number, 0), "pidfd_getfd")
    try:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH:
            return None
        return int(HANDLE.unpack(fcntl.ioctl(fd, ASK_HANDLE, bytes(HANDLE.size)))[0])
    finally:
        os.close(fd)
