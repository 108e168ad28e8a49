"""Which files the job's kernel has open, for a home that was killed and does not know it any more. Shipped."""

from __future__ import annotations

from collections.abc import Iterable

from remoteio.execute.held_locks import LOCK_OPS, HeldLocks
from remoteio.wire import fuse_abi as abi

OPENS = frozenset((abi.OPEN, abi.OPENDIR, abi.CREATE, abi.TMPFILE))
NOTED = OPENS | {abi.FLUSH, *LOCK_OPS}


class Handles:
    """Keeps the handles that the kernel has: of which node each is, and with which flags it was opened.

    highest  the greatest number of one
    locked   the nodes on which a lock was ever asked
    coherent of these, those whose pages are written out before an unlock
    locks    what is locked

    Threads: any, without a lock, but for those of `locks`: each step is one operation of a dict. A handle is noted
    before the kernel hears of it, and so before it is closed.
    """

    __slots__ = ("_open", "coherent", "highest", "locked", "locks")

    def __init__(self) -> None:
        self._open: dict[int, tuple[int, int]] = {}
        self.highest = 0
        self.locked: set[int] = set()
        self.coherent: set[int] = set()
        self.locks = HeldLocks()

    def answered(
        self, op: int, nodeid: int, asked: bytes | memoryview, reply: bytes | memoryview, at: float, now: float
    ) -> None:
        """Note what the kernel is about to be told, of what it asked `at` a time. Raises struct.error."""
        if op in OPENS:
            self.opened(op, nodeid, asked, reply)
        else:
            self.locks.answered(op, nodeid, asked, at, now)

    def opened(self, op: int, nodeid: int, asked: bytes | memoryview, reply: bytes | memoryview) -> None:
        """Note what the kernel is about to be told. Raises struct.error."""
        at = abi.OUT_HEADER.size
        if op in (abi.CREATE, abi.TMPFILE):
            nodeid = abi.ENTRY.unpack_from(reply, at)[0]
            at += abi.ENTRY.size + abi.ATTR.size
        fh = abi.OPEN_OUT.unpack_from(reply, at)[0]
        if fh < abi.OWN:  # else home has not opened it
            self._open[fh] = (nodeid, abi.OPEN_IN.unpack_from(asked, abi.ARGS)[0])
            self.highest = max(self.highest, fh)

    def undone(self, op: int, reply: bytes | memoryview) -> None:
        """Note that what that reply tells of the kernel does not have, after all. Raises struct.error."""
        if op in OPENS and not abi.OUT_HEADER.unpack_from(reply)[1]:
            at = abi.OUT_HEADER.size + (abi.ENTRY.size + abi.ATTR.size if op in (abi.CREATE, abi.TMPFILE) else 0)
            self.closed(abi.OPEN_OUT.unpack_from(reply, at)[0])

    def closed(self, fh: int) -> None:
        """Note that the kernel has closed it."""
        self._open.pop(fh, None)
        self.locks.closed(fh)

    def state(
        self,
        asked: list[tuple[int, int, bytes | memoryview]],
        told: bool,
        here: Iterable[tuple[int, int, int]] = (),
    ) -> dict[str, list[bytes]]:
        """Tell what the kernel has, and has `asked`: number, operation and message. Fields of STATE.

        `told`: all that was answered has reached the kernel. `here`: what the relay has opened: handle, node, flags.
        """
        why = []
        if self.locks:
            why.append(b"it holds a file lock, which another may have had since")
        elif any(op in LOCK_OPS for _, op, _ in asked):
            why.append(b"it was asking for a file lock")
        elif self.locked - self.coherent:  # what the job changed through a mapping may not be at home
            why.append(b"it has locked a file with pages that may not be written")
        if not told:
            why.append(b"what was answered is still on its way to its kernel")
        return {
            "asked": [b"%d %d %d" % (unique, op, _flags(op, raw)) for unique, op, raw in asked],
            "files": [b"%d %d %d" % (fh, *each) for fh, each in self._open.copy().items()]
            + [b"%d %d %d" % each for each in here],
            "highest": [b"%d" % self.highest],
            "why": why,
        }


def _flags(op: int, raw: bytes | memoryview) -> int:
    """The flags of an OPEN or a WRITE."""
    if op == abi.OPEN:
        return int(abi.OPEN_IN.unpack_from(raw, abi.ARGS)[0])
    return int(abi.WRITE_IN.unpack_from(raw, abi.ARGS)[5]) if op == abi.WRITE else 0
