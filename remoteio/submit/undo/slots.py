"""How the job has left each file since a moment: a row a file, in a file that is mapped.

What is put there costs no system call, and is there still when this process is killed. After a power cut it may be
older than the file, which then looks as if others had changed it, and is treated so.
"""

from __future__ import annotations

import mmap
import os
import struct

from remoteio.submit.undo.cover import Cover

LEFT = struct.Struct("<QqQQ")  # of a row, what each change of the file changes, from LEFT_AT on
END = struct.Struct("<Q")  # the last of that
LEFT_AT, END_AT = 16, 40
_ROW = struct.Struct("<QQQqQQQ")  # device, inode number, size, mtime_ns, run, end of the write under way, flags
_BORN = struct.Struct("<Q")  # when the file was made; behind that
_SIZE = _ROW.size + _BORN.size
_ROWS = 4096  # in one mapping
_KNOWN, _OTHERS = 1, 2
Key = tuple[int, int]  # device, inode number


class Slot:
    """Reads one row.

    key     the file: device, inode number
    born    when it was made: see births.py
    last    how the job has left it
    run     where what the job added last begins
    end     how long the file is at most, once the write that is under way is done
    known   is there anything in the row?
    others  have they changed it since the job's first change?
    """

    __slots__ = ("born", "end", "key", "known", "last", "others", "run")

    def __init__(self, row: bytes) -> None:
        dev, ino, size, mtime_ns, self.run, self.end, flags = _ROW.unpack_from(row)
        self.key, self.last = (dev, ino), (size, mtime_ns)
        (self.born,) = _BORN.unpack_from(row, _ROW.size)
        self.known, self.others = bool(flags & _KNOWN), bool(flags & _OTHERS)


class Slots:
    """Keeps the rows of one moment in the file at `path`. Raises OSError. `new` is called under a lock."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._maps: list[mmap.mmap] = []
        self._next = 0

    def new(self) -> int:
        """Take the next row."""
        if self._next == len(self._maps) * _ROWS:
            size = _ROWS * _SIZE
            start = len(self._maps) * size
            os.posix_fallocate(self._fd, start, size)  # a page that the disk has no room for would end this process
            self._maps.append(mmap.mmap(self._fd, size, offset=start))
        self._next += 1
        return self._next - 1

    def put(self, slot: int, key: Key, cover: Cover, end: int = 0) -> None:
        """Write a row; `end`: see Slot."""
        flags = _KNOWN | (_OTHERS if cover.others else 0)
        size, mtime_ns = cover.last
        at = self._maps[slot // _ROWS], slot % _ROWS * _SIZE
        _ROW.pack_into(*at, *key, size, mtime_ns, cover.run, end, flags)

    def mark(self, slot: int, born: int) -> None:
        """Write down when the file of a row was made."""
        _BORN.pack_into(self._maps[slot // _ROWS], slot % _ROWS * _SIZE + _ROW.size, born)

    def place(self, slot: int) -> tuple[mmap.mmap, int]:
        """Say where a row is: for who writes it often."""
        return self._maps[slot // _ROWS], slot % _ROWS * _SIZE

    def close(self) -> None:
        """Close it; the rows stay in the file."""
        for each in self._maps:
            each.close()
        os.close(self._fd)


def read(path: str) -> list[Slot]:
    """Read all rows. Raises OSError."""
    with open(path, "rb") as file:
        data = file.read()
    return [Slot(data[at : at + _SIZE]) for at in range(0, len(data) // _SIZE * _SIZE, _SIZE)]
