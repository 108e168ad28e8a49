"""What the job has left in each block that was saved: which of its bytes, and a checksum of them as they are now.

Of a file that others change as well it tells whose a byte is: what the job has not written is theirs, and stays; where
it wrote, and the checksum is another's, both have written. It is put down before the bytes are: whoever is killed in
between has either the bytes that it tells of, or a checksum that is not theirs. After a power cut it may be older than
they are, and is not believed.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

from remoteio.submit.undo.cover import BLOCK

_SUM = struct.Struct("<HHI")
_WHOLE = BLOCK << 16  # what Sum(0, BLOCK, 0) is as one number
_HEAD = 64  # bytes: the boot in which it was begun


class Sum(NamedTuple):
    """The job's bytes of one block: [start, end) of it, and their CRC-32; an end of 0: not known, it may be any."""

    start: int
    end: int
    crc: int

    def packed(self) -> bytes:
        """Write it."""
        return _SUM.pack(*self)

    def is_of(self, block: bytes | bytearray) -> bool:
        """Does that block hold what the job has left?"""
        return 0 < self.end <= len(block) and zlib.crc32(memoryview(block)[self.start : self.end]) == self.crc


UNKNOWN = Sum(0, 0, 0)


def written(start: int, data: memoryview) -> Sum:
    """Sum up a block in which nothing else is the job's."""
    return Sum(start, start + len(data), zlib.crc32(data))


def whole(data: memoryview) -> bytes:
    """Write the sums of blocks of which nothing else is there than `data`; the last may be shorter."""
    # One by one, as `written` does it, they would take longer than to checksum their bytes.
    found = [zlib.crc32(data[at : at + BLOCK]) << 32 | _WHOLE for at in range(0, len(data), BLOCK)]
    if rest := len(data) % BLOCK:
        found[-1] += rest - BLOCK << 16
    return struct.pack("<%dQ" % len(found), *found)


def and_written(old: Sum, start: int, data: memoryview, read: Callable[[int, int], bytes]) -> Sum:
    """The same, where the job had written `old` before; `read`: reads [start, end) of the block as it is."""
    end = start + len(data)
    if not old.end or (start <= old.start and old.end <= end):
        return written(start, data) if old.end else UNKNOWN
    if start == old.end:
        return Sum(old.start, end, zlib.crc32(data, old.crc))
    first, last = min(start, old.start), max(end, old.end)
    both = bytearray(last - first)
    there = read(first, last)
    both[: len(there)] = there
    both[start - first : end - first] = data
    return Sum(first, last, zlib.crc32(both))


class Sums:
    """Keeps those of one segment in the file at `path`. Raises OSError; its user holds a lock."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.pwrite(self._fd, _boot(), 0)
        self._next = 0

    def new(self, count: int) -> int:
        """Take so many, which are not known yet: the first one's number."""
        self._next += count
        return self._next - count

    def put(self, number: int, sums: bytes) -> None:
        """Write some, from that number on."""
        os.pwrite(self._fd, sums, _HEAD + number * _SUM.size)

    def get(self, number: int) -> Sum:
        """Read one."""
        data = os.pread(self._fd, _SUM.size, _HEAD + number * _SUM.size)
        return Sum._make(_SUM.unpack(data)) if len(data) == _SUM.size else UNKNOWN

    def close(self) -> None:
        """Close it; what is in the file stays."""
        os.close(self._fd)


class KnownSums:
    """Reads those of a segment that nobody writes, whose file is at `path`.

    believed   none of them is older than what it tells of
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._map: mmap.mmap | bytes = b""
        try:
            with open(path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except (FileNotFoundError, ValueError):
            pass  # of a version that kept none; or the power was cut before any was on the disk
        self.believed = bytes(self._map[:_HEAD]).rstrip(b"\0") == _boot()

    def of(self, number: int) -> Sum:
        """Read one; UNKNOWN if it is not believed."""
        at = _HEAD + number * _SUM.size
        if not self.believed or number < 0 or at + _SUM.size > len(self._map):
            return UNKNOWN
        return Sum._make(_SUM.unpack_from(self._map, at))

    def sync(self) -> None:
        """Have them on the disk: from then on they are right after a power cut, too."""
        with open(self._path, "rb") as file:
            os.fsync(file.fileno())


def _boot() -> bytes:
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        return file.read().strip()
