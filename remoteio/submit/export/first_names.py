"""Submit side: what a command looks up, opens and reads as it starts, learned; its names are told the next time.

Nothing that was learned is told but names: each is looked up when the job starts, by the same operation as if the job
had asked, so what is told is true then, and it is no more than the job may see. What is in the files goes to hosts that
are far (``pushing``).
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Set
from itertools import chain
from typing import Protocol

from remoteio.submit.export.begun_walks import BegunWalks
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.executing import EXECUTE
from remoteio.submit.export.kept_there import KeptThere
from remoteio.submit.export.learned_walks import NAMES, LearnedWalks, is_cut
from remoteio.submit.export.nodes import Node, path
from remoteio.wire import fuse_abi as abi
from remoteio.wire import known, leases, names_ahead
from remoteio.wire.coherence import AHEAD
from remoteio.wire.frames import KNOWN, LEASED
from remoteio.wire.makes import name_of

Ranges = list[tuple[int, int]]  # from, to, in the order of the file
Uses = dict[bytes, "Ranges | None"]
"""Paths in the order in which they were first used: of a file that was opened, what was read; None: looked up alone.

Of a directory: nothing, if it alone is to be listed, or what is wanted of all below it (``learned_walks``)."""
Use = tuple[bytes, "Ranges | None"]

MOST_NAMES = 4096  # pip, which installs numpy, uses some 1,500
MOST_GUESSED = 3072  # from which on what is only guessed is not learned: nobody tells whether it was used
MOST_RANGES = 64  # of one file
_SOON = 1 << 10  # bytes that go first, for a host that is about to ask for them
FIRST_S = 30.0  # seconds from the first of them, for which they are learned
_NEAR = 64 << 10  # bytes between two ranges that are learned as one: the kernel reads ahead now less, now more


class Guesses(Protocol):
    """Guesses what is used, where nothing was learned of it. Threads: any."""

    def start(self, export: Export) -> Iterable[Use]:
        """What is looked up until the command's program is found."""

    def used(self, export: Export) -> Iterator[Use]:
        """What that program uses."""

    def program(self, export: Export, path: bytes) -> Iterator[Use]:
        """What a program uses that is executed."""

    def release(self) -> None:
        """Close what is open to guess by, once nobody asks any more."""


class FirstNames:
    """Tells the names of what is `known` to be used, or guessed where nothing is, and learns what is used beside.

    Threads: any may call what is here.
    """

    def __init__(
        self,
        known: Uses,
        keep: Callable[[Uses], None],
        guesses: Guesses | None = None,
        sure: bool = True,
        there: KeptThere | None = None,
    ) -> None:
        """`keep` is given all that is to be told the next time, if it is more than is known. Not `sure`: that is known
        of another command, much like this one. `there`: what the host has kept."""
        self.known, self._keep, self._guesses, self._sure = known, keep, guesses, sure
        self._uses: Uses = dict(known)
        self.walks, self.there = LearnedWalks(), there or KeptThere()
        self._begun = BegunWalks(self.walks.walked)
        self._begins: Uses = {}
        self.read: set[bytes] = set()  # the files of which home was asked for something
        self._removed: set[bytes] = set()  # directories
        self._until: float | None = None  # when the first request comes, FIRST_S later

    @property
    def knows(self) -> bool:
        """Is anything known, or to be guessed?"""
        return bool(self.known) or self._guesses is not None

    def begin(self, export: Export) -> Iterator[bytes]:
        """Make the payloads of the NAMES frames that tell what is known of these names now."""
        if self.known or self._guesses is None:
            return _Telling(export).told(self.known)
        return _Telling(export).told(name for name, _ in self._guesses.start(export))

    def used(self, export: Export) -> Iterator[Use]:
        """What the command is likely to use as it starts."""
        if self._guesses is None or (self.known and self._sure):
            return self._new()
        return chain(self._new(), self._guessed(self._guesses.used(export)))

    def _new(self) -> Iterator[Use]:
        return (use for use in self.known.items() if use[0] not in self.there.told)

    @property
    def seen(self) -> Set[bytes]:
        """The paths of which the host has been told by now."""
        return self.there.told | self._uses.keys()

    def release(self) -> None:
        """Close what is open to guess by, once nobody asks what is used any more."""
        if self._guesses is not None:
            self._guesses.release()

    def executed(self, export: Export, program: bytes) -> Iterator[Use]:
        """What a program is likely to use that the job has executed: see ``saw``."""
        return self._guessed(self._guesses.program(export, program)) if self._guesses is not None else iter(())

    def _guessed(self, uses: Iterator[Use]) -> Iterator[Use]:
        """Learn also what is guessed: of what the host uses of that, home hears nothing."""
        for name, ranges in uses:
            if self._until != 0.0 and self._uses.get(name) is None and len(self._uses) < MOST_GUESSED:
                self._use(name, None)
                if ranges is not None and name in self._uses:
                    self._uses[name] = ranges
            yield name, ranges

    def saw(self, export: Export, request: abi.Request) -> bytes:
        """Take note of a request, if it is to be learned; return the program, of which nothing is known, that the job
        executes by it."""
        op, now = request.op, time.monotonic()
        if self._until is None:
            self._until = now + FIRST_S
            export.listings.told = self._listed
        if op == abi.READ:
            self.there.asked(request)
        elif op not in _LEARNED:
            return b""
        node = export.inodes.nodes.get(request.nodeid)
        if node is None:
            return b""
        if now < self._until:
            self._learn(op, node, request)
        if op != abi.OPEN or node.parent is None or not abi.OPEN_IN.unpack_from(request.raw, abi.ARGS)[0] & EXECUTE:
            return b""
        name = path(node.parent, node.name)
        return b"" if self.known.get(name) is not None else name

    def begins(self) -> Uses:
        """Take what is to be sent of trees that the command was seen to begin to walk."""
        uses, self._begins = self._begins, {}
        return uses

    def _begin(self, uses: Uses) -> None:
        if uses:
            self._begins = {**self._begins, **uses}  # another thread may go through what was taken

    def _learn(self, op: int, node: Node, request: abi.Request) -> None:
        self.walks.saw(node, op)
        if op == abi.LOOKUP:
            self._use(path(node, bytes(request.raw[abi.ARGS : -1])), None)
        elif op == abi.UNLINK:  # as of a file that is made for a while, whose next one has another name
            self._uses.pop(path(node, name_of(op, bytes(request.raw))), None)
        elif op == abi.RMDIR:
            self._removed.add(path(node, name_of(op, bytes(request.raw))))
        elif op == abi.LIST:
            if not abi.LIST_IN.unpack_from(request.raw, abi.ARGS)[1]:
                self._begin(self._begun.listed(path(node, b""), self.known))
        elif op == abi.FETCH and node.parent is not None:
            self._begin(self._begun.fetched(path(node.parent, b""), self.known))
        elif node.kind == stat.S_IFREG and node.parent is not None:
            if op == abi.READ:
                _, offset, size, *_ = abi.READ_IN.unpack_from(request.raw, abi.ARGS)
                self._use(name := path(node.parent, node.name), (offset, offset + size))
                self.read.add(name)
            elif op == abi.OPEN and not abi.OPEN_IN.unpack_from(request.raw, abi.ARGS)[0] & (os.O_ACCMODE | os.O_TRUNC):
                self._use(path(node.parent, node.name), (0, 0))
                self._begun.opened(path(node.parent, b""))

    def _listed(self, node: Node, entries: bytes, wanted: int) -> None:
        if self._until is not None and time.monotonic() <= self._until:
            self.walks.listed(node, entries, wanted)
            if wanted == NAMES:
                self._begun.told(path(node, b""))
                if is_cut(entries):  # by its lease the host opens what it has whole alone, and finds in it what it has
                    self._begin({path(node, b""): []})

    def _use(self, name: bytes, read: tuple[int, int] | None) -> None:
        if name not in self._uses and len(self._uses) >= MOST_NAMES:
            return
        ranges = self._uses.setdefault(name, None)
        if read is not None:
            self._uses[name] = joined(ranges or [], read)

    def end(self) -> None:
        """Have kept what was learned: the job is over, and what it uses later does not count."""
        self._until = 0.0
        self.there.end()
        known = dict(self._uses)  # guesses may be on their way still
        if self._removed:
            known = {name: ranges for name, ranges in known.items() if not self._is_removed(name)}
        for root in self.walks.sent.intersection(list(self._begun.begun)):
            known |= self._begun.begun[root]
        uses = self.walks.uses(known)
        if uses != self.known or (uses and not self._sure):
            self._keep(uses)

    def _is_removed(self, name: bytes) -> bool:
        parts = name.split(b"/")
        return any(b"/".join(parts[:count]) in self._removed for count in range(2, len(parts) + 1))


_LEARNED = frozenset(
    (abi.LOOKUP, abi.OPEN, abi.OPENDIR, abi.CREATE, abi.UNLINK, abi.RMDIR, abi.READ, abi.FETCH, abi.LIST)
)


def joined(ranges: Ranges, read: tuple[int, int]) -> Ranges:
    """Return the ranges with one more; those that are near each other are one, and of too many the last are left."""
    found: Ranges = []
    for begin, end in sorted([*ranges, read]):
        if end <= begin:
            continue
        if found and begin <= found[-1][1] + _NEAR:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((begin, end))
    return found[:MOST_RANGES]


class _Telling:
    """Looks names up, and packs what is found."""

    def __init__(self, export: Export) -> None:
        self._export = export
        self._nodes: dict[bytes, int] = {}  # by path, 0: nothing is there
        self._parts: list[bytes] = []

    def told(self, names: Iterable[bytes]) -> Iterator[bytes]:
        most = _SOON
        for name in names:
            self._walk(name)
            if sum(map(len, self._parts)) >= most:
                yield self._taken()
                most = AHEAD // 2
        if self._parts:
            yield self._taken()

    def _taken(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)

    def _walk(self, name: bytes) -> None:
        """Look up that path, but for what of it was looked up before; what is found on the way is told."""
        node, at = abi.ROOT_ID, b""
        for last in name[1:].split(b"/"):
            at += b"/" + last
            found = self._nodes.get(at)
            if found is None:
                found = self._nodes[at] = self._look_up(node, last)
            if not found:
                return
            node = found

    def _look_up(self, parent: int, last: bytes) -> int:
        answer = self._export.answer(abi.Request(abi.request(abi.LOOKUP, parent, last + b"\0")))
        if answer is not None and answer[0] == LEASED:  # it is used once, for its time
            kind, _, _, payload = leases.split(answer[1])
            answer = kind, bytes(payload)
        if answer is None or abi.OUT_HEADER.unpack_from(answer[1])[1]:
            return 0
        reply, rest = known.split(answer[1]) if answer[0] == KNOWN else (answer[1], b"")
        entry = bytes(reply[abi.OUT_HEADER.size :])
        node, _, holds, *_ = abi.ENTRY.unpack_from(entry)
        if not holds:  # it is not to be cached
            self._export.inodes.forget(node, 1)
            return 0
        self._parts.append(names_ahead.pack(names_ahead.NAME, parent, last, entry))
        if answer[0] == KNOWN:
            told = known.parse(abi.LOOKUP, rest)
            if told.link:
                self._parts.append(names_ahead.pack(names_ahead.TARGET, node, b"", told.link))
            elif told.listing is not None:
                self._parts.append(names_ahead.pack(names_ahead.LISTING, parent, b"", told.listing.entries))
        return int(node)
