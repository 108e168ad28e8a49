"""Submit side: directories that a command walked the last time (``learned_walks``), listed before it asks.

Each is listed, under leases, in the order of a walk, and several are deflated as one part of a PUSHED frame. What the
job's host has asked for by itself meanwhile is left out: it was ahead.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Set

from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.learned_walks import (
    ATTRIBUTES,
    CONTENTS,
    MOST_WALKED,
    NAMES,
    LearnedWalks,
)
from remoteio.wire import pushed
from remoteio.wire.coherence import AHEAD, LEASED_NAMES
from remoteio.wire.listed import directories, walk

_REGULAR = 8  # d_type: DT_REG of readdir(3)
_HELD = 3 * AHEAD  # bytes of entries of which most are names alone, and the rest of these is nothing when deflated
MOST_TOLD = LEASED_NAMES // 2  # names of one run: more would take the place of what the host needs
_SOON, _PART = 8 << 10, 16 << 10  # bytes of directories that are sent in one part: in the first, in all others

Contents = Callable[[list[int]], Iterator[bytes]]
"""Makes the parts for what is in files, of which the names have been told."""


class PushedWalk:
    """Makes the parts for all that is below one directory, but for what was asked for meanwhile (`learned`)."""

    def __init__(self, export: Export, learned: LearnedWalks, contents: Contents) -> None:
        self._export, self._learned, self._contents = export, learned, contents
        self._ready: list[bytes] = []
        self._size, self._most = 0, _SOON

    def parts(self, top: int, root: bytes, wanted: int | None, passed_by: Set[int]) -> Iterator[bytes]:
        """List it, and all below it that is not `passed_by`, for what is `wanted` there, in the order of a walk.

        None: it alone.
        """
        most = 1 if wanted is None else MOST_WALKED
        left, inodes, learned = [top], self._export.inodes, self._learned
        learned.left.add(root)
        held = wanted != ATTRIBUTES
        while left and most and learned.names < MOST_TOLD:
            node = inodes.nodes.get(left.pop())
            if node is None or node.kind != stat.S_IFDIR:
                continue
            if held and wanted is not None and (wanted := learned.wants(root, wanted)) == ATTRIBUTES:
                yield from self._add(b"", held, True)
                held = False
            if wanted != CONTENTS and (asked := learned.asked_for(node)):
                most -= 1
                if wanted is not None:
                    left += reversed([each for each in directories(walk(asked)) if each not in passed_by])
                continue
            room = _HELD if held else AHEAD
            entries, part = self._export.listed(node, room, leased=True, held=held, files=wanted == CONTENTS)
            if not entries:
                continue
            most -= 1
            learned.names += len(found := walk(entries))
            if wanted is None:
                learned.pushed(node, entries)
            else:
                left += reversed([each for each in directories(found) if each not in passed_by])
            learned.bare.update({node.id: root} if wanted == NAMES else {})
            regular = (each[2] for each in found if each[5] == _REGULAR and each[2])
            files = [each for each in regular if each not in learned.fetched] if wanted == CONTENTS else []
            yield from self._add(part, held, bool(files))
            yield from self._contents(files)
        yield from self._add(b"", held, True)
        learned.left.discard(root)
        learned.sent.add(root)

    def _add(self, part: bytes, held: bool, last: bool) -> Iterator[bytes]:
        """Send what is ready, if it is enough or the last of it."""
        if part and self._size + len(part) > pushed.LISTED_AT_ONCE:
            yield from self._add(b"", held, True)
        if part:
            self._ready.append(part)
            self._size += len(part)
        if self._ready and (last or self._size >= self._most):
            made = pushed.pack_listed(self._ready, held)
            self._ready, self._size, self._most = [], 0, _PART
            yield made
