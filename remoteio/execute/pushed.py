"""Execute side: contents of files that home has sent before the job asks for them (``wire.pushed``). Pure. Shipped.

Of directories that it has sent (``ahead``, ``leases``) this knows how many there were, and which were of use.

Such a file is under a lease on its contents: it is opened here (``opened``), and what of it has come is read here, for
as long as nobody changes it. Who reads what is on its way waits for it, rather than ask again. What has been given to
the kernel, which keeps it, is kept no longer, nor what is not asked for within UNUSED_S of when it was all here: over
a narrow line a large file takes longer than that. The first time that it is opened the kernel drops its pages of it:
they may be older.

Two programs that open such a file at once, as `make -j2` has compilers do, have the kernel drop what the one has read
as the other's open comes to its end: so what was given last is kept, and given once more.

The caller sees to it that one thread at a time is here (``relay.Relay._order``).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict

from remoteio.execute.counts import Guesses
from remoteio.execute.pace import Pace
from remoteio.wire import fuse_abi as abi
from remoteio.wire.coherence import PUSHED_KEPT

UNUSED_S = 10.0  # seconds
GIVEN_KEPT = 1 << 20  # bytes of what was given last

Waiting = tuple[int, bytes]  # the number of a READ, and it whole


class _File:
    __slots__ = ("at", "begins", "comes", "due", "pieces", "size", "version", "waiting")

    def __init__(self, size: int, due: list[tuple[int, int]], version: bytes, now: float) -> None:
        self.size, self.due, self.version, self.at = size, due, version, now
        self.comes = bool(due)
        self.pieces: dict[int, bytes] = {}  # by their offsets
        self.begins: list[int] = []  # these, in order
        self.waiting: list[Waiting] = []

    def came(self, offset: int, end: int) -> None:
        """Take note that so much of what is due has come."""
        self.due = [
            (end if begin == offset else begin, last) for begin, last in self.due if (begin, last) != (offset, end)
        ]

    def put(self, offset: int, data: bytes) -> None:
        """Keep a piece that has come."""
        if offset not in self.pieces:
            insort(self.begins, offset)
        self.pieces[offset] = data

    def take(self, begin: int) -> bytes:
        """Take a piece away."""
        del self.begins[bisect_left(self.begins, begin)]
        return self.pieces.pop(begin)

    def holds(self, offset: int, end: int, coming: bool) -> list[int] | None:
        """List which pieces have all of that; `coming`: or will have it. None: it is not all here."""
        found = []
        while offset < end:
            at = bisect_right(self.begins, offset) - 1
            begin = self.begins[at] if at >= 0 else -1
            if begin >= 0 and offset < begin + len(self.pieces[begin]):
                found.append(begin)
                offset = begin + len(self.pieces[begin])
                continue
            last = next((last for begin, last in self.due if begin <= offset < last), 0) if coming else 0
            if not last:
                return None
            offset = last
        return found


class _Given:
    """What was given last, by node, offset and size."""

    def __init__(self) -> None:
        self.reads: OrderedDict[tuple[int, int, int], bytes] = OrderedDict()
        self._bytes = 0

    def put(self, read: tuple[int, int, int], data: bytes) -> None:
        self._bytes += len(data) - len(self.reads.pop(read, b""))
        self.reads[read] = data
        while self._bytes > GIVEN_KEPT:
            self._bytes -= len(self.reads.popitem(last=False)[1])

    def lose(self, nodeid: int) -> None:
        for read in [each for each in self.reads if each[0] == nodeid]:
            self._bytes -= len(self.reads.pop(read))


class Pushed:
    """Keeps what has come of files, and how fast it may come (`pace`).

    used      bytes that were given to the kernel
    guesses   how many files and listings came, and were opened or looked into
    released  who waited for what does not come
    to_keep   what has come of versions of files that may be kept: their names, their sizes, offsets, data
    """

    def __init__(self) -> None:
        self.pace = Pace()
        self.used = 0
        self.guesses = Guesses()
        self.released: list[Waiting] = []
        self.to_keep: list[tuple[bytes, int, int, bytes]] = []
        self._files: OrderedDict[int, _File] = OrderedDict()  # by nodeid, the oldest first
        self._listings: dict[int, int] = {}  # nodeid of a directory that nobody has looked into yet -> its bytes
        self._given = _Given()
        self._bytes = self._waiting = 0
        self._came = 0  # bytes of contents and listings
        self._heard = float("-inf")  # when something came

    def next_job(self) -> None:
        """Begin anew with what home may send: what was not used is no reason to send the next job less.

        What is still to come of files does not: home sends for the next job.
        """
        self.used = self.pace.come
        self.pace.anew()
        for nodeid in [each for each, file in self._files.items() if file.waiting]:
            self.changed(nodeid)
        for file in self._files.values():
            file.due = []

    def answered(self, waited: float, now: float) -> int:
        """Take note that home took so long for an answer; return how much it may send."""
        return self.pace.answered(waited, now, self._unused())

    def came(self, size: int, now: float) -> int:
        """Take note that so much came; return how much home may send."""
        self._heard = now
        return self.pace.came(size, now, self._unused() - size)  # which nobody can have used yet

    def more(self, now: float) -> int:
        """Return how much home may send, now that some of it was used."""
        return self.pace.grant(now, self._unused())

    def _unused(self) -> int:
        # while anybody waits for what is to come, more of it is not for nothing; names are small, and not so many
        return 0 if self._waiting else self._came - self.used

    def file(self, nodeid: int, size: int, due: list[tuple[int, int]], now: float, version: bytes = b"") -> None:
        """Take note that a file may be opened that is as long as that, what of it is to come, and how its version is
        called, if it is."""
        self.changed(nodeid)
        if all(0 <= begin < end <= size for begin, end in due):
            self._files[nodeid] = _File(size, due, version, now)
            self.guesses.came += bool(due)

    def data(self, nodeid: int, offset: int, data: bytes) -> list[tuple[int, bytes]]:
        """Keep what a file holds from `offset` on, if that is due; return the answers to who waited for it."""
        file, end = self._files.get(nodeid), offset + len(data)
        self._came += len(data)
        if file is None or not any(begin == offset < end <= last for begin, last in file.due):
            return []
        file.came(offset, end)
        file.at = max(file.at, self._heard)
        file.put(offset, data)
        if file.version:
            self.to_keep.append((file.version, file.size, offset, data))
        self._bytes += len(data)
        waiting, file.waiting = file.waiting, []
        self._waiting -= len(waiting)
        found = []
        for unique, raw in waiting:
            answer = self.read(nodeid, *_asked(raw))
            if answer is None:
                self.waits(nodeid, (unique, raw))
            else:
                found.append((unique, abi.reply(unique, answer)))
        while self._bytes > PUSHED_KEPT:
            self.changed(next(iter(self._files)))
        return found

    def listing(self, nodeid: int, size: int) -> None:
        """Take note that a directory's listing has come in so many bytes."""
        self.guesses.came += nodeid not in self._listings
        self._listings[nodeid] = size
        self._came += size

    def looked(self, nodeid: int) -> None:
        """Take note that the job opens a directory, or looks a name up in it, and is answered here."""
        size = self._listings.pop(nodeid, None)
        if size is not None:
            self.used += size
            self.guesses.right += 1

    def may_open(self, nodeid: int) -> bool:
        """Say whether it may be opened here."""
        return nodeid in self._files

    def opened(self, nodeid: int, here: bool) -> None:
        """Take note that it was opened, `here` or not."""
        self.guesses.right += here and self._files[nodeid].comes

    def version(self, nodeid: int) -> bytes:
        """Return the name of the version of one that may be opened here, if it is known."""
        return self._files[nodeid].version

    def read(self, nodeid: int, offset: int, size: int) -> bytes | None:
        """Take that much from there, or up to the file's end; None: not all of it is here."""
        file = self._files.get(nodeid)
        if file is None or offset >= file.size:
            return None
        end = min(offset + size, file.size)
        found = file.holds(offset, end, False)
        if found is None:
            return self._given.reads.get((nodeid, offset, size))
        self.used += end - offset
        data = b"".join(self._take(file, begin, offset, end) for begin in found)
        self._given.put((nodeid, offset, size), data)
        return data

    def _take(self, file: _File, begin: int, offset: int, end: int) -> bytes:
        piece = file.pieces[begin]
        if offset <= begin and begin + len(piece) <= end:
            self._bytes -= len(file.take(begin))
        return piece[max(offset - begin, 0) : end - begin]

    def waits(self, nodeid: int, waiting: Waiting) -> bool:
        """Put a READ off, if what it asks for is on its way."""
        file = self._files.get(nodeid)
        if file is None or not file.due:
            return False
        offset, size = _asked(waiting[1])
        if offset >= file.size or file.holds(offset, min(offset + size, file.size), True) is None:
            return False
        file.waiting.append(waiting)
        self._waiting += 1
        return True

    def changed(self, nodeid: int) -> None:
        """Forget a file that somebody changes."""
        file = self._files.pop(nodeid, None)
        if file is not None:
            self._bytes -= sum(map(len, file.pieces.values()))
            self._waiting -= len(file.waiting)
            self.released += file.waiting
            self._given.lose(nodeid)

    def expire(self, now: float) -> None:
        """Forget what has not been asked for in time, or does not come."""
        while self._files:
            nodeid, file = next(iter(self._files.items()))
            if (max(file.at, self._heard) if file.due else file.at) + UNUSED_S >= now:
                return
            self.changed(nodeid)

    def clear(self) -> None:
        """Forget all."""
        self._listings.clear()
        for nodeid in list(self._files):
            self.changed(nodeid)


def _asked(raw: bytes) -> tuple[int, int]:
    """From where on a READ asks for how much."""
    _, offset, size, *_ = abi.READ_IN.unpack_from(raw, abi.ARGS)
    return offset, size
