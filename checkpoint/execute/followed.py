"""The job's processes whose writes are followed from one image to the next, so that an image is made of what changed.

For each such process is kept what its pages were in the last image: where, and the hashes of the store's chunks. In the
next dump criu is not told of the pages of a window that holds what it held (page_scans.py): they are not read, and the
image names their chunk by that hash.

::

    look        before a dump, the tree runs: new processes get a userfaultfd; of the others, what will be needed of
                windows that have changed is read (ahead.py)
    left_out    criu asks, the tree stands still: what was written is found out, and all is protected again, before any
                page is read
    whole       criu's pagemap, with the pages that it was not told of
    committed   the store has the image: it is the last one. Else, at the next look, the one before is that still, and
                of what was not written up to here the kernel says whether it has been since

**Never an old page.** A page is left out only if the kernel says that it is followed, and was not written, each time
since it was in an image that was committed, which was made of the memory as it was when the page was protected. All
else, and whatever fails here, is dumped as ever. Shipped.
"""

from __future__ import annotations

import os
from io import BytesIO

from checkpoint.execute import ahead, preflight, waits, written_pages
from checkpoint.execute.chunker import ChunkerError, Known, pagemap, with_pages
from checkpoint.execute.page_ranges import Ranges, add, joined, shared, unchanged, windows, within, without
from checkpoint.execute.spool import Spool
from checkpoint.wire.manifest import ENTRY, PAGE, WINDOW

LEAST = 16 << 20  # bytes of anonymous memory of a process: for less it is not stopped an extra time


class _Last:
    """What the last image has of a process: its pages, and the rows of the table of chunks."""

    __slots__ = ("present", "rows")

    def __init__(self, present: Ranges, rows: bytes) -> None:
        self.present, self.rows = present, rows


class Process:
    """What is known of the pages of one process; no I/O but on criu's images.

    asked     in this dump criu has asked for them
    before    what was in the last image when this dump began; None: not known
    left_out  those of which criu was not told in this dump, as their windows are as they were
    filled    those of which it was not told, as they are in `ahead` or `still`
    ahead     pages that were read before the tree stood still
    still     pages that were read since
    """

    def __init__(self) -> None:
        self.before: _Last | None = None
        self._last: _Last | None = None
        self._since: Ranges | None = None  # not written from it to the last dump; None: that made it
        self._clean: Ranges | None = None  # not written from it to this dump; None: that is not known yet
        self.begin()

    def begin(self) -> None:
        """Begin another dump; if the one before was not committed, from what was known in it."""
        if self.before is not None and self._clean is not None:
            self._last, self._since = self.before, self._clean
        self.asked = False
        self.before = self._clean = None
        self.left_out: Ranges = []
        self.filled: Ranges = []
        self.ahead, self.still = ahead.Ahead(), ahead.Ahead()
        self._told: Ranges = []

    def beside(self, clean: Ranges) -> Ranges:
        """List the pages that were not written, of windows in which others were; `clean`: as for `not_written`."""
        if self._last is None:
            return []
        kept = shared(self._last.present, self._since_last(clean))
        return shared(windows(without(self._last.present, kept)), kept)

    def _since_last(self, clean: Ranges) -> Ranges:
        return clean if self._since is None else shared(clean, self._since)

    def ask(self) -> None:
        """Take it down that criu asks: from now on, until `not_written`, nothing is known of any image."""
        self.asked, self.before, self._last = True, self._last, None

    def not_written(self, clean: Ranges) -> None:
        """Take it down which pages were not written since all were protected, which they are again."""
        self._clean = self._since_last(clean)

    def alone(self, followed: Ranges, clean: Ranges) -> Ranges:
        """List the followed pages of the last image that were written, and are less than a window in a row."""
        if self.before is None:
            return []
        written = without(shared(self.before.present, followed), self._since_last(clean))
        return [(start, end) for start, end in written if end - start < WINDOW]

    def forget(self) -> None:
        """Have the next image be of all memory, if this one is not committed."""
        self.before = None

    def leave_out(self, present: Ranges, start: int, end: int) -> Ranges:
        """Decide about the pages that are there, from `start` to `end`: those of which criu is not told.

        criu asks for some pages twice (as it reads on behind a mapping, and as those of the next), but dumps them by
        one of the answers: what it was told once it is told again, and the other way round.
        """
        if self.before is None:
            return []
        clean = self._clean or []
        held = shared(within(self.ahead.pages, start, end), within(clean, start, end))
        read = shared(present, joined(held + within(self.still.pages, start, end)))
        add(self.filled, without(without(read, within(self.left_out, start, end)), within(self._told, start, end)))
        found = unchanged(present, clean, self.before.present, start, end)
        mixed = joined(within(self._told, start, end) + within(self.filled, start, end))
        add(self.left_out, without(found, windows(mixed)))
        answer = shared(present, joined(within(self.left_out, start, end) + within(self.filled, start, end)))
        add(self._told, without(present, answer))
        return answer

    def whole(self, spool: Spool, name: str, pid: int) -> Known | None:
        """Put what was left out into the pagemap `name` of criu; the chunks that it makes up; None: there are none.

        `pid`: as for Known. Raises OSError, ChunkerError.
        """
        if self.before is None:
            return None
        if self.filled:
            still, others = shared(self.filled, self.still.pages), without(self.filled, self.still.pages)
            ahead.fill_in(spool, name, [*self.still.pieces(still), *self.ahead.pieces(others)])
        if self.left_out or self.filled:
            spool.write(name, with_pages(spool.read(name), joined(self.left_out + self.filled)))
        if not self.left_out:
            return None
        return Known(_chunks(self.before.rows, self.left_out), self.left_out, pid)

    def committed(self, spool: Spool, name: str, rows: bytes) -> None:
        """Take the image with that pagemap for the last one; `rows`: the table of its page image.

        Raises OSError, ChunkerError.
        """
        runs = pagemap(BytesIO(spool.read(name)))
        next(runs)
        spans = [(address, address + pages * PAGE) for address, pages in runs]
        self.before = None
        if self.asked and spans == sorted(spans):
            self._last, self._since = _Last(joined(spans), rows), None


class _Followed:
    """A process of the job: its number on this host, its userfaultfd.

    areas  its private anonymous mappings in the dump under way; None: not looked at yet
    """

    __slots__ = ("areas", "pages", "pid", "uffd")

    def __init__(self, pid: int, uffd: int) -> None:
        self.pid, self.uffd, self.pages = pid, uffd, Process()
        self.areas: Ranges | None = None

    def begin(self, spool: Spool) -> None:
        """Begin another dump, into that spool."""
        self.pages.begin()
        self.areas = None
        try:
            with open("/proc/%d/pagemap" % self.pid, "rb", 0) as pages:
                clean, _ = written_pages.clean(pages.fileno())
            with open("/proc/%d/mem" % self.pid, "rb", 0) as memory:
                self.pages.ahead.read(spool, ahead.of(memory.fileno()), self.pages.beside(clean))
        except OSError:
            self.pages.ahead = ahead.Ahead()  # it has ended, or the disk is full: criu reads what there is


class Followed:
    """Those of one job, by their numbers in it.

    Threads: `left_out` is called by that of page_scans.Answers, between the calls of the thread that dumps.
    """

    def __init__(self) -> None:
        self._processes: dict[int, _Followed] = {}
        self._supported: bool | None = None
        self._spool: Spool | None = None  # of the dump that is under way

    def look(self, root: int, spool: Spool) -> bool:
        """Begin a dump of the tree of that process, which runs or stands; whether criu is to be answered in it.

        Raises OSError.
        """
        self._spool = spool
        if self._supported is None:
            self._supported = written_pages.supported()
        numbers = {number: int(pid) for pid, number in preflight.numbers(root).items()} if self._supported else {}
        for number, process in list(self._processes.items()):
            if numbers.get(number) != process.pid or not written_pages.lives(process.uffd):
                os.close(self._processes.pop(number).uffd)
            else:
                process.begin(spool)
        for number, pid in numbers.items():
            anonymous, filtered = _status(pid)
            if filtered:
                return False  # a criu that has a filter cannot lift the job's (PTRACE_O_SUSPEND_SECCOMP)
            if number not in self._processes and anonymous >= LEAST and _may_be_stopped(pid):
                uffd = _obtained(pid)
                if uffd is not None:
                    self._processes[number] = _Followed(pid, uffd)
        return bool(self._processes)

    def anonymous(self, number: int, start: int, end: int) -> bool:
        """Tell whether all from `start` to `end` is private anonymous memory; the tree stands still. Raises OSError."""
        process = self._processes.get(number)
        return process is not None and not without([(start, end)], within(_areas(process), start, end))

    def left_out(self, number: int, pagemap: int, present: Ranges, start: int, end: int) -> Ranges:
        """Return which of the pages that are there, from `start` to `end`, are as in the last image: as LeftOut.

        `pagemap`: the process's, open. Raises OSError.
        """
        process = self._processes.get(number)
        if process is None or self._spool is None:
            return []
        if not process.pages.asked:
            process.pages.ask()
            clean, marked = written_pages.clean(pagemap)
            areas = _areas(process)
            written = written_pages.protect(process.uffd, pagemap, areas, marked)
            followed = joined(areas)
            kept = without(shared(clean, followed), written)
            with open("/proc/%d/mem" % process.pid, "rb", 0) as memory:
                alone = process.pages.alone(followed, kept)
                process.pages.still.read(self._spool, ahead.of(memory.fileno()), alone)
            process.pages.not_written(kept)
        return process.pages.leave_out(present, start, end)

    def size(self) -> int:
        """Count the bytes of the image that are in none of the spool's files until it is `whole`."""
        pages = [process.pages for process in self._processes.values()]
        return sum(end - start for each in pages for start, end in each.left_out + each.filled)

    def whole(self, spool: Spool, leaves: bool) -> dict[str, Known]:
        """Put what was left out into criu's pagemaps in the spool; by the names of those, the chunks it makes up.

        leaves: the tree stands still until the image is committed, and what the store lacks after all is read from it.

        Raises OSError, ChunkerError.
        """
        out = {}
        for number, process in self._processes.items():
            name = _pagemap(number)
            known = process.pages.whole(spool, name, process.pid if leaves else 0)
            if known is not None:
                out[name] = known
        return out

    def forget(self) -> None:
        """Have the next image be of all memory, as the store has not what it was thought to have."""
        for process in self._processes.values():
            process.pages.forget()

    def committed(self, spool: Spool, rows: dict[str, bytes]) -> None:
        """Take the image in the spool for the last one. `rows`: the tables of its page images, by their pagemaps."""
        try:
            for number, process in self._processes.items():
                if _pagemap(number) in rows:
                    process.pages.committed(spool, _pagemap(number), rows[_pagemap(number)])
        except (ChunkerError, OSError):
            self.forget()  # it is committed all the same


def _areas(process: _Followed) -> Ranges:
    if process.areas is None:
        process.areas = written_pages.areas(process.pid)
    return process.areas


def _pagemap(number: int) -> str:
    return "pagemap-%d.img" % number


def _chunks(rows: bytes, ranges: Ranges) -> dict[int, tuple[int, bytes]]:
    """Map the windows that are in `ranges` to the lengths and hashes of their chunks."""
    out = {}
    at = 0
    for key, length, digest in ENTRY.iter_unpack(rows):
        while at < len(ranges) and ranges[at][1] <= key * WINDOW:
            at += 1
        if at < len(ranges) and ranges[at][0] < (key + 1) * WINDOW:
            out[key] = length, digest
    return out


def _status(pid: int) -> tuple[int, bool]:
    """Bytes of anonymous memory, and whether seccomp restricts it; what has ended has none."""
    anonymous, filtered = 0, False
    try:
        with open("/proc/%d/status" % pid) as f:
            for line in f:
                if line.startswith("RssAnon:"):
                    anonymous = int(line.split()[1]) * 1024
                elif line.startswith("Seccomp:"):
                    filtered = line.split()[1] != "0"
    except (FileNotFoundError, ProcessLookupError):
        return 0, False
    return anonymous, filtered


def _may_be_stopped(pid: int) -> bool:
    """Whether each of its threads runs, or sleeps where it can be interrupted."""
    try:
        for at in waits.threads(pid):
            with open(at + "/stat") as f:
                if f.read().rpartition(")")[2].split()[0] not in "RS":
                    return False
    except (FileNotFoundError, ProcessLookupError):
        return False
    return True


def _obtained(pid: int) -> int | None:
    try:
        return written_pages.obtain(pid)
    except OSError:
        return None  # it has ended, or may not be traced
