"""Execute side: what the job has written to files that it has made, or cut, itself. Pure. Shipped.

Linkers and archivers read back what they have just written, with each write an end of what the kernel has of the file:
it asks for the size before it reads, and for the bytes of each page that was not written whole. Where all that a file
holds came from here since it was empty, both are known.

A change of another kind, a lock, or a break of what is leased is seen by its number (`Known.holds`): home is asked from
then on. What others change meanwhile is not seen. Home says with its reply to a write, and to an OPEN, whether the file
is as the job left it (``behind.SAME``, FOPEN_KEEP_CACHE); for coherence.TTL from then on what is known here is used, as
all that was told.

READs are answered, LOOKUPs whose name is known to lead there, and GETATTRs by handle: the kernel asks so for the size
before it reads by that handle, and tells nobody the times. stat(2) comes without one, and is home's to answer.
"""

from __future__ import annotations

from collections import OrderedDict

from remoteio.wire import fuse_abi as abi
from remoteio.wire.behind import MAY_WRITE, SAME
from remoteio.wire.coherence import KNOWN_NODES, TTL, WRITTEN, WRITTEN_EACH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remoteio.execute.known import Known
    from remoteio.execute.making import Made

_O_DIRECT, _O_TRUNC = 0o40000, 0o1000
# flags of an OPEN for which home is to do it: O_APPEND, O_DSYNC (O_SYNC has it in it), O_DIRECT, O_DIRECTORY,
# O_NOATIME, and __FMODE_EXEC of linux/fs.h
_NOT_OPENED = 0o2000 | 0o10000 | 0o40000 | 0o200000 | 0o1000000 | 0x20
_NEEDS = {0: 0o400, 1: 0o200, 2: 0o600}  # of the mode, by O_ACCMODE
_SIZE, _BLOCKS, _MTIME, _MODE, _UID = 1, 2, (4, 7), 9, 11  # in struct fuse_attr, unpacked
_NS = 1000000000


class _File:
    """attr: as home told it last; data: all that is in it; stamp: of the last change that is in `data`; number: of the
    last that the kernel was told is done, before home had; exact: `attr` is as that left it; emptied: as it was told by
    that, which has cut the file; mode: as it leaves it."""

    __slots__ = ("attr", "data", "emptied", "exact", "mode", "number", "stamp", "until")

    def __init__(self, attr: bytes, stamp: int, until: float) -> None:
        self.attr, self.data, self.stamp, self.until = attr, bytearray(), stamp, until
        self.number, self.mode = 0, int(abi.ATTR.unpack(attr)[_MODE])
        self.exact = self.emptied = False


class Written:
    """Keeps what such files hold. `known`: gives changes their stamps.

    The caller tells the time, and comes with one thread at a time (``relay.Relay._order``).
    """

    def __init__(self, known: Known) -> None:
        self._known = known
        self._files: OrderedDict[int, _File] = OrderedDict()
        self._bytes = 0

    def begin(self, nodeid: int, attr: bytes, stamp: int, now: float, exact: bool = True) -> None:
        """Keep what is written to a file that is empty by the request of that stamp; `attr`: its struct fuse_attr, as
        home has told it, if it is `exact`."""
        self.lose(nodeid)
        if self._known.holds(nodeid, stamp) and not abi.ATTR.unpack(attr)[_SIZE]:
            file = self._files[nodeid] = _File(attr, stamp, now + TTL)
            file.exact = exact
            self._bound()

    def stamp(self, op: int, nodeid: int, raw: bytes | memoryview, made: Made | None, now: float) -> int:
        """Give a change that the kernel is told is done its stamp, and keep what the file holds with it.

        `made`: what it makes.
        """
        file = self._files.get(nodeid)
        kept = file is not None and self._known.holds(nodeid, file.stamp)
        stamp = self._known.asked(op, nodeid)
        if made is not None and made.words & MAY_WRITE:
            self.begin(made.nodeid, made.attr, stamp, now, False)
        elif file is not None and kept:
            file.stamp = stamp
            if op == abi.WRITE:
                self._wrote(nodeid, file, raw)
            else:
                _set(file, raw)
        return stamp

    def changed(self, nodeid: int, number: int) -> None:
        """Take note that the kernel was told that the change of that number is done."""
        file = self._files.get(nodeid)
        if file is not None:
            file.emptied = file.emptied and not file.number  # 0: it is this one
            file.number, file.exact = number, False

    def done(self, nodeid: int, number: int, attr: bytes | memoryview) -> None:
        """Take note that home has done that change, after which those are the file's attributes (struct fuse_attr)."""
        file = self._files.get(nodeid)
        if file is not None and not file.exact and len(attr) == abi.ATTR.size:
            file.attr, file.exact, file.emptied = bytes(attr), number >= file.number, False

    def may_open(self, nodeid: int, raw: bytes | memoryview, now: float) -> bool:
        """Say whether an OPEN of the file is known to succeed, as it is its owner's, and its mode lets him."""
        file, flags = self._file(nodeid, now), abi.OPEN_IN.unpack_from(raw, abi.ARGS)[0]
        needs = _NEEDS.get(flags & 3)
        if file is None or needs is None or flags & _NOT_OPENED:
            return False
        owner = abi.IN_HEADER.unpack_from(raw)[4] == abi.ATTR.unpack(file.attr)[_UID]
        return bool(owner and file.mode & needs == needs)

    def opens(self, nodeid: int, raw: bytes | memoryview, stamp: int, when: tuple[int, int]) -> None:
        """Take note that the kernel is told, by that stamp, that the file is open for writing: `when` by home's clock,
        in seconds and ns."""
        file = self._files[nodeid]
        file.stamp = stamp
        if abi.OPEN_IN.unpack_from(raw, abi.ARGS)[0] & _O_TRUNC:
            self._bytes -= len(file.data)
            file.data.clear()
            attr = list(abi.ATTR.unpack(file.attr))
            attr[_SIZE] = attr[_BLOCKS] = 0
            seconds, ns = max(when, (attr[4], attr[7]))
            attr[4:6], attr[7:9], attr[_MODE] = (seconds, seconds), (ns, ns), file.mode
            file.attr, file.number, file.emptied = abi.ATTR.pack(*attr), 0, True

    def _wrote(self, nodeid: int, file: _File, raw: bytes | memoryview) -> None:
        held, offset = file.data, abi.WRITE_IN.unpack_from(raw, abi.ARGS)[1]
        data = memoryview(raw)[abi.ARGS + abi.WRITE_IN.size :]
        end = offset + len(data)
        if end > WRITTEN_EACH:
            self.lose(nodeid)
            return
        before = len(held)
        if offset > before:
            held.extend(bytes(offset - before))
        held[offset:end] = data
        self._bytes += len(held) - before
        self._files.move_to_end(nodeid)
        self._bound()

    def confirmed(self, nodeid: int, word: int, attr: bytes, now: float) -> None:
        """Take note of home's reply to a write, with the file's attributes after it: `word` says what others did."""
        file = self._files.get(nodeid)
        if file is None:
            return
        if not file.exact:
            file.attr = attr
        if word == SAME:
            file.until = now + TTL
        elif word:
            self.lose(nodeid)

    def opened(self, nodeid: int, flags: int, now: float) -> None:
        """Take note of home's reply to an OPEN, with these flags of struct fuse_open_out."""
        file = self._files.get(nodeid)
        if file is not None and flags & abi.FOPEN_KEEP_CACHE:
            file.until = now + TTL
        else:
            self.lose(nodeid)

    def told(self, nodeid: int, attr: bytes | memoryview) -> None:
        """Take note of what home tells of a file: if that is not what the last write left, others have changed it."""
        file = self._files.get(nodeid)
        if file is not None and _version(file.attr) != _version(attr):
            self.lose(nodeid)

    def lose(self, nodeid: int) -> None:
        """Have home asked for that file."""
        file = self._files.pop(nodeid, None)
        if file is not None:
            self._bytes -= len(file.data)

    def getattr(self, unique: int, nodeid: int, raw: bytes | memoryview, now: float) -> bytes | None:
        """Return the reply to a GETATTR, if all is known, or, by handle, if the size is."""
        file = self._file(nodeid, now)
        if file is not None and (file.exact or file.emptied):
            return abi.reply(unique, abi.ATTR_OUT.pack(0, int((file.until - now) * 1e9) % _NS, 0) + file.attr)
        attr = self.attributes(nodeid, now)
        if not attr or not abi.GETATTR_IN.unpack_from(raw, abi.ARGS)[0] & abi.GETATTR_FH:
            return None
        return abi.reply(unique, abi.ATTR_OUT.pack(0, 0, 0) + attr)

    def attributes(self, nodeid: int, now: float) -> bytes:
        """Return the struct fuse_attr of a file whose size is known, not to be used again; nothing: it is not."""
        file = self._file(nodeid, now)
        if file is None:
            return b""
        attr = list(abi.ATTR.unpack(file.attr))
        attr[_SIZE] = len(file.data)
        return abi.ATTR.pack(*attr)

    def read(self, unique: int, nodeid: int, raw: bytes | memoryview, now: float) -> bytes | None:
        """Return the reply to a READ, if what it asks for is known."""
        file = self._file(nodeid, now)
        _, offset, size, _, _, flags, _ = abi.READ_IN.unpack_from(raw, abi.ARGS)
        if file is None or flags & _O_DIRECT:
            return None
        return abi.reply(unique, bytes(file.data[offset : offset + size]))

    def _file(self, nodeid: int, now: float) -> _File | None:
        file = self._files.get(nodeid)
        return file if file is not None and file.until >= now and self._known.holds(nodeid, file.stamp) else None

    def _bound(self) -> None:
        while self._bytes > WRITTEN or len(self._files) > KNOWN_NODES:
            _, file = self._files.popitem(last=False)
            self._bytes -= len(file.data)


def _set(file: _File, raw: bytes | memoryview) -> None:
    """Keep the mode that a SETATTR gives."""
    valid, *_, mode, _, _, _, _ = abi.SETATTR_IN.unpack_from(raw, abi.ARGS)
    if valid & abi.FATTR_MODE:
        file.mode = mode


def _version(attr: bytes | memoryview) -> tuple[int, ...]:
    told = abi.ATTR.unpack_from(attr)
    return tuple(told[each] for each in (_SIZE, *_MTIME))
