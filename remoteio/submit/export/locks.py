"""File locks of the job, held at home: they hold against every process of the submit machine too.

flock(2) is taken on the descriptor of the job's own open file. A POSIX lock (fcntl(2) F_SETLK) belongs to a process and
a file, so each owner has one descriptor a file, locked with *open file description* locks; closing it at the owner's
FLUSH drops them all, as POSIX wants.

A lock is also where caches meet: what the job's kernel cached of a file is dropped when a lock on it is granted, unless
the file is large and provably unchanged, so that a program that locks before it reads (sqlite) reads what others wrote.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections import OrderedDict
from collections.abc import Callable

from remoteio import syscalls
from remoteio.kernel_structs import FLOCK
from remoteio.submit.export.carried_locks import Claims, Range
from remoteio.submit.export.descriptors import Descriptor
from remoteio.submit.export.inodes import Inodes, version
from remoteio.submit.export.least_used import LeastUsed
from remoteio.submit.export.nodes import Handle, LockOwner, Node
from remoteio.submit.export.sole import Soles
from remoteio.submit.interruptible import Wait
from remoteio.wire import fuse_abi as abi

_END = (1 << 63) - 1
_EARLY = 64  # most interrupts come when all is done
MOST_TWINS = 64 << 20  # bytes of memory for the pages that a lock may guard


class Locks:
    """Takes and drops locks on the files of `inodes`.

    Threads: any; one that waits for a lock does so in the kernel. `_guard` is held while the owner of a lock is looked
    for or made. `_waiting` is a dict by number of request, whose entry is there before the request is handed on.
    """

    def __init__(self, inodes: Inodes, soles: Soles) -> None:
        self._inodes = inodes
        # Of a file that is open the kernel may have pages to write back; of any other it reads them anew.
        self.twins: LeastUsed[Node] = LeastUsed(MOST_TWINS, Node.altered, lambda node: bool(node.handles))
        self.soles = soles  # the files that nobody else has open
        self.claims: Claims | None = None  # of a job that is being restored
        self._waiting: dict[int, Wait] = {}
        self._early: OrderedDict[int, None] = OrderedDict()  # requests that were interrupted, and may still come
        self._guard = threading.Lock()

    def expect(self, unique: int, most: int) -> bool:
        """Let a request that may wait be interrupted from now on: it is about to be handed to a worker.

        False: `most` wait already, and it may not. Raises FuseError for one that waits already.
        """
        if unique in self._waiting:
            raise abi.FuseError("two requests that wait for a lock have the number %d" % unique)
        if len(self._waiting) >= most:
            return False
        self._waiting[unique] = waiting = Wait()
        if unique in self._early:
            waiting.end()
        return True

    def over(self, unique: int) -> None:
        """Take note that the request has been dealt with."""
        self._waiting.pop(unique, None)

    def interrupt(self, unique: int) -> None:
        """Wake the request `unique`, whose answer the kernel does not want any more.

        Of two threads that read the kernel's requests the one with this may be the quicker: then that is still to come.
        """
        if unique not in self._waiting:
            self._early[unique] = None
            if len(self._early) > _EARLY:
                self._early.popitem(last=False)
        waiting = self._waiting.get(unique)  # after: it may have come just now
        if waiting is not None:
            waiting.end()

    def set(self, r: abi.Request, wait: bool = False) -> None:
        """Do SETLK or SETLKW. Raises EAGAIN if another holds it (or EINTR when the wait was interrupted)."""
        fh, owner, start, end, kind, pid, flags, _ = _asked(r)
        handle = self._inodes.handle(fh)
        if handle.node.parent is not None:
            handle.node.parent.shared = True
        if flags & abi.LK_FLOCK:
            handle.flocked = True
            if self.claims is not None:
                self.claims.flock(handle, kind)
            how = {fcntl.F_RDLCK: fcntl.LOCK_SH, fcntl.F_WRLCK: fcntl.LOCK_EX, fcntl.F_UNLCK: fcntl.LOCK_UN}[kind]
            self._try(
                r.unique, wait, handle, handle.fd, lambda fd: fcntl.flock(fd, how | fcntl.LOCK_NB),
                lambda fd: syscalls.flock(fd, how),
            )  # fmt: skip
            return
        if kind == fcntl.F_UNLCK and owner not in handle.node.locks:
            return
        length = 0 if end >= _END else end - start + 1
        fd = self._owner(handle, owner, pid, (kind, start, length)).fd
        lock = FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
        self._try(
            r.unique, wait, handle, fd, lambda fd: fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock),
            lambda fd: syscalls.lock_range(fd, lock),
        )  # fmt: skip

    def alone(self, r: abi.Request) -> bool:
        """Say whether a record lock is asked for on a file that the job has open once, and nobody else has."""
        fh, owner, _, _, kind, pid, flags, _ = _asked(r)
        if flags & abi.LK_FLOCK or kind == fcntl.F_UNLCK:
            return False
        handle = self._inodes.handle(fh)
        return self.soles.alone(handle, lambda: self._owner(handle, owner, pid)) and len(handle.node.handles) == 1

    def whole(self, r: abi.Request) -> bool:
        """Lock the whole file for the owner who asked. False: others hold some, or it may not be written."""
        fh, owner, *_ = _asked(r)
        held = self._inodes.handle(fh).node.locks.get(owner)
        try:
            if held is not None:
                fcntl.fcntl(held.fd, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        except OSError:
            return False
        return held is not None

    def _owner(self, handle: Handle, owner: int, pid: int, asked: Range | None = None) -> LockOwner:
        node = handle.node
        with self._guard:
            held = node.locks.get(owner)
            fh = handle.number
            if held is None and asked is not None and self.claims is not None:
                fd = self.claims.owner(handle, asked)
                if fd >= 0:
                    held = node.locks[owner] = LockOwner(Descriptor(fd), pid, fh)
            if held is None:
                self._inodes.may_open()
                try:
                    self._inodes.allowed.may_change(node)
                    fd = self._inodes.descriptors.reopen(node, os.O_RDWR)
                except OSError:
                    fd = self._inodes.descriptors.reopen(node, os.O_WRONLY if handle.writable else os.O_RDONLY)
                held = node.locks[owner] = LockOwner(Descriptor(fd), pid, fh)
            self._inodes.descriptors.owners.add(int(held.fd))
            return held

    def _try(
        self, unique: int, wait: bool, handle: Handle, fd: int, at_once: Callable[[int], object],
        in_turn: Callable[[int], object],
    ) -> None:  # fmt: skip
        """Take a lock on `fd`: `at_once`, which raises EAGAIN; or `in_turn`, which waits, and raises EINTR."""
        waiting = self._waiting.get(unique)
        while True:
            try:
                at_once(fd)
                return
            except OSError as e:
                if e.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
            if self.claims is None or not self.claims.drop(handle):
                break
        # whoever has it by the time of a restore would hold that up: it fails, and says why
        if not wait or self.claims is not None:
            raise OSError(errno.EAGAIN, "another holds the lock")
        if waiting is None:
            raise OSError(errno.ENOLCK, "as many wait for a lock as may")
        own = os.dup(fd)  # of the same open file, and its number is nobody else's before this is over
        try:
            waiting.run(lambda: in_turn(own))
        finally:
            os.close(own)

    def claimed(self) -> None:
        """Take note that a job which was being restored has asked for all that it will."""
        if self.claims is not None:
            self.claims.of_mapped(self._inodes)
        self.claims = None

    def end(self) -> None:
        """Wake all that wait for a lock: they do so in vain from now on."""
        for waiting in tuple(self._waiting.values()):
            waiting.end()

    def test(self, r: abi.Request) -> bytes:
        """Answer GETLK: the first lock in the way, or F_UNLCK."""
        fh, owner, start, end, kind, pid, _, _ = _asked(r)
        handle = self._inodes.handle(fh)
        asked = self._owner(handle, owner, pid)
        kind, at, length, pid = _first(asked, kind, start, 0 if end >= _END else end - start + 1)
        if kind == fcntl.F_UNLCK:
            return abi.LK_OUT.pack(0, 0, kind, 0)
        # A process of this machine has no number over there. Of the job's owners it is the one not in its own way.
        others = [o for o in handle.node.locks.values() if o is not asked] if pid < 0 else []
        mine = [o.pid for o in others if _first(o, fcntl.F_WRLCK, at, length)[0] == fcntl.F_UNLCK]
        return abi.LK_OUT.pack(at, at + length - 1 if length else _END, kind, mine[0] if mine else 0)

    def drop(self, node: Node, owner: int) -> None:
        """Drop all POSIX locks of a process on the file, of which it has closed a descriptor."""
        with self._guard:
            held = node.locks.pop(owner, None)
        if held is not None:
            self._inodes.descriptors.owners.discard(int(held.fd))

    def is_large(self, r: abi.Request) -> bool:
        """Say whether pages of that file are dropped at a lock, and written out at an unlock, only if it changed."""
        return os.fstat(self._inodes.handle(abi.HANDLE.unpack_from(r.raw, abi.ARGS)[0]).fd).st_size > MAPPED

    def stale_pages(self, r: abi.Request, sole: bool) -> bool:
        """Say whether the job's kernel must drop its pages of that file, now that `r` was granted.

        `sole`: nobody else has had it open since one was last granted.
        """
        fh, _, _, _, kind, *_ = abi.LK_IN.unpack_from(r.raw, abi.ARGS)
        if kind == fcntl.F_UNLCK or r.number:  # numbered: it had more of the file locked before
            return False
        handle = self._inodes.handle(fh)
        st = os.fstat(handle.fd)
        before, handle.node.seen = handle.node.seen, version(st)
        return before is None or before != handle.node.seen or (st.st_size <= MAPPED and not sole)


def _asked(r: abi.Request) -> tuple[int, ...]:
    """The fields of struct fuse_lk_in. Raises EINVAL for what no kernel asks for."""
    fields: tuple[int, ...] = abi.LK_IN.unpack_from(r.raw, abi.ARGS)
    _, _, start, end, kind, _, _, _ = fields
    if kind not in (fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK) or not start <= end <= _END:
        raise OSError(errno.EINVAL, "no such kind of lock, or no such range")
    return fields


MAPPED = 1 << 20  # bytes: files up to this size may be changed by mmap at home, which shows in no time stamp at once


def _first(owner: LockOwner, kind: int, start: int, length: int) -> tuple[int, int, int, int]:
    """The first lock in the way of `owner`: kind or F_UNLCK, start, length (0: to the end), pid (-1: unknown)."""
    asked = FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
    kind, _, start, length, pid = FLOCK.unpack(fcntl.fcntl(owner.fd, fcntl.F_OFD_GETLK, asked))
    return kind, start, length, pid
