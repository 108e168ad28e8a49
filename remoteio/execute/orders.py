"""Execute side: guesses which files of a directory a job opens next. Pure. Shipped.

Programs that read all files of a directory (tar, cp -r, grep -r, cat *) open them in an order that its listing gives:
as it lists them, by their names, or by their inode numbers. Which of the three a job follows is learned from what it
opens: the next is the one right behind, twice; once that is known, it may pass over some. A directory that is opened
meanwhile is taken to be read in the same order, from its start.

How many are guessed, the window, is learned as in ``walks``: it doubles when the job opens a file that was guessed and
has not come, or was not guessed, and is halved when one was guessed in vain.

A listing is taken apart only when a file is opened: who lists and opens none pays nothing for it.
"""

from __future__ import annotations

import stat
from collections import OrderedDict, deque
from itertools import dropwhile

from remoteio.wire import fuse_abi as abi
from remoteio.wire.coherence import AHEAD, ORDER_HITS, ORDER_KNOWN, ORDER_NAMED, ORDER_UNREAD, ORDER_WINDOW
from remoteio.wire.listed import walk

_REGULAR, _DIR = 8, 4  # d_type: DT_REG, DT_DIR of readdir(3)
_ORDERS = 3  # as listed, by name, by inode number
_PASSED = 8  # files that a job may pass over at a time, and follow an order still

_File = tuple[int, int, bytes, int]  # node, size, name, inode number


class _Directory:
    __slots__ = ("_ranks", "_sorted", "all", "files", "last", "listed", "names", "next")

    def __init__(self, listed: bool = True) -> None:
        self.listed = listed  # else names of it were told alone
        self.all: list[int] = []  # nodes of files and directories, as listed
        self.files: list[_File] = []
        self.names: dict[bytes, int] = {}  # -> index of the file
        self.last = -1  # index of the file opened last
        self.next = 0  # place of the first that was not guessed, in the order that is followed
        self._sorted: dict[int, list[int]] = {}
        self._ranks: dict[int, list[int]] = {}

    def add(self, file: _File) -> None:
        self.names[file[2]] = len(self.files)
        self.files.append(file)
        self._sorted.clear()
        self._ranks.clear()

    def sorted(self, order: int) -> list[int]:
        """The indices of its files, in that order."""
        found = self._sorted.get(order)
        if found is None:
            by = (None, lambda k: self.files[k][2], lambda k: self.files[k][3])[order]
            found = self._sorted[order] = sorted(range(len(self.files)), key=by)
        return found

    def rank(self, order: int, index: int) -> int:
        """The place of a file in that order."""
        ranks = self._ranks.get(order)
        if ranks is None:
            ranks = self._ranks[order] = [0] * len(self.files)
            for place, k in enumerate(self.sorted(order)):
                ranks[k] = place
        return ranks[index]


class Orders:
    """Knows the files that the job was told of, and the order in which it opens them."""

    def __init__(self) -> None:
        self._unread: list[tuple[int, bytes]] = []  # listings that are not taken apart yet: directory, entries
        self._unread_bytes = 0
        self._named: deque[tuple[int, bytes, bytes]] = deque(maxlen=ORDER_NAMED)  # nor these: directory, name, entry
        self._directories: OrderedDict[int, _Directory] = OrderedDict()
        # nodeid of a file or directory -> the directory that it is in, its index there among files (-1: none of these),
        # and among all
        self._where: dict[int, tuple[int, int, int]] = {}
        self._at = _Directory()
        self._order = self._hits = 0
        self.window = 0

    def listed(self, directory: int, entries: bytes) -> None:
        """Take note of entries of a directory, in the order in which they are listed."""
        self._unread.append((directory, entries))
        self._unread_bytes += len(entries)
        while self._unread_bytes > ORDER_UNREAD:
            self._unread_bytes -= len(self._unread.pop(0)[1])

    def named(self, directory: int, name: bytes, entry: bytes) -> None:
        """Take note of a name that was told alone, with its ENTRY and attributes.

        Home tells the names that a command looked up the last time, in that order: they count as listed in it.
        """
        self._named.append((directory, name, entry))

    def onward(self, nodeid: int, most: int) -> list[int]:
        """List so many files and directories at the most as they are listed: from that one on, then those before it,
        and those of the directories that were listed later. Nothing: it is not known."""
        self._read()
        where = self._where.get(nodeid)
        if where is None:
            return []
        its, at = self._directories[where[0]].all, where[2]
        found = its[at:] + its[:at]
        for directory in dropwhile(lambda each: each != where[0], self._directories):
            if len(found) >= most:
                break
            if directory != where[0]:
                found += self._directories[directory].all
        return found[:most]

    def entered(self, directory: int) -> None:
        """Take note that the job opens a directory: who follows an order reads it in that, from its start."""
        if self._hits >= ORDER_HITS:
            self._read()
            its = self._directories.get(directory)
            if its is not None and its.last < 0:
                self._at = its

    def opened(self, nodeid: int, had: bool) -> None:
        """Take note that the job opens a file. `had`: it had come."""
        self._read()
        if not had and self._named:
            self._read_named()
        where = self._where.get(nodeid)
        if where is None or where[1] < 0:
            return
        its, index = self._directories[where[0]], where[1]
        if its.last == index:
            return  # once more the same: that says nothing
        right = self._follows(its, index)
        its.last, self._at = index, its
        if not right:
            its.next = 0  # it may be read once more
            self.disturbed()
            return
        self._hits += 1
        if not had and self._hits >= ORDER_HITS:
            self.window = min(max(2 * self.window, 1), ORDER_WINDOW)

    def looked_up(self, directory: int, name: bytes) -> None:
        """Take note that home is asked for a name: who follows an order has come to it, and it is not there."""
        if self._hits >= ORDER_HITS:
            its = self._directories.get(directory)
            index = its.names.get(name) if its is not None else None
            if its is not None and index is not None:
                self.opened(its.files[index][0], False)

    def _follows(self, its: _Directory, index: int) -> bool:
        """Whether that file is opened in an order; `_order` is that from now on."""
        known = self._hits >= ORDER_HITS
        if its.last < 0:
            return known and its.rank(self._order, index) <= _PASSED
        for order in (self._order, *range(_ORDERS)):
            step = its.rank(order, index) - its.rank(order, its.last)
            if step == 1 or (known and order == self._order and 1 < step <= _PASSED + 1):
                if order != self._order:
                    self._order, its.next = order, 0
                    self._hits = min(self._hits, 1)
                return True
        return False

    def next(self, most: int, room: int) -> list[tuple[int, int]]:
        """Return which files to guess now, (node, size) each: `most` at the most, of `room` bytes together."""
        found: list[tuple[int, int]] = []
        if self._hits < ORDER_HITS:
            return found
        its = self._at
        order = its.sorted(self._order)
        begin = its.rank(self._order, its.last) + 1 if its.last >= 0 else 0
        its.next = max(its.next, begin)
        while its.next < min(begin + self.window, len(order)) and len(found) < most:
            nodeid, size, _, _ = its.files[order[its.next]]
            if size <= AHEAD:
                room -= size
                if room < 0:
                    break
                found.append((nodeid, size))
            its.next += 1
        return found

    def wrong(self) -> None:
        """Take note that a file was guessed in vain."""
        self.window //= 2

    def disturbed(self) -> None:
        """Take note that the job follows no order, or changes names: what was told ahead would not hold."""
        self._hits = 0
        self.window //= 2

    def _read(self) -> None:
        for directory, entries in self._unread:
            its = self._directory(directory, True)
            for start, _, nodeid, name, _, kind in walk(entries):
                if kind in (_REGULAR, _DIR):
                    self._add(directory, its, nodeid, name, entries, start, kind == _REGULAR)
        self._unread.clear()
        self._unread_bytes = 0
        self._bound()

    def _read_named(self) -> None:
        for directory, name, entry in self._named:
            its, mode = self._directory(directory, False), abi.ATTR.unpack_from(entry, abi.ENTRY.size)[9]
            if not its.listed and (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                self._add(directory, its, abi.ENTRY.unpack_from(entry)[0], name, entry, 0, stat.S_ISREG(mode))
        self._named.clear()
        self._bound()

    def _directory(self, directory: int, listed: bool) -> _Directory:
        its = self._directories.get(directory)
        if its is not None and listed and not its.listed:
            self._forget(directory)
            its = None
        if its is None:
            its = self._directories[directory] = _Directory(listed)
        self._directories.move_to_end(directory)
        return its

    def _add(
        self, directory: int, its: _Directory, nodeid: int, name: bytes, entry: bytes, at: int, file: bool
    ) -> None:
        if nodeid and nodeid not in self._where:
            self._where[nodeid] = directory, len(its.files) if file else -1, len(its.all)
            its.all.append(nodeid)
            if file:
                ino, size, *_ = abi.ATTR.unpack_from(entry, at + abi.ENTRY.size)
                its.add((nodeid, size, name, ino))

    def _bound(self) -> None:
        while len(self._where) > ORDER_KNOWN and len(self._directories) > 1:
            self._forget(next(iter(self._directories)))

    def _forget(self, directory: int) -> None:
        for nodeid in self._directories.pop(directory).all:
            del self._where[nodeid]
