"""An image's files on this host, encrypted, in one file without a name. Shipped.

What criu writes, and what it reads, is all of a job's memory. On the disk it lies encrypted, with a key that nobody
but this process has: once that has ended, nobody can read it any more, and the kernel removes it, as it has no name.

No byte of the file is written twice: what is changed goes to its end, and the place of each part of an image's file is
kept in memory. So one key with one counter does, the place in the file.
"""

from __future__ import annotations

import errno
import os
import threading
from bisect import bisect_right

from checkpoint.execute.cipher import Cipher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class SpooledFile:
    """One file of an image: which part of it lies where. What lies nowhere is zeros.

    starts    offsets of its parts, in order; no two overlap
    parts     (place in the spool, length) of each
    size      bytes
    by_pages  it is read a page at a time
    """

    __slots__ = ("by_pages", "parts", "size", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.parts: list[tuple[int, int]] = []
        self.size = 0
        self.by_pages = False

    def put(self, offset: int, place: int, length: int) -> None:
        """Have the bytes from `offset` on lie at `place`, whatever was there."""
        if offset < self.size:
            self._clear(offset, offset + length)
        at = bisect_right(self.starts, offset)
        if at and self._joins(at - 1, offset, place):
            before, size = self.parts[at - 1]
            self.parts[at - 1] = (before, size + length)
        else:
            self.starts.insert(at, offset)
            self.parts.insert(at, (place, length))
        self.size = max(self.size, offset + length)

    def _joins(self, number: int, offset: int, place: int) -> bool:
        before, length = self.parts[number]
        return self.starts[number] + length == offset and before + length == place

    def _clear(self, start: int, end: int) -> None:
        """Let go of the parts between two offsets."""
        first = max(bisect_right(self.starts, start) - 1, 0)
        last = bisect_right(self.starts, end)
        starts, parts = [], []
        for offset, (place, length) in zip(self.starts[first:last], self.parts[first:last]):
            if offset < start:
                starts.append(offset)
                parts.append((place, min(length, start - offset)))
            over = max(offset, end)
            if offset + length > over:
                starts.append(over)
                parts.append((place + over - offset, offset + length - over))
        self.starts[first:last], self.parts[first:last] = starts, parts

    def resize(self, size: int) -> None:
        """Make it longer, with zeros, or cut it off."""
        if size < self.size:
            self._clear(size, self.size)
        self.size = size

    def within(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Yield (offset, place, length) of what lies anywhere of the bytes from `offset` on."""
        end = min(offset + length, self.size)
        at = max(bisect_right(self.starts, offset) - 1, 0)
        while at < len(self.starts) and self.starts[at] < end:
            start, (place, size) = self.starts[at], self.parts[at]
            first, last = max(start, offset), min(start + size, end)
            if first < last:
                yield first, place + first - start, last - first
            at += 1


class Spool:
    """The files of an image by their names.

    Threads: any; what two of them write to one file at once lies there in either order.
    """

    def __init__(self, beneath: str, cipher: Cipher | None) -> None:
        """`beneath`: a directory of the filesystem in which it lies; `cipher`: None: it is not encrypted.

        Raises OSError.
        """
        try:
            self._fd = os.open(beneath, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:  # a filesystem that makes none without a name: NFS, older ones
            import tempfile

            self._fd, name = tempfile.mkstemp(dir=beneath)
            os.unlink(name)
        self._cipher = cipher
        self._lock = threading.Lock()
        self._end = 0
        self._holders = 1
        self.files: dict[str, SpooledFile] = {}

    def names(self) -> list[str]:
        """List the files, sorted."""
        with self._lock:
            return sorted(self.files)

    def size(self) -> int:
        """Count the bytes of all files."""
        with self._lock:
            return sum(file.size for file in self.files.values())

    def make(self, name: str) -> SpooledFile:
        """Make an empty file, in place of one of that name."""
        file = SpooledFile()
        self.take(name, file)
        return file

    def file(self, name: str) -> SpooledFile:
        """Find a file. Raises FileNotFoundError."""
        try:
            return self.files[name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "the image has no such file", name) from None

    def read(self, name: str) -> bytes:
        """Read all of a file. Raises OSError."""
        file = self.file(name)
        out = bytearray(file.size)
        self.fill(file, memoryview(out), 0)
        return bytes(out)

    def write(self, name: str, data: bytes) -> None:
        """Write a file anew. Raises OSError."""
        file = SpooledFile()
        self.put(file, memoryview(bytearray(data)), 0)
        self.take(name, file)

    def take(self, name: str, file: SpooledFile) -> None:
        """Have that file, whose parts lie here, be the one of that name."""
        with self._lock:
            self.files[name] = file

    def put(self, file: SpooledFile, data: memoryview, offset: int) -> None:
        """Write to a file from `offset` on. `data`, which can be written to, is something else afterwards.

        Raises OSError.
        """
        if data:
            self.keep(data, self.reserve(file, offset, len(data)))

    def reserve(self, file: SpooledFile, offset: int, length: int) -> int:
        """Have what is given to `keep` next be the bytes of a file from `offset` on; returns their place."""
        with self._lock:
            place = self._end
            self._end += length
            file.put(offset, place, length)
        return place

    def keep(self, data: memoryview, place: int) -> None:
        """Write what that place is reserved for; `data` is something else afterwards. Raises OSError."""
        if self._cipher is not None:
            self._cipher.apply(data, place)
        done = 0
        while done < len(data):
            done += os.pwrite(self._fd, data[done:], place + done)

    def fill(self, file: SpooledFile, room: memoryview, offset: int) -> int:
        """Read from `offset` on into `room`; returns the bytes read, fewer only at the file's end. Raises OSError."""
        with self._lock:
            size = max(0, min(len(room), file.size - offset))
            parts = list(file.within(offset, size))
        at = offset
        for start, place, length in parts:
            room[at - offset : start - offset] = bytes(start - at)
            self._read(room[start - offset : start - offset + length], place)
            at = start + length
        room[at - offset : size] = bytes(offset + size - at)
        return size

    def _read(self, room: memoryview, place: int) -> None:
        done = 0
        while done < len(room):
            count = os.preadv(self._fd, [room[done:]], place + done)
            if not count:
                raise OSError(errno.EIO, "the image's file on this host was cut short")
            done += count
        if self._cipher is not None:
            self._cipher.apply(room, place)

    def fileno(self) -> int:
        """Return the descriptor of what lies on the disk."""
        return self._fd

    def hold(self) -> None:
        """Keep it until there was one ``close`` more."""
        with self._lock:
            self._holders += 1

    def close(self) -> None:
        """Remove it, and its key with it, when all who hold it have called this."""
        with self._lock:
            self._holders -= 1
            last = not self._holders
        if last:
            os.close(self._fd)
            if self._cipher is not None:
                self._cipher.forget()
