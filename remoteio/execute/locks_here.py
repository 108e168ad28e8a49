"""Execute side: locks that are taken and given up on this host, where home has left that to it. Shipped.

See ``kept_locks``. What home is told of them in the end are changes in their order (``behind``): all that is asked for
later is done after them, and what the job says waits for them.
"""

from __future__ import annotations

import errno
import itertools
import threading
from collections.abc import Callable

from remoteio.execute.at_once import AT_ONCE
from remoteio.execute.held_locks import LOCK_OPS
from remoteio.execute.kept_locks import F_UNLCK, IDLE, KeptLocks
from remoteio.execute.kept_reads import KeptReads
from remoteio.wire import fuse_abi as abi
from remoteio.wire import leases
from remoteio.wire.behind import LOCKS, SAME_FILE, SAME_LARGE
from remoteio.wire.link import Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remoteio.execute.known import Asked

LOCKING = (abi.GETLK, *LOCK_OPS)
_O_TRUNC = 0o1000
_FIRST = abi.OWN | 1 << 62  # of numbers that no other request of the relay's has
# tell who looks at home that what came before is done
_SAY = frozenset(
    (
        abi.CREATE, abi.MKNOD, abi.MKDIR, abi.SYMLINK, abi.LINK, abi.UNLINK, abi.RMDIR, abi.RENAME, abi.RENAME2,
        abi.SETATTR, abi.SETXATTR, abi.REMOVEXATTR, abi.WRITE, abi.FALLOCATE, abi.COPY_FILE_RANGE,
        abi.COPY_FILE_RANGE_64, abi.FLUSH, abi.SETLK, abi.SETLKW, abi.OPEN,
    )
)  # fmt: skip


class LocksHere(KeptReads):
    """Does what home has left to this host. Threads: see ``relay``, of which this is a part.

    `_leaving` is held while locks become home's again, which waits for the kernel to write pages out.
    """

    def __init__(self, fd: int, link: Link, fail: Callable[[BaseException], None]) -> None:
        super().__init__(fd, link, fail)
        self._fail = fail
        self.kept_locks = KeptLocks()
        self._leaving = threading.Lock()
        self._numbers = itertools.count(_FIRST, 2)
        self._deferred: dict[int, bool] = {}  # unique -> it was interrupted; of requests that are sent a moment later
        self._any = threading.Event()  # locks are left to this host
        self._timed = False

    def all_done(self) -> None:
        """Wait until home has done all that the kernel was told is done, and has the locks that it was told of."""
        if self.kept_locks:
            self._give_up()
        self.behind.settle()

    def broken(self, payload: bytes | memoryview) -> None:
        """Forget what is leased no more, and give up the locks on what others have opened. Raises ProtocolError."""
        nodes = [nodeid for nodeid, name in leases.broken(payload) if name == LOCKS]
        with self._order:
            for nodeid in nodes:
                self.kept_locks.lost(nodeid, self.now())
        super().broken(payload)  # first: pages that are written out are not to be read again from what is known here
        if nodes and self.kept_locks:
            self._beside(self._give_up)

    def _is_shared(self, nodeid: int) -> bool:
        return super()._is_shared(nodeid) and not self.kept_locks.has(nodeid)

    def _locks(self, op: int, unique: int, nodeid: int, raw: bytes) -> bool:
        """Lock or unlock here, or ask home once pages are written out. False: it is simply passed on."""
        if self.kept_locks:
            with self._order:
                done = self.kept_locks.answer(op, nodeid, raw, self.now())
                if done:
                    self.counts.here[op] += 1
            if done:
                self._to_kernel(abi.reply(unique))
                return True
            if self._says(op, nodeid, raw):
                self._defer(op, unique, nodeid, abi.IN_HEADER.unpack_from(raw)[6], raw)
                return True
        if op == abi.GETLK:
            return False
        self.handles.locked.add(nodeid)
        if nodeid not in self.handles.coherent or not _unlocks(raw):
            return False
        with self._order:
            self._asked[unique] = (op, nodeid, 0, self._known.asked(op, nodeid), self.now(), raw)
        self._beside(lambda: self._write_out(nodeid, raw))
        return True

    def _write_out(self, nodeid: int, raw: bytes) -> None:
        # what the job changed through a shared mapping is at home before others may take the lock
        self._to_kernel(abi.inval_inode(nodeid))
        self._send(abi.SETLK, raw)

    def _unlocked(self, nodeid: int, owner: int) -> bool:
        """Take note that a process closes a file; whether some of it was ever locked."""
        if nodeid not in self.handles.locked:
            return False
        with self._order:
            self.kept_locks.flushed(nodeid, owner)
        return True

    def _says(self, op: int, nodeid: int, raw: bytes | memoryview) -> bool:
        """Say whether home is to have the locks before that is done there.

        Not of a change of such a file itself: the kernel may not write its pages out while it waits for that.
        """
        kept = self.kept_locks
        if op in LOCKING and kept.has(nodeid):
            return True
        if op not in _SAY or kept.has(nodeid):
            return False
        if op == abi.WRITE:
            return abi.HANDLE.unpack_from(raw, abi.ARGS)[0] not in self.behind.answers.beside
        if op in LOCK_OPS:
            return _unlocks(raw)
        return op != abi.OPEN or bool(abi.OPEN_IN.unpack_from(raw, abi.ARGS)[0] & _O_TRUNC)

    def _early(self, op: int, unique: int, nodeid: int, pid: int, raw: bytes | memoryview) -> bool:
        """Answer before home has done it, or ask home once it has all locks again. False: it is simply asked."""
        if self.kept_locks:
            if self._says(op, nodeid, raw):
                self._defer(op, unique, nodeid, pid, raw)
                return True
            with self._order:
                self.kept_locks.at_work(self.now())
        return op in AT_ONCE and self.behind.answers.granted and self._at_once(op, unique, nodeid, raw)

    def _defer(self, op: int, unique: int, nodeid: int, pid: int, raw: bytes | memoryview) -> None:
        """Ask home once it has all locks again."""
        self._deferred[unique] = False

        def ask() -> None:
            self._give_up()
            if op in LOCK_OPS and nodeid in self.handles.coherent and _unlocks(raw):
                self._to_kernel(abi.inval_inode(nodeid))
            with self._order:
                interrupted = self._deferred.pop(unique)
                if not interrupted:
                    self._asked[unique] = op, nodeid, pid, self._known.asked(op, nodeid), self.now(), raw
            if interrupted:
                self._to_kernel(abi.failure(unique, errno.EINTR))
            else:
                self._send(op, raw)

        self._beside(ask)

    def _interrupted(self, unique: int) -> bool:
        """Take note of an interrupt of what is still to be sent. False: it is not."""
        with self._order:
            deferred = unique in self._deferred
            if deferred:
                self._deferred[unique] = True
        return deferred

    def _give_up(self) -> None:
        """Have home know what is locked. Not in a thread that reads the kernel's requests."""
        with self._leaving:
            with self._order:
                nodes = self.kept_locks.leave()
            for nodeid in nodes:  # what the job changed through a shared mapping is at home before others may lock it
                if nodeid in self.handles.coherent:
                    self._to_kernel(abi.inval_inode(nodeid))
            changes, now = [], self.now()
            with self._order:
                for nodeid, args in self.kept_locks.left(nodes, now):
                    unique = next(self._numbers)
                    raw = abi.request(abi.SETLK, nodeid, args, unique)
                    asked = abi.SETLK, nodeid, 0, self._known.asked(abi.SETLK, nodeid), now, raw
                    changes.append((self.behind.entered(unique, asked, abi.reply(unique))[0], raw))
            for number, raw in changes:
                self.behind.send_change(number, raw)
            if changes:
                self.behind.admit(changes[-1][0])

    def _is_sole(self, asked: Asked, error: int, payload: bytes | memoryview, now: float) -> bool:
        """Say whether it is a lock whose reply tells of nothing that others have done. Under `_order`."""
        op, nodeid, *_, raw = asked
        if op not in LOCK_OPS:
            return False
        if not error and payload[abi.OUT_HEADER.size :] in (SAME_FILE, SAME_LARGE):
            self._known.written.is_left(nodeid, now)
            return True
        return bool(error) or _unlocks(raw)

    def _noted(self, asked: Asked, unique: int, payload: bytes | memoryview, now: float) -> bytes | memoryview:
        op, nodeid, _, _, at, raw = asked
        if op in LOCK_OPS:
            whole = len(payload) > abi.OUT_HEADER.size
            if payload[abi.OUT_HEADER.size :] == SAME_FILE:
                self.handles.coherent.add(nodeid)
            with self._order:
                keep = self.kept_locks.replied(nodeid, raw, whole, at, now) and not (whole and self._others(nodeid))
            if whole:
                super()._noted(asked, unique, payload, now)
                payload = abi.reply(unique)
                if keep:
                    self._begin()
                else:
                    self._beside(self._give_up)
                return payload
        return super()._noted(asked, unique, payload, now)

    def _others(self, nodeid: int) -> bool:
        """Whether another lock on that file has been asked for: home may keep it waiting for this host."""
        return any(each[1] == nodeid and each[0] in LOCKING for each in list(self._asked.values()))

    def _refused(self, asked: Asked, unique: int) -> bool:
        """Ask once more for a lock that home may have refused since it has left those of the file to this host."""
        op, nodeid, pid, _, at, raw = asked
        if op != abi.SETLK or not self.kept_locks.was(nodeid, at):
            return False
        self._defer(op, unique, nodeid, pid, raw)
        return True

    def _begin(self) -> None:
        self._any.set()
        with self._order:
            begun, self._timed = self._timed, True
        if not begun:
            threading.Thread(target=self._time, name="locks", daemon=True).start()

    def _time(self) -> None:
        pause = threading.Event()
        try:
            while self._any.wait():
                self._any.clear()
                while self.kept_locks:
                    pause.wait(IDLE / 2)
                    with self._order:
                        due = self.kept_locks.due(self.now())
                    if due:
                        self._give_up()
        except BaseException as e:  # whatever ends a thread of ours ends the run, and is raised there
            self._fail(e)


def _unlocks(raw: bytes | memoryview) -> bool:
    return bool(abi.LK_IN.unpack_from(raw, abi.ARGS)[4] == F_UNLCK)
