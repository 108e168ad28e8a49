"""Execute side: changes that the kernel is told are done before home has done them. Shipped.

That is right as long as nobody can see a world in which they were not done (docs/consistency.md):

* home does them in the order in which they were answered, and nothing that was asked for later before them: each has a
  number, and what goes out while one is under way says which it comes after (remoteio/wire/behind.py);
* what the job says waits until home has done all before (``settle``): its output, that it stopped, its end;
* what home could not do after all is told by the next call on that file, by fsync(2) and, if there was none, with the
  job's end (``told``, ``untold``).

What is answered so is what home has granted with the OPEN or CREATE of a file, and what the answer is known of: a write
at an offset; of a file that the job has just made, its mode, its times, and the ids that it has. The attributes told
with it are what the last ones and the change make; the kernel is to ask again before it relies on them.

No more than ROOM of them, and ROOM_SIZE, are under way: the answer to what is too much waits for those
before, though it has been sent.
"""

from __future__ import annotations

import errno
import stat
import threading
import time
from collections import OrderedDict, deque

from remoteio.wire import fuse_abi as abi
from remoteio.wire.behind import HEAD, MAY_OWN, MAY_SET, MAY_WRITE, ROOM, ROOM_SIZE, WORDS
from remoteio.wire.coherence import KNOWN_NODES, TTL
from remoteio.wire.frames import AFTER, FUSE
from remoteio.wire.link import Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remoteio.execute.known import Asked

_O_ACCMODE, _O_TRUNC = 0o3, 0o1000  # asm-generic/fcntl.h
_WAITS = 0o2000 | 0o10000 | 0o40000  # O_APPEND, O_DSYNC, O_DIRECT (as fcntl(2) may set them); O_SYNC has O_DSYNC in it
_END = 1 << 40  # of what is written so: no filesystem here ends before
_PLENTY = 1 << 20  # bytes written by one handle, after which its close waits until they are at home
_IDS, _TIMES = abi.FATTR_UID | abi.FATTR_GID, abi.FATTR_ATIME | abi.FATTR_MTIME
_SETS = abi.FATTR_MODE | _IDS | _TIMES
_BESIDE = abi.FATTR_FH | abi.FATTR_ATIME_NOW | abi.FATTR_MTIME_NOW | 512 | 1024 | abi.FATTR_KILL_SUIDGID
_NS = 1000000000
# what cannot see a change of another node
_FREE = frozenset((abi.READ, abi.READLINK, abi.GETXATTR, abi.LISTXATTR, abi.LSEEK, abi.OPEN))
_BY_HANDLE = (abi.READ, abi.LSEEK)
_TELL = frozenset((abi.WRITE, abi.SETATTR, abi.FSYNC, abi.FLUSH, abi.FALLOCATE))
_BODY, _HEAD = abi.OUT_HEADER.size, abi.ARGS + abi.WRITE_IN.size
_SPECIAL = 0o7000
_SIZE = slice(8, 16)  # in struct fuse_attr
# whose replies tell nothing of a file that there was; of one alone; all others may tell of any
_TELLS_NOTHING = frozenset(
    (
        abi.READ, abi.READLINK, abi.GETXATTR, abi.LISTXATTR, abi.LSEEK, abi.FSYNC, abi.FLUSH, abi.CREATE, abi.MKDIR,
        abi.MKNOD, abi.SYMLINK, abi.ACCESS, abi.STATFS, abi.SETATTR, abi.WRITE,
    )
)  # fmt: skip
_TELLS_ONE = frozenset((abi.LOOKUP, abi.GETATTR, abi.OPEN, abi.FALLOCATE))
_UNKNOWN = (0.0, 0, b"")


class _Change:
    """A change under way.

    number, size  in its order; in bytes
    asked         as ``relay`` has it, but for what is written
    answer        what the kernel is still to be told, b"" if it was
    """

    __slots__ = ("answer", "asked", "number", "size")

    def __init__(self, number: int, size: int, asked: Asked, answer: bytes) -> None:
        self.number, self.size, self.asked, self.answer = number, size, asked, answer


class Behind:
    """Answers changes, and sends requests in their order.

    granted  home has let the job go on before a change is done, of one file at least

    Threads: any. `_turn` guards all, and is held for no call that waits. ``send`` looks without it whether anything is
    under way: what the asking program relies on is, since the kernel was answered after it had been entered.
    """

    def __init__(self, link: Link) -> None:
        self.granted = False
        self._link = link
        self._turn = threading.Condition()
        self._changes: dict[int, _Change] = {}  # unique -> under way, in their order
        self._waiting: deque[int] = deque()  # of these, those whose answer waits
        self._nodes: dict[int, int] = {}  # node -> how many of them are of it
        self._last = self._answered = 0  # numbers: the last given, and the last that the kernel knows of
        self._bytes = 0  # of those that the kernel knows of
        self._written: dict[int, int] = {}  # handle by which may be written so -> bytes written
        self._made: OrderedDict[int, tuple[float, int, bytes]] = OrderedDict()  # node -> until, words, attributes
        self._failed: dict[int, tuple[int, int]] = {}  # node -> operation and errno(3), until a call is told

    # what may be answered

    def opened(self, op: int, reply: bytes | memoryview, now: float) -> bytes | memoryview:
        """Take note of what home grants with the reply to an OPEN or CREATE; return it as the kernel is to have it."""
        made = op in (abi.CREATE, abi.TMPFILE)
        at = _BODY + (abi.ENTRY.size + abi.ATTR.size if made else 0)
        fh, words, rest = abi.OPEN_OUT.unpack_from(reply, at)
        if not words & WORDS:
            return reply
        told = bytearray(reply)
        abi.OPEN_OUT.pack_into(told, at, fh, words & ~WORDS, rest)
        with self._turn:
            self.granted = True
            if words & MAY_WRITE:
                self._written[fh] = 0
            if made and words & MAY_SET:
                nodeid = abi.ENTRY.unpack_from(reply, _BODY)[0]
                self._keep(nodeid, now + TTL, words, bytes(reply[_BODY + abi.ENTRY.size : at]))
        return bytes(told)

    def closed(self, fh: int) -> None:
        """Take note that the kernel has closed it."""
        self._written.pop(fh, None)

    def at_close(self, fh: int, nodeid: int) -> bool:
        """Say whether a close waits until all is at home: so much was written that it costs little beside."""
        return self._written.get(fh, 0) > _PLENTY and nodeid in self._nodes

    def answer(self, op: int, unique: int, nodeid: int, raw: bytes | memoryview, now: float) -> bytes | None:
        """Return the reply to a WRITE or SETATTR, if it is known; it is to be ``entered`` then."""
        with self._turn:
            until, words, attr = self._made.pop(nodeid, _UNKNOWN)  # what is changed otherwise is not known any more
            if until < now:
                words = 0
            if op == abi.WRITE:
                return self._write(unique, nodeid, raw, (until, words, attr))
            return self._set(unique, nodeid, raw, (until, words, attr)) if words else None

    def _write(self, unique: int, nodeid: int, raw: bytes | memoryview, made: tuple[float, int, bytes]) -> bytes | None:
        fh, offset, size, how, _, flags, _ = abi.WRITE_IN.unpack_from(raw, abi.ARGS)
        if fh not in self._written or how & abi.WRITE_CACHE or flags & _WAITS or offset + size > _END:
            return None
        self._written[fh] += size
        until, words, told = made
        if words:
            attr = list(abi.ATTR.unpack(told))
            attr[1] = max(attr[1], offset + size)
            self._keep(nodeid, until, words, abi.ATTR.pack(*attr))
        return abi.reply(unique, abi.WRITE_OUT.pack(size, 0))

    def _set(self, unique: int, nodeid: int, raw: bytes | memoryview, made: tuple[float, int, bytes]) -> bytes | None:
        until, words, told = made
        valid, _, _, _, _, at, mt, _, atn, mtn, _, mode, _, uid, gid, _ = abi.SETATTR_IN.unpack_from(raw, abi.ARGS)
        attr = list(abi.ATTR.unpack(told))
        if not valid & _SETS or valid & ~(_SETS | _BESIDE) or attr[9] & _SPECIAL:
            return None
        if valid & abi.FATTR_MODE and mode & _SPECIAL:
            return None
        same = (not valid & abi.FATTR_UID or uid == attr[11]) and (not valid & abi.FATTR_GID or gid == attr[12])
        if valid & _IDS and not (words & MAY_OWN and same):
            return None
        now = time.time_ns()
        if valid & abi.FATTR_MODE:
            attr[9] = stat.S_IFMT(attr[9]) | mode & 0o777
        if valid & abi.FATTR_ATIME:
            attr[3], attr[6] = divmod(now, _NS) if valid & abi.FATTR_ATIME_NOW else (at, atn)
        if valid & abi.FATTR_MTIME:
            attr[4], attr[7] = divmod(now, _NS) if valid & abi.FATTR_MTIME_NOW else (mt, mtn)
        attr[5], attr[8] = divmod(now, _NS)
        self._keep(nodeid, until, words, changed := abi.ATTR.pack(*attr))
        return abi.reply(unique, abi.ATTR_OUT.pack(0, 0, 0) + changed)

    def learned(self, op: int, nodeid: int, reply: bytes | memoryview) -> None:
        """Take note of home's reply to anything else: what it tells of a file is newer than what is known here."""
        if not self._made or op in _TELLS_NOTHING:
            return
        with self._turn:
            if op == abi.LOOKUP:
                nodeid = abi.ENTRY.unpack_from(reply, _BODY)[0]
            if op in _TELLS_ONE:
                self._made.pop(nodeid, None)
            else:
                self._made.clear()

    def wrote(self, nodeid: int, attr: bytes) -> None:
        """Take note of a file's attributes (struct fuse_attr) after a write: others may have written to it, too."""
        with self._turn:
            made = self._made.get(nodeid)
            if made is not None and made[2][_SIZE] != attr[_SIZE]:
                del self._made[nodeid]

    def _keep(self, nodeid: int, until: float, words: int, attr: bytes) -> None:
        self._made[nodeid] = until, words, attr
        if len(self._made) > KNOWN_NODES:
            self._made.popitem(last=False)

    # what is under way

    def entered(self, unique: int, asked: Asked, answer: bytes) -> tuple[int, bytes]:
        """Give a change its number; return that, and what the kernel is to be told once it is sent (b"": nothing)."""
        size = len(asked[5])
        op, nodeid, pid, stamp, at, raw = asked
        with self._turn:
            self._last += 1
            waits = not self._fits(size)
            change = _Change(
                self._last, size, (op, nodeid, pid, stamp, at, bytes(raw[:_HEAD])), answer if waits else b""
            )
            self._nodes[nodeid] = self._nodes.get(nodeid, 0) + 1
            if waits:
                self._waiting.append(unique)
            else:
                self._bytes, self._answered = self._bytes + size, self._last
            self._changes[unique] = change
            return change.number, b"" if waits else answer

    def _fits(self, size: int) -> bool:
        return len(self._changes) - len(self._waiting) < ROOM and self._bytes + size <= ROOM_SIZE

    def send_change(self, number: int, raw: bytes | memoryview) -> None:
        """Send a change that was entered. Raises LinkClosed."""
        self._link.send(AFTER, HEAD.pack(number, number - 1), raw)

    def send(self, raw: bytes | memoryview) -> None:
        """Send any other request: after all that the kernel takes for done. Raises LinkClosed."""
        after = self._after(raw) if self._changes else 0
        if after:
            self._link.send(AFTER, HEAD.pack(0, after), raw)
        else:
            self._link.send(FUSE, raw)

    def _after(self, raw: bytes | memoryview) -> int:
        _, op, _, nodeid, *_ = abi.IN_HEADER.unpack_from(raw)
        with self._turn:
            free = op in _FREE and nodeid not in self._nodes
            if free and op == abi.OPEN:
                free = not abi.OPEN_IN.unpack_from(raw, abi.ARGS)[0] & (_O_ACCMODE | _O_TRUNC)
            elif free and op in _BY_HANDLE:  # what home is told to open before comes after all
                free = abi.HANDLE.unpack_from(raw, abi.ARGS)[0] < abi.OWN
            return 0 if free else self._answered

    def asked(self, unique: int) -> Asked | None:
        """Return the change of that number of the kernel's, if it is under way."""
        change = self._changes.get(unique)
        return None if change is None else change.asked

    def interrupted(self, unique: int) -> bytes:
        """Return the answer that the kernel waits for, though there is no room; b"": it has it, or knows no such."""
        with self._turn:
            return self._let_go(unique) if unique in self._waiting else b""

    def replied(self, unique: int, error: int, payload: bytes | memoryview) -> tuple[int, list[bytes]]:
        """Take home's reply to a change. Return its node, if it has failed, and what the kernel is to be told now."""
        with self._turn:
            change = self._changes.pop(unique, None)
            if change is None:
                return 0, []
            op, nodeid, *_, raw = change.asked
            self._nodes[nodeid] -= 1
            if not self._nodes[nodeid]:
                del self._nodes[nodeid]
            if not error and op == abi.WRITE:
                written = abi.WRITE_OUT.unpack_from(payload, _BODY)[0]
                error = -errno.ENOSPC if written < abi.WRITE_IN.unpack_from(raw, abi.ARGS)[2] else 0
            told = []
            if change.answer:
                self._waiting.remove(unique)
                told.append(bytes(payload))
            else:
                self._bytes -= change.size
                if error and len(self._failed) < KNOWN_NODES:  # the first stand for all: the job's end tells of one
                    self._failed.setdefault(nodeid, (op, -error))
            while self._waiting and self._fits(self._changes[self._waiting[0]].size):
                told.append(self._let_go(self._waiting[0]))
            self._turn.notify_all()
            return (nodeid if error else 0), told

    def _let_go(self, unique: int) -> bytes:
        change = self._changes[unique]
        self._waiting.remove(unique)
        self._bytes += change.size
        self._answered = max(self._answered, change.number)
        answer, change.answer = change.answer, b""
        return answer

    def settle(self) -> None:
        """Wait until home has done all that the kernel was told is done."""
        if not self._changes:
            return
        with self._turn:
            last = self._answered
            self._turn.wait_for(lambda: not self._changes or next(iter(self._changes.values())).number > last)

    # what has failed

    def told(self, op: int, nodeid: int) -> int:
        """Return the error that an operation on that node is to be told; 0: there is none.

        Once, but for a close: nobody may look at what that says, as when a process ends.
        """
        if not self._failed or op not in _TELL:
            return 0
        with self._turn:
            take = self._failed.get if op == abi.FLUSH else self._failed.pop
            return take(nodeid, (0, 0))[1]

    def untold(self) -> tuple[int, int] | None:
        """Return the operation and the error of the first change that failed and of which no call was told."""
        return next(iter(self._failed.values()), None)
