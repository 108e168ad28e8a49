"""Submit side: what the job's kernel got of the pages of a file, so that only what the job changed is written back.

A kernel writes a mapped page back whole. Where a page holds several things, each under a lock of its own (the index of
sqlite's log is such a file), what programs here wrote into it meanwhile would be undone. So each page is compared with
its *twin*, as the job's kernel got it, and only the bytes that differ are written: the multiple-writer protocol of
Munin (Carter, Bennett, Zwaenepoel: Implementation and Performance of Munin, SOSP 1991). Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

PAGE = 4096
MOST = 1 << 20  # bytes from the beginning of a file that have twins
_STEP = 64  # bytes compared at once


class PageTwins:
    """Keeps the twins of one file's pages, and compares with them. Offsets are bytes from the file's beginning."""

    __slots__ = ("_pages",)

    def __init__(self) -> None:
        self._pages: dict[int, bytes] = {}  # by offset; shorter than PAGE: the file ended there

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        return (len(self._pages) + 1) * (PAGE + 128)

    def read(self, offset: int, data: bytes | memoryview) -> None:
        """Keep what the job's kernel gets for pages of its own."""
        for page, start, piece in _pieces(offset, data):
            if start == 0:
                self._pages[page] = bytes(piece)

    def written(self, offset: int, data: bytes | memoryview) -> None:
        """Take note that the job's pages and the file have both got `data`."""
        for page, start, piece in _pieces(offset, data):
            twin = self._pages.get(page)
            if twin is not None:
                end = start + len(piece)
                self._pages[page] = twin[:start].ljust(start, b"\0") + bytes(piece) + twin[end:]
            elif len(piece) == PAGE:
                self._pages[page] = bytes(piece)

    def changed(self, offset: int, data: bytes | memoryview) -> list[tuple[int, bytes]]:
        """Find (offset, bytes) of what the job has changed in `data`, whole pages that its kernel writes back."""
        found = []
        for page, start, piece in _pieces(offset, data):
            new = bytes(piece)
            twin = self._pages.get(page, b"")[start : start + len(new)]
            found += [(page + start + a, new[a:b]) for a, b in _runs(twin, new)]
        self.read(offset, data)
        rest = max(MOST - offset, 0)
        return [*found, (offset + rest, bytes(data[rest:]))] if len(data) > rest else found


def _pieces(offset: int, data: bytes | memoryview) -> Iterator[tuple[int, int, bytes | memoryview]]:
    """(page, start within it, bytes) of `data` at `offset`."""
    at, end = offset, min(offset + len(data), MOST)
    while at < end:
        page = at // PAGE * PAGE
        upto = min(page + PAGE, end)
        yield page, at - page, data[at - offset : upto - offset]
        at = upto


def _runs(old: bytes, new: bytes) -> Iterator[tuple[int, int]]:
    """Where `new` differs from `old`, as [start, end); what `old` has not differs."""
    begin = -1
    for step in range(0, len(new), _STEP):
        if begin < 0 and old[step : step + _STEP] == new[step : step + _STEP]:
            continue
        for k in range(step, min(step + _STEP, len(new))):
            differs = k >= len(old) or old[k] != new[k]
            if differs and begin < 0:
                begin = k
            elif not differs and begin >= 0:
                yield begin, k
                begin = -1
    if begin >= 0:
        yield begin, len(new)
