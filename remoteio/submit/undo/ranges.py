"""Sets of bytes of one file. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right


class Ranges:
    """Holds disjoint ranges [start, end) in order."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __iter__(self) -> zip[tuple[int, int]]:
        return zip(self._starts, self._ends)

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """List what of [start, end) is in none of them."""
        found = []
        at = bisect_right(self._ends, start)
        while start < end:
            if at == len(self._starts) or self._starts[at] >= end:
                found.append((start, end))
                break
            if start < self._starts[at]:
                found.append((start, self._starts[at]))
            start = self._ends[at]
            at += 1
        return found

    def add(self, start: int, end: int) -> None:
        """Take [start, end) in."""
        if start >= end:
            return
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last], self._ends[first:last] = [start], [end]
