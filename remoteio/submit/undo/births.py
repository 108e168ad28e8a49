"""Which file an inode number means: it is given again as soon as its file is gone, within the same second by ext4.

Known apart are they by when they were made. Two that are made within one step of the kernel's clock (4 ms, on some 10)
may look alike; of the two one was there at an image then only if that was made within the same step.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from remoteio import syscalls

_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
UNKNOWN = 0


class Which(NamedTuple):
    """One file: inode number, 0: none; and when it was made, UNKNOWN on a filesystem that does not say."""

    ino: int
    born: int = UNKNOWN

    def is_it(self, other: Which) -> bool:
        """Are both the same file?"""
        return bool(self.ino) and self.ino == other.ino and is_same(self.born, other.born)


NOTHING = Which(0)


def is_same(one: int, other: int) -> bool:
    """Can what was made then and then be the same file?"""
    return one == other or UNKNOWN in (one, other)


def born_at(name: bytes, directory: int | None = None) -> int:
    """When that was made which has that name; UNKNOWN: nothing has it, or it cannot be looked at."""
    try:
        fd = os.open(name, _FLAGS, dir_fd=directory)
    except OSError:
        return UNKNOWN
    try:
        return syscalls.born(fd)
    finally:
        os.close(fd)


def which(path: bytes) -> Which:
    """What has that name; inode number 0: nothing has it."""
    try:
        fd = os.open(path, _FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        return NOTHING
    try:
        return Which(os.fstat(fd).st_ino, syscalls.born(fd))
    finally:
        os.close(fd)
