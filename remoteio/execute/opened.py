"""Execute side: files that are opened here, under a lease on their contents, without asking home. Pure. Shipped.

Such a file has a handle of the relay's own (from OWN_FILES on). As long as the kernel has all that it wants of the
file, home hears nothing of it. Before anything goes home that names the handle, home is told of it (OPENED), and opens
the file by that number. It is told as well

* before the job takes a name away: what is open outlives its name, and without one home would not find it;
* of what stays open (`AGE`), so that it outlives its name when somebody else takes it away.

Two threads may tell of one handle: home takes the second for nothing. What was closed meanwhile is closed once more.

While criu looks at the job's files, home knows all that is open, and nothing more is opened here (`by_home`): an image
tells of what home has open. A home that takes the job up after another was killed is told of all with its first word
(``told_anew``).

The caller sees to it that one thread at a time is here (``relay.Relay._order``).
"""

from __future__ import annotations

from collections.abc import Iterable

from remoteio.execute.pushed import Pushed
from remoteio.execute.read_on import ReadOn
from remoteio.execute.searched import Searched
from remoteio.wire import fuse_abi as abi
from remoteio.wire.coherence import OPENED_HERE

AGE = 0.2  # seconds; most are closed sooner
_REMOVES = frozenset((abi.UNLINK, abi.RENAME, abi.RENAME2))
# what names a handle first; and where there is one only by a flag, behind it
_FIRST = frozenset(
    (
        abi.READ, abi.FLUSH, abi.FSYNC, abi.LSEEK, abi.GETLK, abi.SETLK, abi.SETLKW,
        abi.COPY_FILE_RANGE, abi.COPY_FILE_RANGE_64,
    )
)  # fmt: skip
_FLAGGED = frozenset((abi.GETATTR, abi.STATX_OP))


class Opened:
    """Keeps the handles; ``untold`` are those that home has not been told of. ``pushed``: what is read by them.
    ``searched``: the directories that may be entered. ``reads``: what is read next of large files, by any handle.

    `by_home`: none is opened here.
    """

    def __init__(self) -> None:
        self.pushed, self.searched, self.reads = Pushed(), Searched(), ReadOn()
        self.by_home = False
        self._told: dict[int, tuple[int, int]] = {}  # fh -> nodeid, flags
        self.untold: dict[int, tuple[int, int, float]] = {}  # fh -> nodeid, flags, since when; in that order
        self._next = abi.OWN_FILES

    def open(self, nodeid: int, flags: int, now: float) -> int:
        """Open a file; 0: home is to do that, or too many are open."""
        if self.by_home or len(self.untold) + len(self._told) >= OPENED_HERE:
            return 0
        self._next += 1
        self.untold[self._next] = nodeid, flags, now
        return self._next

    def needed(self, op: int, raw: bytes | memoryview) -> list[int]:
        """List the handles that home must be told of before that request."""
        if op in _REMOVES:
            return list(self.untold)
        if op in _FIRST:
            fh = abi.HANDLE.unpack_from(raw, abi.ARGS)[0]
        elif op in _FLAGGED:
            flags, _, fh = abi.GETATTR_IN.unpack_from(raw, abi.ARGS)
            fh = fh if flags & abi.GETATTR_FH else 0
        else:
            return []
        return [fh] if fh in self.untold else []

    def is_untold(self, nodeid: int) -> bool:
        """Say whether home is still to be told that a file is open."""
        return any(each == nodeid for each, _, _ in self.untold.values())

    def old(self, now: float) -> list[int]:
        """List the handles that have been open for a while, and home does not know."""
        found = []
        for fh, (_, _, since) in self.untold.items():
            if now - since < AGE:
                break
            found.append(fh)
        return found

    def request(self, handles: Iterable[int]) -> bytes:
        """Make the request that tells home of these."""
        items = ((fh, *self.untold[fh][:2], 0) for fh in handles)
        return abi.request(abi.OPENED, 0, b"".join(abi.OPENED_ONE.pack(*item) for item in items))

    def tell(self, handles: Iterable[int]) -> list[int]:
        """Take note that home was told of these, and list those that were closed meanwhile."""
        closed = []
        for fh in handles:
            opened = self.untold.pop(fh, None)
            if opened is not None:
                self._told[fh] = opened[:2]
            elif fh not in self._told:
                closed.append(fh)
        return closed

    def told_anew(self) -> list[tuple[int, int, int]]:
        """List all that is open: handle, node, flags; a home that knows nothing yet is told of it first of all."""
        self.tell(list(self.untold))
        return [(fh, *each) for fh, each in self._told.items()]

    def changed(self, nodeid: int) -> None:
        """Forget what has come of a file that somebody changes."""
        self.pushed.changed(nodeid)
        self.reads.changed(nodeid)

    @property
    def released(self) -> bool:
        """Whether somebody waits for what does not come."""
        return bool(self.pushed.released or self.reads.released)

    def nobody_waits(self) -> None:
        """Take note that each who waits asks for it by himself."""
        self.pushed.released.clear()
        self.reads.nobody_waits()

    def closes(self, fh: int, raw: bytes) -> bool:
        """Take note of a RELEASE, and say whether home is to be told now."""
        waits = self.reads.closes(fh, raw)
        return (fh < abi.OWN or (fh >= abi.OWN_FILES and self.close(fh))) and not waits

    def close(self, fh: int) -> bool:
        """Close it, and say whether home is to be told."""
        if self.untold.pop(fh, None) is not None:
            return False
        self._told.pop(fh, None)
        return True
