"""Which locks the job holds, told from what its kernel asks and is granted; an image carries them. Shipped.

The kernel keeps no record of a lock that it has asked a FUSE server for: neither /proc/locks nor criu knows of it.
"""

from __future__ import annotations

from remoteio import fuse_abi as abi

_F_UNLCK = 2
_END = (1 << 63) - 1


class Lock:
    """One lock. `pid`: the process that asked, by the host's number; `fh`: the handle it asked through.

    `flock`: flock(2)'s, which belongs to the handle; else a record lock (fcntl(2)) from `start`, `length` bytes long,
    0: to the end. `kind`: F_RDLCK or F_WRLCK.
    """

    __slots__ = ("fh", "flock", "kind", "length", "pid", "start")

    def __init__(self, flock: bool, kind: int, pid: int, fh: int, start: int = 0, length: int = 0) -> None:
        self.flock, self.kind, self.pid, self.fh, self.start, self.length = flock, kind, pid, fh, start, length


class Held:
    """The locks at this moment. Not for several threads at once."""

    def __init__(self) -> None:
        self._flocks: dict[int, Lock] = {}
        # (node, owner) -> (pid, fh, [(start, last byte, kind)])
        self._records: dict[tuple[int, int], tuple[int, int, list[tuple[int, int, int]]]] = {}

    def granted(self, nodeid: int, asked: bytes) -> None:
        """The SETLK or SETLKW whose bytes are `asked` was answered with success."""
        fh, owner, start, end, kind, pid, flags, _ = abi.LK_IN.unpack_from(asked, abi.ARGS)
        if flags & abi.LK_FLOCK:
            self._flocks.pop(fh, None)
            if kind != _F_UNLCK:
                self._flocks[fh] = Lock(True, kind, pid, fh)
            return
        before = self._records.get((nodeid, owner))
        ranges = [part for old in (before[2] if before else ()) for part in _outside(old, start, end)]
        if kind != _F_UNLCK:
            self._records[nodeid, owner] = (pid, fh, [*ranges, (start, end, kind)])
        elif before and ranges:
            self._records[nodeid, owner] = (before[0], before[1], ranges)
        elif before:
            del self._records[nodeid, owner]

    def flushed(self, nodeid: int, owner: int) -> None:
        """A process closed a descriptor of the file: its record locks on it are gone."""
        self._records.pop((nodeid, owner), None)

    def released(self, fh: int) -> None:
        """The handle is closed for good."""
        self._flocks.pop(fh, None)
        for key in [key for key, (_, asked_through, _) in self._records.items() if asked_through == fh]:
            del self._records[key]

    def locks(self) -> list[Lock]:
        found = list(self._flocks.values())
        for pid, fh, ranges in self._records.values():
            found += [
                Lock(False, kind, pid, fh, start, 0 if end >= _END else end - start + 1) for start, end, kind in ranges
            ]
        return found


def _outside(old: tuple[int, int, int], start: int, end: int) -> list[tuple[int, int, int]]:
    first, last, kind = old
    parts = [(first, min(last, start - 1), kind), (max(first, end + 1), last, kind)]
    return [part for part in parts if part[0] <= part[1]] if first <= end and start <= last else [old]
