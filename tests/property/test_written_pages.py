"""No page that was written is taken for unchanged, by a kernel before 6.13 either: its mremap(2) keeps pages' marks."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint.execute import written_pages
from checkpoint.wire.manifest import PAGE

PAGES, HALF = 8, 4
MEMORY = [(0, HALF * PAGE), (HALF * PAGE, PAGES * PAGE)]  # two mappings
_REGISTER, _UNPROTECT, _FOLLOWED, _WRITTEN, _MATCHING = 0xC020AA00, 0xC018AA06, 1, 2, 1  # linux/userfaultfd.h, fs.h


class Kernel:
    """What Linux 6.7 to 6.12 notes of pages: mark, pte_uffd_wp(); free, whether a write goes without a fault."""

    def __init__(self) -> None:
        self.followed, self.mark, self.free = [False] * PAGES, [False] * PAGES, [True] * PAGES

    def write(self, page: int) -> None:
        if not self.free[page]:
            self.free[page] = True
            self.mark[page] = self.mark[page] and not self.followed[page]  # wp_page_reuse() leaves it

    def move(self, mapping: int) -> None:
        """Move a mapping to another address, and back: it loses what follows it."""
        self.followed[mapping * HALF : (mapping + 1) * HALF] = [False] * HALF

    def ioctl(self, _: int, request: int, raw: bytearray) -> int:
        if request == written_pages.PAGEMAP_SCAN:
            return self._scan(raw)
        start, size = written_pages._REGISTER_FIELDS.unpack_from(raw.ljust(32))[:2]
        for page in range(start // PAGE, (start + size) // PAGE):
            if request == _REGISTER:
                self.followed[page] = True
            else:
                assert request == _UNPROTECT
                assert self.followed[page]
                self.mark[page], self.free[page] = False, True
        return 0

    def _scan(self, raw: bytearray) -> int:
        fields = list(written_pages.SCAN.unpack(raw))
        _, flags, start, end, _, place, room, _, inverted, mask, _, told = fields
        rows = []
        for page in range(start // PAGE, min(end // PAGE, PAGES)):
            what = self.followed[page] * _FOLLOWED + (not self.mark[page]) * _WRITTEN
            if (what ^ inverted) & mask == mask:
                rows.append((page * PAGE, page * PAGE + PAGE, what & told))
                if flags & _MATCHING:
                    if not self.followed[page]:
                        raise OSError(errno.EPERM, "it is not followed")
                    self.mark[page], self.free[page] = True, False
        assert len(rows) <= room
        for i, row in enumerate(rows):
            target = (written_pages.ctypes.c_char * 24).from_address(place + 24 * i)
            target.raw = written_pages.REGION.pack(*row)
        fields[written_pages.WALK_END] = end
        raw[:] = written_pages.SCAN.pack(*fields)
        return len(rows)


steps = st.tuples(st.just("write"), st.integers(0, PAGES - 1)) | st.tuples(st.just("move"), st.integers(0, 1))


@given(st.lists(st.lists(steps, max_size=4), max_size=6))
def test_no_page_that_was_written_is_unchanged(between: list[list[tuple[str, int]]]) -> None:
    kernel = Kernel()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(written_pages, "fcntl", SimpleNamespace(ioctl=kernel.ioctl))
        for number, done in enumerate([[], *between, [], []]):
            written = set()
            for what, which in done:
                getattr(kernel, what)(which)
                if what == "write":
                    written.add(which)
            clean, marked = written_pages.clean(0)
            unchanged = {page for start, end in clean for page in range(start // PAGE, end // PAGE)}
            assert not unchanged & written
            written_pages.protect(0, 0, MEMORY, marked)
            assert number <= len(between) or len(unchanged) == PAGES, "what nobody writes is followed again"
