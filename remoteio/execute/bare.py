"""Execute side: whether a program is given listings that have no attributes of files. Pure. Shipped.

A listing under a lease has the attributes that hold, and is of all other files a name alone (``leases``). Most programs
look at few of them: `find` at none, a python at those that it imports. Who looks at all, as `ls -l` and `du` do, asks
for them in an order of the listing's: as it lists them, by their names, or by their inode numbers. So what counts are
names in a row, each right behind the one before in one of these, and no file opened meanwhile, as a python does with
each module; for who walks a tree, whose directories may have one file each, the first of a directory as well.

It is counted for each thread, as who comes after it may be another program: one that has asked for BARE_ASKED in a row
is given no such listing any more, and nobody is of that directory, but for who opened it last and read nothing of it.
"""

from __future__ import annotations

from collections import OrderedDict

from remoteio.wire import fuse_abi as abi
from remoteio.wire.coherence import BARE_ASKED, KNOWN_DIRECTORIES, KNOWN_OPENED
from remoteio.wire.listed import ENTRY_SIZE, Entries

_ORDERS = 3
_OF_THREAD = frozenset((abi.LOOKUP, abi.OPEN, abi.OPENDIR, abi.READDIRPLUS))


class _Given:
    __slots__ = ("_entries", "_found", "_ranks", "last", "until")

    def __init__(self, entries: bytes, found: Entries, until: float) -> None:
        self._entries, self._found, self.until = entries, found, until
        self._ranks: dict[bytes, list[int]] = {}  # name -> its place in each order
        self.last: list[int] = []  # those of the name that was asked for last

    def ranks(self, name: bytes) -> list[int] | None:
        """The places of a name among those that were given alone; None: it is none of these."""
        if self._found:
            alone = []
            for start, _, nodeid, each, _, _ in self._found:
                if not nodeid and each not in (b".", b".."):
                    alone.append((each, abi.DIRENT.unpack_from(self._entries, start + ENTRY_SIZE)[0]))
            self._entries, self._found = b"", []
            self._ranks = {each: [0] * _ORDERS for each, _ in alone}
            for order, names in enumerate((alone, sorted(alone), sorted(alone, key=lambda its: its[1]))):
                for rank, (each, _) in enumerate(names):
                    self._ranks[each][order] = rank
        return self._ranks.get(name)


class Bare:
    """Knows for whom listings without attributes of files will do.

    thread  whose request is being answered
    unread  directories of which they do for all: nothing of these was read when they were opened last
    by_kernel  handles of directories that the kernel has kept (``kept_listings``): they may be read, unseen
    """

    def __init__(self) -> None:
        self.thread = 0
        self.unread: set[int] = set()
        self.by_kernel: set[int] = set()
        self._unwanted: set[int] = set()  # directories of which they will not do
        self._given: OrderedDict[int, _Given] = OrderedDict()  # by the directory, the oldest first
        self._hits: dict[int, int] = {}  # thread -> names in a row

    def of(self, op: int, request: bytes | memoryview) -> None:
        """Take note whose request is to be answered."""
        if op in _OF_THREAD:
            self.thread = abi.IN_HEADER.unpack_from(request)[6]

    def given(self, nodeid: int, entries: bytes, found: Entries, until: float) -> None:
        """Take note that the job is given such a listing, and until when who asks for a name there has it from that."""
        self._given.pop(nodeid, None)
        while len(self._given) >= KNOWN_DIRECTORIES:
            self._given.popitem(last=False)
        self._given[nodeid] = _Given(entries, found, until)
        self.unread.discard(nodeid)

    def do(self, nodeid: int) -> bool:
        """Say whether the thread may be given such a listing of that directory."""
        wanted = self._hits.get(self.thread, 0) < BARE_ASKED and nodeid not in self._unwanted
        return wanted or nodeid in self.unread

    def closed(self, nodeid: int) -> None:
        """Take note that the job has opened a directory, read nothing of it, and closed it."""
        if len(self.unread) >= KNOWN_OPENED:
            self.unread.clear()
        self.unread.add(nodeid)

    def is_by_kernel(self, fh: int) -> bool:
        """Say so of a handle that is closed."""
        its = fh in self.by_kernel
        self.by_kernel.discard(fh)
        return its

    def opens(self) -> None:
        """Take note that the thread opens a file."""
        self._hits.pop(self.thread, None)

    def asked(self, nodeid: int, name: bytes, walks: bool, now: float) -> None:
        """Take note that the thread asks for a name in a directory, and home must be. `walks`: a tree is walked."""
        its = self._given.get(nodeid)
        if its is None or its.until < now or (ranks := its.ranks(name)) is None:
            return
        hits = self._hits.pop(self.thread, 0)
        right = any(rank == last + 1 for rank, last in zip(ranks, its.last))
        follows = right if its.last else walks and 0 in ranks
        its.last = ranks
        if len(self._hits) >= KNOWN_OPENED:
            self._hits.clear()
        self._hits[self.thread] = hits = hits + 1 if follows or hits >= BARE_ASKED else 1
        if hits >= BARE_ASKED:
            if len(self._unwanted) >= KNOWN_OPENED:
                self._unwanted.clear()
            self._unwanted.add(nodeid)
