"""The baseline of the design's table: a passthrough filesystem on fusepy 3.0.1 (libfuse 2).

`python passthrough.py SOURCE MOUNTPOINT` serves in the foreground. One thread, big_writes: its fastest setting here.
"""

from __future__ import annotations

import os
import sys

import fuse  # type: ignore[import-untyped]

_STAT = ("st_atime", "st_ctime", "st_gid", "st_ino", "st_mode", "st_mtime", "st_nlink", "st_size", "st_uid")


class Passthrough(fuse.Operations):  # type: ignore[misc]
    """Every operation the probe needs, done on the same path below `source`."""

    def __init__(self, source: str) -> None:
        self.source = source

    def __call__(self, op: str, path: str, *args: object) -> object:
        return super().__call__(op, self.source + path, *args)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, float]:
        found = os.lstat(path)
        return {name: getattr(found, name) for name in _STAT}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(path)]

    def open(self, path: str, flags: int) -> int:
        return os.open(path, flags)

    def create(self, path: str, mode: int, fi: object = None) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        os.truncate(path, length)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    def release(self, path: str, fh: int) -> None:
        os.close(fh)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    # The base class answers these for paths of its own; the kernel asks for them in passing.
    getxattr = None
    listxattr = None


if __name__ == "__main__":
    fuse.FUSE(Passthrough(sys.argv[1]), sys.argv[2], foreground=True, nothreads=True, big_writes=True)
