"""Execute side: what home would answer to a change, where that is known before. Shipped.

It is known of what home has granted with the OPEN or CREATE of a file: of a write at an offset; of a file that the job
has just made, of its mode, its times, and the ids that it has. The attributes told with it are what the last ones and
the change make; the kernel is to ask again before it relies on them.
"""

from __future__ import annotations

import stat
import threading
import time
from collections import OrderedDict

from remoteio.wire import fuse_abi as abi
from remoteio.wire.behind import BESIDE, MAY_OWN, MAY_SET, MAY_WRITE, SAME_FILE, SAME_LARGE, WORDS
from remoteio.wire.coherence import KNOWN_MADE, TTL
from remoteio.wire.listed import parse, walk

# as fcntl(2) may set them; O_SYNC has O_DSYNC in it
_O_APPEND, _O_DSYNC, _O_DIRECT = 0o2000, 0o10000, 0o40000
_WAITS = _O_APPEND | _O_DSYNC | _O_DIRECT
_END = 1 << 40  # of what is written so: no filesystem here ends before
_PLENTY = 1 << 20  # bytes written by one handle, after which its close waits until they are at home
_IDS, _TIMES = abi.FATTR_UID | abi.FATTR_GID, abi.FATTR_ATIME | abi.FATTR_MTIME
_SETS = abi.FATTR_MODE | abi.FATTR_SIZE | _IDS | _TIMES
_BESIDE = abi.FATTR_FH | abi.FATTR_ATIME_NOW | abi.FATTR_MTIME_NOW | 512 | 1024 | abi.FATTR_KILL_SUIDGID
_NS = 1000000000
_BODY = abi.OUT_HEADER.size
_SPECIAL = 0o7000
_SIZE = slice(8, 16)  # in struct fuse_attr
_OWNER = slice(11, 13)  # of its fields
# whose replies tell nothing of a file that there was; of one alone; all others may tell of any
_TELLS_NOTHING = frozenset(
    (
        abi.READ, abi.READLINK, abi.GETXATTR, abi.LISTXATTR, abi.LSEEK, abi.FSYNC, abi.FLUSH, abi.CREATE, abi.MKDIR,
        abi.MKNOD, abi.SYMLINK, abi.ACCESS, abi.STATFS, abi.SETATTR, abi.WRITE, abi.GETLK, abi.OPENDIR,
    )
)  # fmt: skip
_TELLS_ATTRIBUTES = frozenset((abi.LOOKUP, abi.GETATTR))
_TELLS_ONE = _TELLS_ATTRIBUTES | {abi.OPEN, abi.FALLOCATE, abi.SETXATTR, abi.REMOVEXATTR}
_UNKNOWN = (0.0, 0, b"")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remoteio.execute.making import Made


class Answers:
    """Knows what home has granted, and answers changes by it.

    granted  home has let the job go on before a change is done, of one file at least
    beside   handles, of these, of files that lie beside one that is locked

    Threads: any, under `_lock`.
    """

    def __init__(self) -> None:
        self.granted = False
        self.beside: set[int] = set()
        self._lock = threading.Lock()
        self._written: dict[int, int] = {}  # handle by which may be written so -> bytes written
        self._appends: set[int] = set()  # of these, those that were opened to append
        self._ends: dict[int, int] = {}  # handle by which much was written at once -> where that ended
        self._made: OrderedDict[int, tuple[float, int, bytes]] = OrderedDict()  # node -> until, words, attributes

    def opened(self, op: int, reply: bytes | memoryview, now: float) -> bytes | memoryview:
        """Take note of what home grants with the reply to an OPEN or CREATE; return it as the kernel is to have it."""
        made = op in (abi.CREATE, abi.TMPFILE)
        at = _BODY + (abi.ENTRY.size + abi.ATTR.size if made else 0)
        fh, words, rest = abi.OPEN_OUT.unpack_from(reply, at)
        if not words & WORDS:
            return reply
        told = bytearray(reply)
        abi.OPEN_OUT.pack_into(told, at, fh, words & ~WORDS, rest)
        with self._lock:
            self.granted = True
            if words & MAY_WRITE:
                self._writes(fh, bool(words & abi.FOPEN_DIRECT_IO))
            if words & BESIDE:
                self.beside.add(fh)
            if made and words & MAY_SET:
                nodeid = abi.ENTRY.unpack_from(reply, _BODY)[0]
                self._keep(nodeid, now + TTL, words, bytes(reply[_BODY + abi.ENTRY.size : at]))
        return bytes(told)

    def made(self, made: Made, until: float) -> None:
        """Take note of what is made, and what of it may be changed before home has done so."""
        with self._lock:
            if made.handle and made.words & MAY_WRITE:
                self._written[made.handle] = 0
            if made.words & MAY_SET:
                self._keep(made.nodeid, until, made.words, made.attr)

    def opened_own(self, made: Made, cuts: bool, appends: bool) -> None:
        """Take note that a file is opened to be written to by a handle of the relay's own."""
        with self._lock:
            if cuts:
                self._made.pop(made.nodeid, None)
            self._writes(made.handle, appends)

    def _writes(self, fh: int, appends: bool) -> None:
        self._written[fh] = 0
        if appends:
            self._appends.add(fh)

    def closed(self, fh: int) -> None:
        """Take note that the kernel has closed it."""
        self._written.pop(fh, None)
        self._appends.discard(fh)
        self._ends.pop(fh, None)
        self.beside.discard(fh)

    def goes_on(self, op: int, raw: bytes | memoryview) -> bool:
        """Take note of a change; say whether it may be the rest of a write(2) whose first bytes were confirmed.

        The kernel parts what is long, and says nothing of an error to who has written some: he is told how much.
        """
        if op != abi.WRITE:
            return False
        fh, offset, size, *_ = abi.WRITE_IN.unpack_from(raw, abi.ARGS)
        rest: bool = self._ends.pop(fh, None) == offset
        if size >= abi.MAX_WRITE // 2:
            self._ends[fh] = offset + size
        return rest

    def plenty(self, fh: int) -> bool:
        """Say whether so much was written by that handle that it costs little to wait for it beside."""
        return self._written.get(fh, 0) > _PLENTY

    def answer(
        self, op: int, unique: int, nodeid: int, raw: bytes | memoryview, now: float, ns: int = 0
    ) -> bytes | None:
        """Return the reply to a WRITE or SETATTR, if it is known; it is to be ``entered`` then. `ns`: home's time, or
        less; 0: it is not known."""
        with self._lock:
            until, words, attr = self._made.pop(nodeid, _UNKNOWN)  # what is changed otherwise is not known any more
            if until < now:
                words = 0
            if op == abi.WRITE:
                return self._write(unique, nodeid, raw, (until, words, attr))
            return self._set(unique, nodeid, raw, (until, words, attr), ns or time.time_ns()) if words else None

    def _write(self, unique: int, nodeid: int, raw: bytes | memoryview, made: tuple[float, int, bytes]) -> bytes | None:
        fh, offset, size, _, _, flags, _ = abi.WRITE_IN.unpack_from(raw, abi.ARGS)
        waits = flags & _WAITS != (_O_APPEND if fh in self._appends else 0)
        if fh not in self._written or waits or offset + size > _END:
            return None
        self._written[fh] += size
        until, words, told = made
        if words:
            attr = list(abi.ATTR.unpack(told))
            attr[1] = max(attr[1], offset + size)
            self._keep(nodeid, until, words, abi.ATTR.pack(*attr))
        return abi.reply(unique, abi.WRITE_OUT.pack(size, 0))

    def _set(
        self, unique: int, nodeid: int, raw: bytes | memoryview, made: tuple[float, int, bytes], now: int
    ) -> bytes | None:
        until, words, told = made
        valid, _, fh, size, _, at, mt, _, atn, mtn, _, mode, _, uid, gid, _ = abi.SETATTR_IN.unpack_from(raw, abi.ARGS)
        attr = list(abi.ATTR.unpack(told))
        if not valid & _SETS or valid & ~(_SETS | _BESIDE) or attr[9] & _SPECIAL:
            return None
        if valid & abi.FATTR_MODE and mode & _SPECIAL:
            return None
        if valid & abi.FATTR_SIZE and not (valid & abi.FATTR_FH and fh in self._written and size <= _END):
            return None
        same = (not valid & abi.FATTR_UID or uid == attr[11]) and (not valid & abi.FATTR_GID or gid == attr[12])
        if valid & _IDS and not (words & MAY_OWN and same):
            return None
        if valid & abi.FATTR_MODE:
            attr[9] = stat.S_IFMT(attr[9]) | mode & 0o777
        if valid & abi.FATTR_SIZE:
            attr[1], attr[4], attr[7] = size, *divmod(now, _NS)
        if valid & abi.FATTR_ATIME:
            attr[3], attr[6] = divmod(now, _NS) if valid & abi.FATTR_ATIME_NOW else (at, atn)
        if valid & abi.FATTR_MTIME:
            attr[4], attr[7] = divmod(now, _NS) if valid & abi.FATTR_MTIME_NOW else (mt, mtn)
        attr[5], attr[8] = divmod(now, _NS)
        self._keep(nodeid, until, words, changed := abi.ATTR.pack(*attr))
        return abi.reply(unique, abi.ATTR_OUT.pack(0, 0, 0) + changed)

    def learned(self, op: int, nodeid: int, reply: bytes | memoryview, holds: bool) -> None:
        """Take note of home's reply to anything else: what it tells of a file is newer than what is known here.

        `holds`: and nothing was changed since.
        """
        if not self._made or op in _TELLS_NOTHING or reply[_BODY:] in (SAME_FILE, SAME_LARGE):
            return
        if op == abi.LOOKUP:
            nodeid = abi.ENTRY.unpack_from(reply, _BODY)[0]
        if holds and op in _TELLS_ATTRIBUTES:
            self.known(nodeid, bytes(reply[-abi.ATTR.size :]))
            return
        with self._lock:
            if op in _TELLS_ONE:
                self._made.pop(nodeid, None)
            else:
                self._made.clear()

    def known(self, nodeid: int, attr: bytes) -> None:
        """Take note of the attributes (struct fuse_attr) of a file; one that is another's by now is known no more."""
        with self._lock:
            until, words, old = self._made.get(nodeid, _UNKNOWN)
            if words and abi.ATTR.unpack(attr)[_OWNER] == abi.ATTR.unpack(old)[_OWNER]:
                self._made[nodeid] = until, words, attr
            elif words:
                del self._made[nodeid]

    def listed(self, entries: bytes) -> None:
        """Take note of home's word on files in a directory (struct fuse_direntplus each)."""
        if self._made:
            with self._lock:
                for _, _, nodeid, *_ in walk(entries):
                    self._made.pop(nodeid, None)

    def came_ahead(self, op: int, nodeid: int, body: bytes) -> None:
        """Take note of the body of the reply to a LIST or FETCH. Raises ProtocolError."""
        if not self._made:
            return
        with self._lock:
            self._made.pop(nodeid, None)
        for directory, _, entries, _ in parse(body) if op == abi.LIST else ():
            with self._lock:
                self._made.pop(directory, None)
            self.listed(entries)

    def broken(self, items: list[tuple[int, bytes]]) -> None:
        """Take note of what home takes back: others have changed those nodes, or 0, any."""
        with self._lock:
            for nodeid, name in items:
                if not nodeid:
                    self._made.clear()
                elif not name:
                    self._made.pop(nodeid, None)

    def wrote(self, nodeid: int, attr: bytes) -> None:
        """Take note of a file's attributes (struct fuse_attr) after a write: others may have written to it, too."""
        with self._lock:
            made = self._made.get(nodeid)
            if made is not None and made[2][_SIZE] != attr[_SIZE]:
                del self._made[nodeid]

    def _keep(self, nodeid: int, until: float, words: int, attr: bytes) -> None:
        self._made[nodeid] = until, words, attr
        if len(self._made) > KNOWN_MADE:
            self._made.popitem(last=False)


def is_mapped(raw: bytes | memoryview) -> bool:
    """Say whether a WRITE is of pages that were changed through a mapping: nobody is told what comes of it."""
    return bool(abi.WRITE_IN.unpack_from(raw, abi.ARGS)[3] & abi.WRITE_CACHE)
