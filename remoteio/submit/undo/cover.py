"""Which bytes of one file must be saved before the job changes it. Pure.

Bytes that the job itself has put there since the moment need not be. As long as nobody else changes the file these are
all behind its size as it was then, so that a file that only grows costs one comparison at each write.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from remoteio.submit.undo.ranges import Ranges

State = tuple[int, int]  # size in bytes and mtime in ns: whoever changes the contents changes one of them
BLOCK = 4096  # bytes saved at once, as a filesystem can share them


class Cover:
    """Knows of one file since one moment.

    upto     bytes from its beginning that must be saved before they are overwritten, but for `saved`
    run      where what the job has added begins; others' bytes are before it
    last     how the job has left it
    others   have they changed it since the job's first change?
    """

    __slots__ = ("_bases", "_ends", "_starts", "last", "others", "run", "saved", "upto")

    def __init__(self, size: int, last: State) -> None:
        """`size`: of it, at the moment: 0 of a file that the job has made since."""
        self.upto = self.run = size
        self.last = last
        self.saved = Ranges()
        self.others = False
        self._starts: list[int] = []  # of what is saved and has sums, in order
        self._ends: list[int] = []
        self._bases: list[int] = []  # where each one's sums begin (sums.py)

    def foreign(self, now: State) -> tuple[int, int]:
        """Take note that others have made it what it is now: (start, end) of what the job had added; it may be empty.

        What is there now may be theirs, and so is saved from here on, once more where it was before.
        """
        run = (self.run, max(self.last[0], self.run))
        self.others = True
        self.run, self.last = now[0], now
        self.upto = max(self.upto, now[0])
        self.saved = Ranges()
        self._starts, self._ends, self._bases = [], [], []
        return run

    def needs(self, start: int, end: int) -> list[tuple[int, int]]:
        """List what must be saved before [start, end) is changed, in whole blocks; it is taken for saved then."""
        end = min(end, self.upto)
        if start >= end:
            return []
        start, end = start // BLOCK * BLOCK, min(-(-end // BLOCK) * BLOCK, self.upto)
        found = self.saved.missing(start, end)
        if found:
            self.saved.add(start, end)
        return found

    def summed(self, start: int, end: int, base: int) -> None:
        """Take note that the sums of [start, end), which is saved now, begin with number `base`."""
        at = bisect_left(self._starts, start)
        if at and self._ends[at - 1] == start and self._bases[at - 1] + (start - self._starts[at - 1]) // BLOCK == base:
            self._ends[at - 1] = end
            return
        self._starts.insert(at, start)
        self._ends.insert(at, end)
        self._bases.insert(at, base)

    def sums(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """List (start, end, number of its first sum) of the blocks in which [start, end) lies, in order."""
        start, end = start // BLOCK * BLOCK, min(-(-end // BLOCK) * BLOCK, self.upto)
        at = bisect_right(self._ends, start)
        while at < len(self._starts) and self._starts[at] < end:
            first = max(start, self._starts[at])
            yield first, min(self._ends[at], end), self._bases[at] + (first - self._starts[at]) // BLOCK
            at += 1
