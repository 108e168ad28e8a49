"""Which file locks the job's kernel was granted and has not given back, for a home after one that was killed. Shipped.

Those that it holds the kernel of home has dropped with that process, and somebody else may have had one since: whoever
holds one cannot be taken up. A lock counts as held as soon as its answer is here, and until an unlock is answered that
was asked for after that: where two threads of a program race, what is unclear counts as held.
"""

from __future__ import annotations

import threading

from remoteio.wire import fuse_abi as abi

LOCK_OPS = (abi.SETLK, abi.SETLKW)
F_UNLCK = 2
_END = (1 << 64) - 1  # behind each range

TYPE_CHECKING = False
if TYPE_CHECKING:
    Range = tuple[int, int, float]  # first, last, when it was granted


class HeldLocks:
    """Keeps them by who has them: of record locks a node and an owner, of flock(2) a handle.

    Threads: any; `_guard` is held for each change.
    """

    __slots__ = ("_guard", "_held")

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held: dict[tuple[int, int], list[Range]] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    def answered(self, op: int, nodeid: int, raw: bytes | memoryview, asked: float, now: float) -> None:
        """Note that home has done what was asked: a lock or an unlock, or a FLUSH. Raises struct.error."""
        if op == abi.FLUSH:
            self._change((nodeid, abi.FLUSH_IN.unpack_from(raw, abi.ARGS)[3]), 0, _END, asked, None)
        elif op in LOCK_OPS:
            fh, owner, start, end, kind, _, flags, _ = abi.LK_IN.unpack_from(raw, abi.ARGS)
            key = (-1, fh) if flags & abi.LK_FLOCK else (nodeid, owner)
            self._change(key, start, end, asked, None if kind == F_UNLCK else now)

    def closed(self, fh: int) -> None:
        """Note that the kernel has closed a handle, and with it what flock(2) has locked."""
        with self._guard:
            self._held.pop((-1, fh), None)

    def _change(self, key: tuple[int, int], start: int, end: int, asked: float, granted: float | None) -> None:
        """Cut the range out of what was granted before `asked`, and add it if it is granted."""
        with self._guard:
            left: list[Range] = []
            for first, last, at in self._held.get(key, ()):
                if at >= asked or last < start or end < first:
                    left.append((first, last, at))
                else:
                    left += [(a, b, at) for a, b in ((first, start - 1), (end + 1, last)) if a <= b]
            if granted is not None:
                left.append((start, end, granted))
            if left:
                self._held[key] = left
            else:
                self._held.pop(key, None)
