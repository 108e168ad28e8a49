"""Puts a job's descriptors where it is to find them, in its own process, before it executes. Shipped."""

from __future__ import annotations

import errno
import fcntl
import os

from shim.wire.descriptors import FILE, Descriptor


def settle(stdio: dict[int, int], wanted: list[Descriptor], tell: int) -> int:
    """Have each of `stdio` at its number, and nothing else open but `tell`; return where that is now.

    `wanted`: all that the job is to have from 3 on; none of their numbers is taken by `tell`.
    """
    above = 1 + max([9, *stdio, *(each.number for each in wanted)])
    high = {fd: fcntl.fcntl(fd, fcntl.F_DUPFD, above) for fd in set(stdio.values())}
    tell = fcntl.fcntl(tell, fcntl.F_DUPFD_CLOEXEC, above)
    for number, fd in stdio.items():
        os.dup2(high[fd], number)
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in stdio and int(name) != tell:
            close_quietly(int(name))
    return tell


def open_files(wanted: list[Descriptor]) -> None:
    """Open the files that the job is to have, as itself and in its own root. Raises OSError for one that it needs."""
    for each in wanted:
        if each.kind != FILE:
            continue
        try:
            fd = os.open(each.path, each.flags)
        except OSError:
            if each.needed:
                raise
            continue  # it lay open, and need not be for the job
        if each.offset:
            os.lseek(fd, each.offset, os.SEEK_SET)
        if fd == each.number:
            os.set_inheritable(fd, True)
        else:
            os.dup2(fd, each.number)
            os.close(fd)


def close_quietly(fd: int) -> None:
    """Close `fd`, be it open or not."""
    try:
        os.close(fd)
    except OSError as e:
        if e.errno != errno.EBADF:
            raise
