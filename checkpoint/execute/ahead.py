"""Pages of a process that criu need not read: what was not written is read ahead, what lies alone at once. Shipped.

An image has windows by their hash, so of one that has changed all pages are needed. criu would read them while the tree
stands still, 16 pages for one that was written. So those that were not written are read while it runs. That counts only
for pages of which the kernel says then, as it stands still, that they have still not been written: they hold what they
held. And criu writes what lies in a row by a request each, which is two changes from one process to another. So those
that were written, and lie alone, are read here as soon as the tree stands still.
"""

from __future__ import annotations

import os
from io import BytesIO

from checkpoint.execute.chunker import pagemap
from checkpoint.execute.page_ranges import Ranges, joined
from checkpoint.execute.spool import Spool, SpooledFile
from checkpoint.wire.manifest import PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Piece = tuple[int, int, SpooledFile, int]  # address, length; where they are

_AT_ONCE = 1 << 20


class Ahead:
    """Pages of one process, in the spool.

    pages  which: ranges of addresses
    """

    __slots__ = ("_file", "_offsets", "pages")

    def __init__(self) -> None:
        self.pages: Ranges = []
        self._offsets: list[tuple[int, int, int]] = []  # start, end; where in the file
        self._file = SpooledFile()

    def read(self, spool: Spool, read: Callable[[memoryview, int], bool], ranges: Ranges) -> None:
        """Read these pages; `read` fills room from an address on, or says that it cannot. Raises OSError."""
        buffer = memoryview(bytearray(_AT_ONCE))
        filled = 0
        for start, stop in ranges:
            for at in range(start, stop, _AT_ONCE):
                end = min(at + _AT_ONCE, stop)
                if filled + end - at > _AT_ONCE:
                    filled = self._put(spool, buffer[:filled])
                if read(buffer[filled : filled + end - at], at):
                    self._offsets.append((at, end, self._file.size + filled))
                    filled += end - at
        self._put(spool, buffer[:filled])
        self.pages = joined((start, end) for start, end, _ in self._offsets)

    def _put(self, spool: Spool, data: memoryview) -> int:
        spool.put(self._file, data, self._file.size)
        return 0

    def pieces(self, ranges: Ranges) -> Iterator[Piece]:
        """Say where these of its pages are."""
        at = 0
        for start, end, offset in self._offsets:
            while at < len(ranges) and ranges[at][1] <= start:
                at += 1
            look = at
            while look < len(ranges) and ranges[look][0] < end:
                first, last = max(start, ranges[look][0]), min(end, ranges[look][1])
                yield first, last - first, self._file, offset + first - start
                look += 1


def fill_in(spool: Spool, name: str, more: Iterable[Piece]) -> None:
    """Put these into the page image of criu's pagemap `name`, which has no other of their pages.

    Nothing is copied: they lie in the spool. Raises OSError, ChunkerError.
    """
    runs = pagemap(BytesIO(spool.read(name)))
    _, number = next(runs)
    image = "pages-%d.img" % number
    pieces = list(more)
    criu, offset = spool.file(image), 0
    for address, count in runs:
        pieces.append((address, count * PAGE, criu, offset))
        offset += count * PAGE
    pieces.sort(key=lambda piece: piece[0])
    whole = SpooledFile()
    for _, length, file, offset in pieces:
        begin = whole.size
        for start, place, size in file.within(offset, length):
            whole.put(begin + start - offset, place, size)
        whole.resize(begin + length)
    spool.take(image, whole)


def of(memory: int) -> Callable[[memoryview, int], bool]:
    """Read from a process, of which /proc/PID/mem is open."""

    def read(room: memoryview, at: int) -> bool:
        try:
            return os.preadv(memory, [room], at) == len(room)
        except OSError:
            return False  # it is not there any more

    return read
