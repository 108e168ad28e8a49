"""Submit side: what a command used as it started the last time, sent before it asks (``wire.pushed``).

For hosts that are far, which ask for it by CREDIT, and are sent no more than that. Each name is looked up, and each
file is opened, as if the job had asked: what is sent is true then, holds until a BREAK, and is no more than the job may
see. What the job writes or locks, or is not under a lease, is left to be asked for.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Set
from itertools import islice
from typing import NamedTuple

from remoteio.submit.export.descriptors import Descriptor
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.fetched import quiet
from remoteio.submit.export.first_names import Ranges, Use
from remoteio.submit.export.learned_walks import PASSED_BY, LearnedWalks, wanted_of
from remoteio.submit.export.leases import leasable
from remoteio.submit.export.pushed_walks import PushedWalk
from remoteio.wire import fuse_abi as abi
from remoteio.wire import known, leases, listed, pushed
from remoteio.wire.coherence import AHEAD
from remoteio.wire.frames import KNOWN, LEASED

MOST_BYTES = 64 << 20  # of one start
_KEPT_THERE = 1 << 20  # bytes of a file; of more that was read before, the host has what it needs (``kept_contents``)
_SOON = 1 << 10  # bytes that go first, for a host that is about to ask for them
_FIRST = 1 << 20  # bytes of one file that go ahead of the other files
_PAGE = 4096  # bytes
_SOONEST = 12  # paths that are used first: the program, and what loads it
_AT_ONCE = 64  # of the others, paths whose names go ahead of what is in them
_NOW = b""
_NAMED = leases.NAME | leases.ATTR


class _Found(NamedTuple):
    """What a name leads to: `entry`, as a LOOKUP gives it, empty: nothing that may be told; whether it is leased; where
    it points."""

    entry: bytes
    leased: bool
    link: bytes


class _File(NamedTuple):
    """A file that is open, what is to be sent of it, whether it has no ``security.capability``, and the name of its
    version, if the host may have kept that."""

    node: int
    fd: Descriptor
    ranges: Ranges
    bare: bool
    version: bytes


class _Walks:
    """What sends the trees that are walked, those that were `found` to be sent (node, path, what is wanted there), and
    the directories that are `passed_by`."""

    def __init__(self, walk: PushedWalk) -> None:
        self.walk = walk
        self.found: list[tuple[int, bytes, int]] = []
        self.passed_by: set[int] = set()


class _Credit:
    """What the host may be sent: `left` bytes, in frames of no more than `frame`: over a narrow line several are to be
    under way."""

    __slots__ = ("frame", "left")

    def __init__(self) -> None:
        self.left, self.frame = 0, pushed.FRAME

    def given(self, size: int) -> None:
        """Take note that so much more may be sent."""
        self.left += size
        self.frame = min(max(size, pushed.PIECE), pushed.FRAME)


class Pushing:
    """Makes the payloads of the PUSHED frames for what is known to be used, as far as there is credit.

    Threads: any; one at a time makes them, and another who comes meanwhile leaves it to that one.
    """

    def __init__(
        self,
        uses: Iterable[Use],
        asked: Set[bytes] = frozenset(),
        alone: bool = False,
        walks: LearnedWalks | None = None,
        directory: bytes = b"",
        guessed: bool = False,
    ) -> None:
        """`asked`: the files of which the job has asked for something: it is ahead of what is sent; `walks`: of which
        directories. `alone`: the names are told in no other way, so those under no lease are sent as well. `directory`:
        that the job begins in. `guessed`: nothing was read of them before, as far as is known."""
        self._todo: deque[tuple[Iterable[Use], bool]] = deque([(uses, guessed)])
        self._asked, self._alone, self._walks = asked, alone, walks or LearnedWalks()
        self._directory = directory  # until it is told
        self._sent: set[int] = set()  # files and directories, by their nodes
        self._nodes: dict[bytes, int] = {}  # by path, 0: nothing that is told is there
        self._lock = threading.Lock()
        self._credit, self._busy, self._left = _Credit(), False, MOST_BYTES
        self._frames: Generator[bytes, None, None] | None = None

    def credited(self, size: int) -> bool:
        """Take note that so much more may be sent. Whether the caller is to send what ``due`` gives."""
        with self._lock:
            self._credit.given(size)
            return self._begins()

    def more(self, uses: Iterable[Use]) -> bool:
        """Have what is guessed now sent after all else. Whether the caller is to send what ``due`` gives."""
        with self._lock:
            self._todo.append((uses, True))
            return self._credit.left > 0 and self._begins()

    def _begins(self) -> bool:
        if self._busy or not (self._frames or self._todo):
            return False
        self._busy = True
        return True

    def due(self, export: Export) -> Iterator[bytes]:
        """Make what may be sent now."""
        while True:
            with self._lock:
                if self._credit.left <= 0 or not (self._frames or self._todo):
                    self._busy = False
                    return
                if self._frames is None:
                    self._frames = self._all(export, *self._todo.popleft())
            payload = next(self._frames, b"")
            with self._lock:
                self._credit.left -= len(payload)
                if not payload:
                    self._frames = None
            if payload:
                yield payload

    def close(self) -> None:
        """Close the files that are open to be sent, and the directories for guesses, once nobody makes what is due."""
        self._todo.clear()
        if self._frames is not None:
            self._frames.close()

    def _all(self, export: Export, uses: Iterable[Use], guessed: bool) -> Generator[bytes, None, None]:
        if not export.leases.wanted():
            return
        parts: list[bytes] = []
        size, most = 0, _SOON
        for part in self._parts(export, iter(uses) if guessed else _names_first(uses), guessed):
            if parts and (part == _NOW or size + len(part) > most):
                yield b"".join(parts)
                parts, size, most = [], 0, min(2 * most, self._credit.frame)
            if part != _NOW:
                parts.append(part)
                size += len(part)
        if parts:
            yield b"".join(parts)

    def _parts(self, export: Export, uses: Iterator[Use], guessed: bool) -> Iterator[bytes]:
        """All parts: of some paths after the other the names, then of these the contents; of large files the most last
        of all. _NOW: it is time to send what there is."""
        last: list[_File] = []

        def contents(files: list[int]) -> Iterator[bytes]:
            return self._in_files(export, [(each, [], False) for each in files], guessed, last)

        walks = _Walks(PushedWalk(export, self._walks, contents))
        yield from self._begins_in(export)
        soonest: list[_File] | None = None  # of what is needed first names and promises go, then others' names
        while some := list(islice(uses, _SOONEST if soonest is None else _AT_ONCE)):
            files = yield from self._told(export, some, walks)
            opened = yield from self._promised(export, files, guessed)
            if soonest is None:
                soonest = opened
                yield _NOW
                continue
            yield from _begun([*soonest, *opened], last)
            soonest = []
        yield from _begun(soonest or [], last)
        for node, name, wanted in walks.found:
            yield from walks.walk.parts(node, name, wanted, walks.passed_by)
        for file in last:
            yield from _contents(file)

    def _begins_in(self, export: Export) -> Iterator[bytes]:
        """The parts for the directory that the job begins in."""
        directory, self._directory = self._directory, b""
        if directory:
            yield from _searched(export, abi.ROOT_ID)
            begins = yield from self._names(export, directory)
            if begins != abi.ROOT_ID:
                yield from _searched(export, begins)

    def _told(
        self, export: Export, uses: list[Use], walks: _Walks
    ) -> Generator[bytes, None, list[tuple[int, Ranges, bool]]]:
        """The parts for some names, and the directories that are listed alone; return the files: nodes, what is used of
        them, whether home was asked for any of it."""
        files = []
        for name, ranges in uses:
            node = yield from self._names(export, name)
            wanted = wanted_of(ranges)
            if ranges is None or not node or (node in self._sent and wanted is None):
                continue
            known_by = export.inodes.nodes.get(node)
            if known_by is None or known_by.kind != stat.S_IFDIR:
                files.append((node, ranges, name in self._asked))
            elif ranges == []:
                self._sent.add(node)
                walks.passed_by.add(node)
                yield from walks.walk.parts(node, name, None, walks.passed_by)
            elif wanted == PASSED_BY:
                walks.passed_by.add(node)
            elif wanted is not None:
                walks.found.append((node, name, wanted))
        return files

    def _in_files(
        self, export: Export, files: list[tuple[int, Ranges, bool]], guessed: bool, last: list[_File]
    ) -> Iterator[bytes]:
        """The parts for what is in these files: of some after the other what will come, then that; but what comes
        `last`."""
        for at in range(0, len(files), _AT_ONCE):
            opened = yield from self._promised(export, files[at : at + _AT_ONCE], guessed)
            yield from _begun(opened, last)

    def _promised(
        self, export: Export, files: list[tuple[int, Ranges, bool]], guessed: bool
    ) -> Generator[bytes, None, list[_File]]:
        """The parts for what will come of these files; return those. Of those that were asked for only what is
        large."""
        opened = []
        for node, ranges, asked in files:
            file = _file(export, node, ranges, self._left, guessed)
            size = 0 if file is None else sum(end - begin for begin, end in file.ranges)
            if file is None or (asked and size <= AHEAD) or node in self._sent:
                continue
            self._sent.add(node)
            self._left -= size
            opened.append(file)
            yield pushed.pack_file(node, file.ranges, file.bare, file.version)
        return opened

    def _names(self, export: Export, name: bytes) -> Generator[bytes, None, int]:
        """The parts for what is on the way to a path, and it itself; return its node, 0: there is none to send."""
        node, at = abi.ROOT_ID, b""
        for last in filter(None, name.split(b"/")):
            if last in (b".", b".."):
                return 0  # no lookup is of these: the kernel resolves them itself
            at += b"/" + last
            found = self._nodes.get(at)
            if found is None:
                told = _look_up(export, node, last, self._alone)
                found = self._nodes[at] = abi.ENTRY.unpack_from(told.entry)[0] if told.entry else 0
                yield from _entry(node, last, told)
            if not found:
                return 0
            node = found
        return node


def _names_first(uses: Iterable[Use]) -> Iterator[Use]:
    """What is used first, and then what is looked up alone, which is small, before all else."""
    known = iter(uses)
    yield from islice(known, _SOONEST + _AT_ONCE)
    yield from sorted(known, key=lambda use: use[1] is not None)


def _searched(export: Export, node: int) -> Iterator[bytes]:
    """The part for a directory that the job's user may search: its kernel asks for that as the job begins there."""
    told = export.answer(abi.Request(abi.request(abi.GETATTR, node, abi.GETATTR_IN.pack(0, 0, 0))))
    allowed = export.answer(abi.Request(abi.request(abi.ACCESS, node, abi.ACCESS_IN.pack(os.X_OK, 0))))
    if told is None or told[0] != LEASED or allowed is None or abi.OUT_HEADER.unpack_from(allowed[1])[1]:
        return
    _, _, _, reply = leases.split(told[1])
    yield pushed.pack(pushed.SEARCHED, node, b"", bytes(reply[abi.OUT_HEADER.size + abi.ATTR_OUT.size :]))


def _parted(file: _File) -> tuple[_File, _File]:
    """Part what is to be sent of a file into no more than _FIRST bytes and the rest."""
    first: Ranges = []
    rest: Ranges = []
    left = _FIRST
    for begin, end in file.ranges:
        middle = min(begin + left // _PAGE * _PAGE, end)  # a host keeps whole pages
        left -= middle - begin
        first += [(begin, middle)] if begin < middle else []
        rest += [(middle, end)] if middle < end else []
    return file._replace(ranges=first), file._replace(ranges=rest)


def _begun(files: list[_File], last: list[_File]) -> Iterator[bytes]:
    """The parts for what is in these files, but for what comes `last`."""
    for file in files:
        first, rest = _parted(file)
        yield from _contents(first)
        last += [rest] if rest.ranges else []


def _contents(file: _File) -> Iterator[bytes]:
    try:
        for begin, end in file.ranges:
            for offset in range(begin, end, pushed.PIECE):
                data = os.pread(file.fd, min(pushed.PIECE, end - offset), offset)
                if len(data) < min(pushed.PIECE, end - offset):
                    yield pushed.pack_file(file.node, [], False)  # nobody is to wait for it
                    return
                yield pushed.pack(pushed.DATA, file.node, b"", data, offset)
    except OSError:
        yield pushed.pack_file(file.node, [], False)


def _look_up(export: Export, parent: int, name: bytes, unleased: bool, again: bool = False) -> _Found:
    if (above := export.inodes.nodes.get(parent)) is not None:
        above.asked = 0  # so many names in a row are no reason to tell all that is in the directory
    answer = export.answer(abi.Request(abi.request(abi.LOOKUP, parent, name + b"\0")))
    assert answer is not None
    kind, payload = answer
    what, link = 0, b""
    if kind == LEASED:
        kind, what, _, told = leases.split(payload)
        payload = bytes(told)
    reply, rest = known.split(payload) if kind == KNOWN else (payload, b"")
    if abi.OUT_HEADER.unpack_from(reply)[1]:
        return _Found(b"", False, b"")
    entry = bytes(reply[abi.OUT_HEADER.size :])
    node = abi.ENTRY.unpack_from(entry)[0]
    if kind == KNOWN:
        beside = known.parse(abi.LOOKUP, rest)
        link = beside.link
        for each in listed.walk(beside.listing.entries) if beside.listing is not None else ():
            export.inodes.forget(each[2], 1)
    if what & _NAMED == _NAMED or (what & leases.NAME and not node):
        return _Found(entry, True, link)
    if what == leases.NAME and not again:  # a file that is met once is not leased
        found = _look_up(export, parent, name, unleased, True)
    elif unleased and abi.ENTRY.unpack_from(entry)[2]:  # it may be cached
        return _Found(entry, False, link)
    else:
        found = _Found(b"", False, b"")
    export.inodes.forget(node, 1)
    return found


def _file(export: Export, nodeid: int, ranges: Ranges, most: int, guessed: bool) -> _File | None:
    """Open a file, of which no more than so many bytes may be sent, and watch it; None: not this one."""
    node = export.inodes.nodes.get(nodeid)
    if node is None or not quiet(node):
        return None
    try:
        with export.inodes.allowed.refusals.guessing():
            fd = Descriptor(export.inodes.descriptors.reopen(node, os.O_RDONLY))
        st = os.fstat(fd) if export.leases.watches(node, fd) else None
    except OSError:
        return None  # who asks for it is told so
    # changed since the kernel was told its size, it is opened as others are: only then is the kernel told so
    if st is None or not stat.S_ISREG(st.st_mode) or st.st_ctime_ns != node.ctime:
        return None
    whole = [(0, st.st_size)] if st.st_size <= AHEAD else ranges
    due = [(begin, min(end, st.st_size)) for begin, end in whole if begin < min(end, st.st_size)]
    size = sum(end - begin for begin, end in due)
    if not leasable(export.leases, fd, st):
        return None
    version = export.versions.of(fd, st) if st.st_size > AHEAD else b""
    if version and size > _KEPT_THERE and not guessed:
        due, size = [], 0  # the host has kept it since, and else asks
    if size > most:
        return None
    return _File(nodeid, fd, due, _bare(fd), version) if export.inodes.descriptors.keeps(node, fd) else None


def _bare(fd: int) -> bool:
    try:
        os.getxattr(fd, "security.capability")
    except OSError as e:
        return e.errno == errno.ENODATA
    return False


def _entry(parent: int, name: bytes, found: _Found) -> Iterator[bytes]:
    if found.entry:
        yield pushed.pack(pushed.NAME if found.leased else pushed.TOLD, parent, name, found.entry)
        if found.link:
            yield pushed.pack(pushed.TARGET, abi.ENTRY.unpack_from(found.entry)[0], b"", found.link)
