"""Submit side: what the job's host has kept of files that home has sent it before (``execute/kept_contents``).

Home remembers what it has sent whole, by the version of the file and the ranges, and does not send it again: the host
is told the version alone, looks into what it keeps, and asks for what it has not. Who asks for what was left out may
have lost it, or keep nothing: it is sent once more, and when that was for nothing as well, always.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Set

from remoteio.wire import fuse_abi as abi

try:
    from _blake2 import blake2b  # hashlib would import OpenSSL, which takes 5 ms
except ImportError:
    from hashlib import blake2b

Ranges = list[tuple[int, int]]
Marks = dict[bytes, int]
"""By a mark of a version and ranges: 0, it was sent; 1, it was asked for all the same; and so on, up to ALWAYS."""

MARK = 8  # bytes
ALWAYS = 3
_RANGE = struct.Struct("=QQ")


class KeptThere:
    """Knows what the host of one job has kept.

    Threads: any; what is lost when two come at once is learned the next time.
    """

    def __init__(
        self,
        known: Callable[[], Marks] = dict,
        keep: Callable[[Mapping[bytes, int]], object] = lambda marks: None,
        told: Set[bytes] = frozenset(),
    ) -> None:
        """`known` reads what was learned before, and `keep` is given what is to be added to it; `told`: the paths of
        which the host was told in a job before this one, and which it knows for as long as they are so."""
        self._read, self._keep, self.told = known, keep, told
        self._known: Marks | None = None
        self._new: Marks = {}
        self._left: dict[int, tuple[bytes, Ranges]] = {}  # what was left out of files, by their nodes

    def has(self, node: int, version: bytes, ranges: Ranges) -> bool:
        """Say whether the host has kept these of a file; then they are left out."""
        mark = _mark(version, ranges)
        found = self._new.get(mark, self._marks().get(mark, 1))
        if not ranges or found % 2:
            return False
        self._left[node] = mark, ranges
        return True

    def sent(self, version: bytes, ranges: Ranges) -> None:
        """Take note that the host was sent all of these of a file."""
        mark = _mark(version, ranges)
        found = self._new.get(mark, self._marks().get(mark, -1))
        if found % 2 and found < ALWAYS:
            self._new[mark] = found + 1

    def asked(self, request: abi.Request) -> None:
        """Take note of a READ: by a handle of the host's own it knew what it was to have kept."""
        left = self._left.get(request.nodeid)
        if left is None:
            return
        fh, offset, size, *_ = abi.READ_IN.unpack_from(request.raw, abi.ARGS)
        mark, ranges = left
        if fh >= abi.OWN_FILES and any(begin <= offset and offset + size <= end for begin, end in ranges):
            del self._left[request.nodeid]
            self._new[mark] = self._new.get(mark, self._marks().get(mark, 0)) + 1

    def end(self) -> None:
        """Have kept what was learned: the job is over."""
        if self._new:
            used = {mark: self._marks().get(mark, 0) for mark, _ in list(self._left.values())}
            self._keep({**used, **self._new})

    def _marks(self) -> Marks:
        if self._known is None:
            self._known = self._read()
        return self._known


def _mark(version: bytes, ranges: Ranges) -> bytes:
    return blake2b(version + b"".join(_RANGE.pack(*each) for each in ranges), digest_size=MARK).digest()
