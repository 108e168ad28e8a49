"""Submit side: trees that a command begins to walk, found while it does, so that the rest is sent before it asks.

The job's host guesses a few directories, and files, at a time, each by a request of its own (LIST, FETCH). A few of
these in one tree, and home sends all that is left of it, as if that had been walked the last time (``learned_walks``).
"""

from __future__ import annotations

from collections.abc import Mapping

from remoteio.submit.export.learned_walks import (
    CONTENTS,
    MOST_PASSED_BY,
    NAMES,
    PASSED_BY,
    Uses,
    is_in,
    use_of,
)
from remoteio.wire.listed import DIRECTORY, walk

MOST_BEGUN = 16  # trees of one command
_LISTS, _FETCHES = 4, 3  # by which a tree is taken to be walked, and its files to be read


class BegunWalks:
    """Knows what is walked now. `walked`: of which directories the host was told which entries, by their paths.

    begun  what was begun with: by the root of each tree its uses, as ``learned_walks`` has them

    Threads: any; when two come at once, something may be sent twice. What is gone through is copied first, in one step.
    """

    def __init__(self, walked: Mapping[bytes, tuple[int, bytes]]) -> None:
        self.begun: dict[bytes, Uses] = {}
        self._walked = walked
        self._within: dict[bytes, bytes] = {}  # directory -> one in it that was told; none: several were
        self._lists = self._fetches = 0  # since the last was begun with
        self._read: set[bytes] = set()

    def told(self, name: bytes) -> None:
        """Take note that the host is told of a directory."""
        above = name.rpartition(b"/")[0]
        if above in self._walked and self._within.setdefault(above, name) != name:
            self._within[above] = b""

    def opened(self, above: bytes) -> None:
        """Take note that a file of a directory is opened: what is wanted of a tree is more than its names."""
        if above in self._walked:
            self._read.add(above)

    def listed(self, name: bytes, known: Uses) -> Uses:
        """Take note that the host asks for a directory that the command may come to; return what is to be sent."""
        self.told(name)
        self._lists += 1
        root = self._root(name)
        if self._lists < _LISTS or root == name or self._reads(root):
            return {}
        return self._begin(root, name, NAMES, known)

    def fetched(self, above: bytes, known: Uses) -> Uses:
        """Take note that the host asks for what is in a file of a directory; return what is to be sent."""
        self.opened(above)
        self._fetches += 1
        if self._fetches < _FETCHES or above not in self._walked:
            return {}
        return self._begin(self._root(above), above, CONTENTS, known)

    def _reads(self, root: bytes) -> bool:
        return any(each == root or each.startswith(root + b"/") for each in list(self._read))

    def _root(self, name: bytes) -> bytes:
        """The highest directory from which on the walk has come to that one: it went to several of what is in it."""
        root = at = name
        while (at := at.rpartition(b"/")[0]) in self._walked:
            if self._within.get(at) == b"":
                root = at
        return root

    def _begin(self, root: bytes, at: bytes, wanted: int, known: Uses) -> Uses:
        """What is to be sent of a tree in which the walk has come to that directory: all behind it."""
        if len(self.begun) >= MOST_BEGUN or is_in(root, wanted, known) or is_in(root, wanted, self._roots()):
            return {}
        uses: Uses = {}
        if root != at:
            towards = at[len(root) + 1 :].partition(b"/")[0]
            for _, _, _, name, _, kind in walk(self._walked[root][1]):
                if name == towards:
                    break
                each = root + b"/" + name
                if kind == DIRECTORY and name not in (b".", b"..") and each not in self._walked:
                    uses[each] = use_of(PASSED_BY)
            if len(uses) > MOST_PASSED_BY:
                return {}
        uses[root] = use_of(wanted)
        self.begun[root] = uses
        self._lists = self._fetches = 0
        return uses

    def _roots(self) -> Uses:
        return {root: uses[root] for root, uses in list(self.begun.items())}
