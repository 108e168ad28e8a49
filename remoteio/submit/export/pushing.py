"""Submit side: what a command used as it started the last time, sent before it asks (``wire.pushed``).

For hosts that ask for it by CREDIT, and are sent no more than that. Each name is looked up, and each
file is opened, as if the job had asked: what is sent is true then, holds until a BREAK, and is no more than the job may
see. What the job writes or locks, or is not under a lease, is left to be asked for.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Set
from itertools import islice
from typing import NamedTuple

from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.first_names import Ranges, Use
from remoteio.submit.export.kept_there import KeptThere
from remoteio.submit.export.learned_walks import PASSED_BY, LearnedWalks, wanted_of
from remoteio.submit.export.pushed_files import File, begun, ended, open_file
from remoteio.submit.export.pushed_walks import PushedWalk
from remoteio.submit.export.seen import WHOLE
from remoteio.wire import fuse_abi as abi
from remoteio.wire import known, leases, listed, pushed
from remoteio.wire.coherence import AHEAD
from remoteio.wire.frames import KNOWN, LEASED

MOST_BYTES = 64 << 20  # of one start
_SOON = 1 << 10  # bytes that go first, for a host that is about to ask for them
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


class _Walks:
    """What sends the trees that are walked, those that were `found` to be sent (node, path, what is wanted there), and
    the directories that are `passed_by`."""

    def __init__(self, walk: PushedWalk) -> None:
        self.walk = walk
        self.found: list[tuple[int, bytes, int]] = []
        self.passed_by: set[int] = set()


class _Credit:
    """What the host may be sent: `left` bytes, in frames of no more than `frame`: over a narrow line several are to be
    under way. `busy`: somebody makes them; `over`: and nobody is to any more. `count`: how often it was given."""

    __slots__ = ("busy", "count", "frame", "left", "over")

    def __init__(self, count: int) -> None:
        self.left, self.frame, self.busy, self.over, self.count = 0, pushed.FRAME, False, False, count

    def given(self, size: int) -> None:
        """Take note that so much more may be sent."""
        self.left += size
        self.count += 1
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
        there: KeptThere | None = None,
        credits: int = 0,
    ) -> None:
        """`asked`: the files of which the job has asked for something: it is ahead of what is sent; `walks`: of which
        directories. `alone`: the names are told in no other way, so those under no lease are sent as well. `directory`:
        that the job begins in. `guessed`: nothing was read of them before, as far as is known. `there`: what the
        host has kept. `credits`: how often it has given CREDIT before, to earlier jobs over this link."""
        self._todo: deque[tuple[Iterable[Use], bool]] = deque([(uses, guessed)])
        self._asked, self._alone, self._walks = asked, alone, walks or LearnedWalks()
        self._directory = directory  # until it is told
        self._there = there or KeptThere()
        self._sent: set[int] = set()  # files and directories, by their nodes
        self._nodes: dict[bytes, int] = {}  # by path, 0: nothing that is told is there
        self._lock = threading.Lock()
        self._credit, self._left = _Credit(credits), MOST_BYTES
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
        if self._credit.busy or self._credit.over or not (self._frames or self._todo):
            return False
        self._credit.busy = True
        return True

    def due(self, export: Export) -> Iterator[bytes]:
        """Make what may be sent now."""
        while True:
            with self._lock:
                if self._credit.over or self._credit.left <= 0 or not (self._frames or self._todo):
                    self._credit.busy = False
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

    def stop(self) -> bool:
        """Have nothing more made. Whether all that was made is sent: nobody is at it."""
        with self._lock:
            self._credit.over = True
            return not self._credit.busy

    def close(self) -> None:
        """Close the files that are open to be sent, and the directories for guesses, once nobody makes what is due."""
        self._todo.clear()
        if self._frames is not None:
            self._frames.close()

    def _all(self, export: Export, uses: Iterable[Use], guessed: bool) -> Generator[bytes, None, None]:
        if not export.leases.wanted():
            return
        parts: list[bytes] = []
        # who is told names in no other way asks at once for those that are not in the first frame
        size, most = 0, self._credit.frame if self._alone else _SOON
        now = before = since = self._credit.count
        for part in self._parts(export, iter(uses) if guessed else _names_first(uses), guessed):
            if parts and (part == _NOW or size + len(part) > most):
                yield _since(since) + b"".join(parts)
                parts, size, most = [], 0, min(2 * most, self._credit.frame)
            if part != _NOW:
                since = since if parts else before
                parts.append(part)
                size += len(part)
            before, now = now, self._credit.count  # the next may have been looked up when this one was
        if parts:
            yield _since(since) + b"".join(parts)

    def _parts(self, export: Export, uses: Iterator[Use], guessed: bool) -> Iterator[bytes]:
        """All parts: of some paths after the other the names, then of these the contents; of large files the most last
        of all. _NOW: it is time to send what there is."""
        last: list[File] = []

        def contents(files: list[int]) -> Iterator[bytes]:
            return self._in_files(export, [(each, [], False) for each in files], guessed, last)

        walks = _Walks(PushedWalk(export, self._walks, contents))
        yield from self._begins_in(export)
        soonest: list[File] | None = None  # of what is needed first names and promises go, then others' names
        while some := list(islice(uses, _SOONEST if soonest is None else _AT_ONCE)):
            files = yield from self._told(export, some, walks)
            opened = yield from self._promised(export, files, guessed)
            if soonest is None:
                soonest = opened
                yield _NOW
                continue
            yield from begun([*soonest, *opened], last, self._there)
            soonest = []
        yield from begun(soonest or [], last, self._there)
        for node, name, wanted in walks.found:
            yield from walks.walk.parts(node, name, wanted, walks.passed_by)
        yield from ended(last, self._there)

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
        self, export: Export, files: list[tuple[int, Ranges, bool]], guessed: bool, last: list[File]
    ) -> Iterator[bytes]:
        """The parts for what is in these files: of some after the other what will come, then that; but what comes
        `last`."""
        for at in range(0, len(files), _AT_ONCE):
            opened = yield from self._promised(export, files[at : at + _AT_ONCE], guessed)
            yield from begun(opened, last, self._there)

    def _promised(
        self, export: Export, files: list[tuple[int, Ranges, bool]], guessed: bool
    ) -> Generator[bytes, None, list[File]]:
        """The parts for what will come of these files; return those. Of those that were asked for only what is
        large."""
        opened = []
        for node, ranges, asked in files:
            file = open_file(export, node, ranges, self._left, guessed, self._there)
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


def _since(number: int) -> bytes:
    """The part that says after how many CREDITs all behind it was looked up; after the first nothing was changed
    yet."""
    return pushed.pack(pushed.SINCE, number) if number > 1 else b""


def _names_first(uses: Iterable[Use]) -> Iterator[Use]:
    """What is used first, then what is looked up alone, which is small, and what was asked for before what was guessed:
    nobody has told whether that was used, and where much was not no more is sent."""
    known = iter(uses)
    yield from islice(known, _SOONEST + _AT_ONCE)
    yield from sorted(known, key=lambda use: 0 if use[1] is None else 1 + (use[1] == WHOLE))


def _searched(export: Export, node: int) -> Iterator[bytes]:
    """The part for a directory that the job's user may search: its kernel asks for that as the job begins there."""
    told = export.answer(abi.Request(abi.request(abi.GETATTR, node, abi.GETATTR_IN.pack(0, 0, 0))))
    allowed = export.answer(abi.Request(abi.request(abi.ACCESS, node, abi.ACCESS_IN.pack(os.X_OK, 0))))
    if told is None or told[0] != LEASED or allowed is None or abi.OUT_HEADER.unpack_from(allowed[1])[1]:
        return
    _, _, _, reply = leases.split(told[1])
    yield pushed.pack(pushed.SEARCHED, node, b"", bytes(reply[abi.OUT_HEADER.size + abi.ATTR_OUT.size :]))


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


def _entry(parent: int, name: bytes, found: _Found) -> Iterator[bytes]:
    if found.entry:
        yield pushed.pack(pushed.NAME if found.leased else pushed.TOLD, parent, name, found.entry)
        if found.link:
            yield pushed.pack(pushed.TARGET, abi.ENTRY.unpack_from(found.entry)[0], b"", found.link)
