"""Execute side: what the job has written to files that it has made, or cut, itself. Pure. Shipped.

Linkers and archivers read back what they have just written, with each write an end of what the kernel has of the file:
it asks for the size before it reads, and for the bytes of each page that was not written whole. Where all that a file
holds came from here since it was empty, both are known.

A change of another kind, a lock, or a break of what is leased is seen by its number (`Known.holds`): home is asked from
then on. What others change meanwhile is not seen. Home says with its reply to a write, and to an OPEN, whether the file
is as the job left it (``behind.SAME``, FOPEN_KEEP_CACHE); for coherence.TTL from then on what is known here is used, as
all that was told.

READs are answered, LOOKUPs whose name is known to lead there, and GETATTRs. By handle the kernel asks so for the size
before it reads by that handle, and tells nobody the times. stat(2) comes without one: it is told what home has, once
that is known; while the job writes to the file, or renames it, the times of now; what the job sets itself, as it sets
it; and else home is asked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import dropwhile

from remoteio.wire import fuse_abi as abi
from remoteio.wire.behind import MAY_WRITE, SAME
from remoteio.wire.coherence import TTL, WRITTEN, WRITTEN_EACH, WRITTEN_FILES
from remoteio.wire.makes import OPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remoteio.execute.known import Known
    from remoteio.execute.making import Made

_O_DIRECT = 0o40000
_SIZE, _MTIME, _MODE = 1, (4, 7), 9  # in struct fuse_attr, unpacked
# what a SETATTR may set, and say to what
_KEPT = abi.FATTR_MODE | abi.FATTR_ATIME | abi.FATTR_MTIME | abi.FATTR_FH | 512 | 1024  # FATTR_LOCKOWNER, FATTR_CTIME
_INO = 8  # bytes of the inode number, which is first there
_NS, _BLOCK = 1000000000, 4096


class _File:
    """What is known of one.

    attr   as home told it last, of the change of stamp `told`
    data   all that is in it
    asked  the stamp of the last change when home was asked to lease it
    stamp  of the last change; wrote, timed, sets: of the last that wrote to it, that set when it was written to, and
           that set what `attr` does not tell; local: of the last that set what it does, and home had not told it then
    """

    __slots__ = ("asked", "attr", "data", "local", "sets", "stamp", "timed", "told", "until", "wrote")

    def __init__(self, attr: bytes, stamp: int, until: float, told: int) -> None:
        self.attr, self.data, self.stamp, self.until = attr, bytearray(), stamp, until
        self.told, self.wrote, self.sets = told, stamp, told
        self.asked = self.local = self.timed = 0


class Written:
    """Keeps what such files hold. `known`: gives changes their stamps.

    The caller tells the time, and comes with one thread at a time (``relay.Relay._order``).
    """

    def __init__(self, known: Known) -> None:
        self._known = known
        self._files: OrderedDict[int, _File] = OrderedDict()
        self._bytes = 0

    def begin(self, nodeid: int, attr: bytes, stamp: int, now: float, told: int | None = None) -> None:
        """Keep what is written to a file that is empty by the request of that stamp; `attr`: its struct fuse_attr, as
        of the stamp `told`, if that is another."""
        self.lose(nodeid)
        if self._known.holds(nodeid, stamp) and not abi.ATTR.unpack(attr)[_SIZE]:
            self._files[nodeid] = _File(attr, stamp, now + TTL, stamp if told is None else told)
            self._bound()

    def stamp(self, op: int, nodeid: int, raw: bytes | memoryview, made: Made | None, now: float) -> int:
        """Give a change that the kernel is told is done its stamp, and keep what the file holds with it.

        `made`: what it makes.
        """
        file = self._files.get(nodeid)
        kept = file is not None and self._known.holds(nodeid, file.stamp)
        stamp = self._known.asked(op, nodeid, raw if op in OPS else b"")
        if made is not None and made.words & MAY_WRITE:
            self.begin(made.nodeid, made.attr, stamp, now, told=stamp - 1)  # home has not
        elif file is not None and kept:
            file.stamp = stamp
            if op == abi.WRITE:
                file.wrote = stamp
                self._wrote(nodeid, file, raw)
            else:
                self._cut(nodeid, file, raw)
                self._sets(file, raw, stamp)
        return stamp

    def renamed(self, node: int, do: Callable[[], int]) -> int:
        """Take note that the kernel is told that a file has another name: `do` gives and returns the stamp of that."""
        file = self._files.get(node)
        kept = file is not None and self._known.holds(node, file.stamp)
        stamp = do()
        if file is not None and kept:
            file.stamp = stamp
        return stamp

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

    def _cut(self, nodeid: int, file: _File, raw: bytes | memoryview) -> None:
        """Keep what a file holds once a SETATTR has made it shorter, or longer."""
        valid, _, _, size, *_ = abi.SETATTR_IN.unpack_from(raw, abi.ARGS)
        if not valid & abi.FATTR_SIZE:
            return
        if size > WRITTEN_EACH:
            self.lose(nodeid)
            return
        before = len(file.data)
        del file.data[size:]
        file.data.extend(bytes(size - len(file.data)))
        self._bytes += size - before
        self._bound()

    def _sets(self, file: _File, raw: bytes | memoryview, stamp: int) -> None:
        """Keep what a SETATTR makes of the attributes; where it does not say what, that is home's to tell."""
        valid, _, _, _, _, at, mt, _, atn, mtn, _, mode, *_ = abi.SETATTR_IN.unpack_from(raw, abi.ARGS)
        if valid & ~_KEPT:
            file.sets = stamp
            return
        attr = list(abi.ATTR.unpack(file.attr))
        if valid & abi.FATTR_MODE:
            attr[_MODE] = attr[_MODE] & ~0o7777 | mode & 0o7777
        if valid & abi.FATTR_ATIME:
            attr[3], attr[6] = at, atn
        if valid & abi.FATTR_MTIME:
            attr[4], attr[7] = mt, mtn
            file.timed = stamp
        file.attr, file.local = abi.ATTR.pack(*attr), stamp

    def confirmed(self, nodeid: int, word: int, attr: bytes, stamp: int, now: float) -> None:
        """Take note of home's reply to the change of that stamp, with the file's attributes after it: `word` says what
        others did."""
        file = self._files.get(nodeid)
        if file is None:
            return
        if file.local <= stamp:
            file.attr, file.told = attr, stamp
        if word == SAME:
            file.until = now + TTL
        elif word:
            self.lose(nodeid)

    def made(self, nodeid: int, attr: bytes, stamp: int) -> None:
        """Take note of home's reply to the change of that stamp, which has made or set it.

        Not of the inode number: that the job was told already, and home does not say it before it has made the file.
        """
        file = self._files.get(nodeid)
        if file is not None and file.told < stamp and file.local <= stamp:
            file.attr, file.told = file.attr[:_INO] + attr[_INO:], stamp

    def moved(self, nodeid: int, attr: bytes, stamp: int, now: float) -> None:
        """Take note of home's reply to a rename of that stamp; `attr`: none, if others have changed the file."""
        if attr:
            self.confirmed(nodeid, SAME, attr, stamp, now)
        else:
            self.lose(nodeid)

    def opened(self, nodeid: int, flags: int, now: float) -> None:
        """Take note of home's reply to an OPEN, with these flags of struct fuse_open_out."""
        file = self._files.get(nodeid)
        if file is not None and flags & abi.FOPEN_KEEP_CACHE:
            file.until = now + TTL
        else:
            self.lose(nodeid)

    def is_left(self, nodeid: int, now: float) -> None:
        """Take note that home says that a file is as the job left it, and that nobody else has it open."""
        file = self._files.get(nodeid)
        if file is not None:
            file.until = now + TTL

    def told(self, nodeid: int, attr: bytes | memoryview) -> None:
        """Take note of what home tells of a file: if that is not what the last write left, others have changed it."""
        file = self._files.get(nodeid)
        if file is not None and _version(file.attr) != _version(attr):
            self.lose(nodeid)

    # what it may be asked for again, though some time ago

    def may_lease(self, nodeid: int) -> bool:
        """Say whether all that a file holds is here, unless others have changed it, and home was not asked since."""
        file = self._files.get(nodeid)
        return file is not None and file.asked < file.stamp and self._known.holds(nodeid, file.stamp)

    def written_after(self, nodeid: int, most: int) -> list[int]:
        """List so many files at the most that are so, that one and those that were written after it.

        None, if that one has been lost meanwhile: it was found to be so before, by another thread perhaps.
        """
        found: list[int] = []
        for each in dropwhile(lambda each: each != nodeid, list(self._files)):
            if self.may_lease(each):
                self._files[each].asked = self._files[each].stamp
                found.append(each)
                if len(found) == most:
                    break
        return found

    def leased(self, nodeid: int, attr: bytes) -> None:
        """Take note that home has told these attributes of a file, which is as the job left it until a break."""
        file = self._files.get(nodeid)
        if file is not None and abi.ATTR.unpack(attr)[_SIZE] == len(file.data):
            file.attr, file.told, file.until = attr, file.stamp, float("inf")

    def lose(self, nodeid: int) -> None:
        """Have home asked for that file."""
        file = self._files.pop(nodeid, None)
        if file is not None:
            self._bytes -= len(file.data)

    def getattr(self, unique: int, nodeid: int, raw: bytes | memoryview, now: float, ns: int) -> bytes | None:
        """Return the reply to a GETATTR, if the size is known, and what else it tells; `ns`: home's time, or less;
        0: it is not known."""
        attr = self.attributes(nodeid, now)
        if attr and not abi.GETATTR_IN.unpack_from(raw, abi.ARGS)[0] & abi.GETATTR_FH:
            attr = self._all(self._files[nodeid], attr, ns)
        return abi.reply(unique, abi.ATTR_OUT.pack(0, 0, 0) + attr) if attr else None

    def _all(self, file: _File, attr: bytes, ns: int) -> bytes:
        """The attributes as stat(2) may tell them: what is under way changes them now. Nothing: they are not known."""
        if file.told == file.stamp:
            return attr
        if file.sets > file.told or not ns:
            return b""
        told, (seconds, part) = list(abi.ATTR.unpack(attr)), divmod(ns, _NS)
        told[2] = max(told[2], (told[_SIZE] + _BLOCK - 1) // _BLOCK * (_BLOCK >> 9))
        for at in (4, 5) if file.wrote > max(file.told, file.timed) else (5,):
            told[at], told[at + 3] = seconds, part
        return abi.ATTR.pack(*told)

    def attributes(self, nodeid: int, now: float) -> bytes:
        """Return the struct fuse_attr of a file whose size is known, not to be used again; nothing: it is not."""
        file = self._file(nodeid, now)
        if file is None:
            return b""
        attr = list(abi.ATTR.unpack(file.attr))
        attr[_SIZE] = len(file.data)
        return abi.ATTR.pack(*attr)

    def mode(self, nodeid: int, now: float) -> int:
        """Return the mode of a file, if that and all that is in it is known; 0: it is not."""
        file = self._file(nodeid, now)
        return int(abi.ATTR.unpack(file.attr)[_MODE]) if file is not None and file.sets <= file.told else 0

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
        while self._bytes > WRITTEN or len(self._files) > WRITTEN_FILES:
            _, file = self._files.popitem(last=False)
            self._bytes -= len(file.data)


def _version(attr: bytes | memoryview) -> tuple[int, ...]:
    told = abi.ATTR.unpack_from(attr)
    return tuple(told[each] for each in (_SIZE, *_MTIME))
