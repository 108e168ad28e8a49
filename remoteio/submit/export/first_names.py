"""Submit side: the names that a command looks up as it starts, learned, and told before it asks the next time.

Nothing that was learned is told but names: each is looked up when the job starts, by the same operation as if the job
had asked, so what is told is true then, and it is no more than the job may see.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.nodes import path
from remoteio.wire import fuse_abi as abi
from remoteio.wire import known, leases, names_ahead
from remoteio.wire.coherence import AHEAD
from remoteio.wire.frames import KNOWN, LEASED

MOST_NAMES = 512
FIRST_S = 5.0  # seconds from the first of them, for which names are learned


class FirstNames:
    """Tells the names that are `known`, and learns which are looked up beside.

    Threads: any may call what is here.
    """

    def __init__(self, known: list[bytes], keep: Callable[[list[bytes]], None]) -> None:
        """`keep` is given all names to be told the next time, if there are more than are known."""
        self._known, self._keep = known, keep
        self._new: dict[bytes, None] = {}
        self._until: float | None = None  # when the first request comes, FIRST_S later

    def begin(self, export: Export) -> Iterator[bytes]:
        """Make the payloads of the NAMES frames that tell what is known of these names now."""
        return _Telling(export).told(self._known)

    def saw(self, export: Export, request: abi.Request) -> None:
        """Take note of a request, if it is to be learned."""
        if request.op != abi.LOOKUP or len(self._new) >= MOST_NAMES:
            return
        now = time.monotonic()
        if self._until is None:
            self._until = now + FIRST_S
        if now > self._until:
            return
        parent = export.inodes.nodes.get(request.nodeid)
        if parent is not None:
            self._new[path(parent, bytes(request.raw[abi.ARGS : -1]))] = None

    def end(self) -> None:
        """Have kept what was learned: the job is over, and what it looked up later does not count."""
        self._until = 0.0
        found = list(dict.fromkeys([*self._known, *self._new]))[:MOST_NAMES]
        if len(found) > len(self._known):
            self._keep(found)


class _Telling:
    """Looks names up, and packs what is found."""

    def __init__(self, export: Export) -> None:
        self._export = export
        self._nodes: dict[bytes, int] = {}  # by path, 0: nothing is there
        self._parts: list[bytes] = []

    def told(self, names: list[bytes]) -> Iterator[bytes]:
        for name in names:
            self._walk(name)
            if sum(map(len, self._parts)) >= AHEAD // 2:
                yield self._taken()
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
