"""Execute side: what the job makes, told to its kernel before home has made it. Pure. Shipped.

Home grants it directory by directory (``wire.makes``), with the reply to the first that was made there. It is answered
so if no rule speaks of the name, if that is known to be absent (``leases``), and if another like it was made before,
whose reply shows what is given to it: ids, size, links. A directory that is made so is known to be empty, and granted
with the one that it is in, unless home's reply says otherwise.

The kernel asks for the attributes of a directory after each name that it makes there, as it may not write to it any
more; and where they were told for no time, at each path that leads through it. While what was made there is under way
these are told, too, until that is done (`settles`). What is made next has the kernel forget what that changes alone.

Times are told by home's clock, as far as it is known: from a reply on it is no earlier than that reply says. So what is
told is never in home's future, and home gives the file later ones when it makes it.

The caller tells the time, and comes with one thread at a time (``relay.Relay._order``).
"""

from __future__ import annotations

import stat
from collections import OrderedDict
from collections.abc import Sequence

from remoteio.execute.leased_names import is_absent
from remoteio.execute.leases import Leases
from remoteio.wire import fuse_abi as abi
from remoteio.wire.behind import MAY_OWN, MAY_SET, MAY_WRITE, WORDS
from remoteio.wire.coherence import TTL
from remoteio.wire.makes import (
    EMPTY,
    HOMES,
    INODES,
    MADE,
    MORE,
    NUMBERS,
    OWN,
    SET,
    Granted,
    name_of,
)

MOST_GRANTED = 1 << 14  # directories: some 300 bytes each
MOST_OWN = 1 << 14  # files that the job has made: some 100 bytes each

_FORMATS = {abi.CREATE: stat.S_IFREG, abi.MKDIR: stat.S_IFDIR, abi.SYMLINK: stat.S_IFLNK}
# flags of a CREATE for which home is to do it: O_APPEND, O_DSYNC (O_SYNC has it in it), O_DIRECT
_ASKS = 0o2000 | 0o10000 | 0o40000
_ACCMODE = 0o3
NAME_MAX = 255  # bytes of a name: linux/limits.h; the kernel's FUSE leaves it to the filesystem
_TARGET_MAX = 512  # bytes of a request for a symbolic link: no filesystem takes less
_SPECIAL, _OWNER = 0o7000, 0o300
_NS = 1000000000
_BODY = abi.OUT_HEADER.size
_ATTR_AT = _BODY + abi.ENTRY.size

# how such a thing looks when it is made: words of wire.behind, struct fuse_attr
Like = tuple[int, "tuple[int, ...]"]


class Made:
    """What is made: its node, its handle (0: it has none), the attributes and the answer that the kernel is told.

    words    what more may be done with it before home has (wire.behind)
    """

    __slots__ = ("answer", "attr", "handle", "nodeid", "words")

    def __init__(self, nodeid: int, handle: int, words: int, attr: bytes, answer: bytes) -> None:
        self.nodeid, self.handle, self.words, self.attr, self.answer = nodeid, handle, words, attr, answer


class Words:
    """Names that home is asked for."""

    __slots__ = ("globs", "names")

    def __init__(self, words: tuple[bytes, ...]) -> None:
        self.names = frozenset(word for word in words if b"*" not in word)
        self.globs = [word.partition(b"*")[::2] for word in words if b"*" in word]

    def speak_of(self, name: bytes) -> bool:
        """Say whether that may be one of them (submit/export/rights.py: folded)."""
        if not self:
            return False
        key = name.rstrip(b". ").lower() or name
        if not name.isascii() or key in self.names:
            return True
        return any(key.startswith(head) and key.endswith(tail) for head, tail in self.globs)

    def __bool__(self) -> bool:
        return bool(self.names or self.globs)


class Grant:
    """A directory in which more may be made, or any name be taken away.

    likes   how it looks, by operation and the ids of who asks: of those that are made in it, too
    attr    its own attributes, in their order in struct fuse_attr; []: they are not known
    last    the number of the last change that has made something in it, or taken it away
    told    the kernel has been told attributes that will be others when that change is done
    words   of which a rule speaks
    kept    names that are not taken away here; None: none is, but of what the job has made
    shown   none that is in it is hidden from the job
    """

    __slots__ = ("attr", "kept", "last", "likes", "shown", "told", "words")

    def __init__(
        self, likes: dict[tuple[int, int, int], Like], attr: Sequence[int], words: tuple[bytes, ...] = ()
    ) -> None:
        self.likes, self.attr, self.last = likes, list(attr), 0
        self.words = Words(words)
        self.kept: Words | None = None
        self.shown = self.told = False


class Making:
    """Answers what makes a name. `leases`: which names are known, and known to be absent."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._granted: OrderedDict[int, Grant] = OrderedDict()
        self._own: OrderedDict[int, None] = OrderedDict()  # regular files that the job has made
        self._ahead: int | None = None  # home's clock less this machine's monotonic one, at the least: ns

    # what home grants

    def granted(
        self, op: int, raw: bytes | memoryview, granted: Granted, reply: bytes | memoryview, above: bytes, now: float
    ) -> Made | None:
        """Keep what goes along with the reply to a request that was asked as any other; `above`: attributes of the
        directory, struct fuse_attr, or nothing.

        Return what of a directory that was made holds (its node, words, attributes). Raises struct.error.
        """
        nodeid, uid, gid = asking(raw)
        self._clock(granted.ns, now)
        if not granted.what & MORE:
            self._granted.pop(nodeid, None)
            return None
        grant = self._granted.get(nodeid)
        own = abi.ATTR.unpack(above) if above else ()
        self._enter(nodeid, new := Grant({} if grant is None else grant.likes, own, granted.words))
        if grant is not None:
            new.kept, new.shown = grant.kept, grant.shown
        made, attr = abi.ENTRY.unpack_from(reply, _BODY)[0], abi.ATTR.unpack_from(reply, _ATTR_AT)
        words = (MAY_SET if granted.what & SET else 0) | (MAY_OWN if granted.what & OWN else 0)
        if op == abi.CREATE:
            words = abi.OPEN_OUT.unpack_from(reply, _ATTR_AT + abi.ATTR.size)[1] & WORDS
        if attr[9] == _mode(op, raw) and _tells_all(op, raw):
            self._granted[nodeid].likes[op, uid, gid] = words, attr
        if op == abi.MKDIR and granted.what & EMPTY:
            self._empty(made, self._granted[nodeid], attr)
            return Made(made, 0, words, abi.ATTR.pack(*attr), b"")
        return None

    def owns(self, nodeid: int) -> None:
        """Take note of a file that the job has made, here or by asking."""
        if nodeid < HOMES or nodeid >= MADE:
            self._own[nodeid] = None
            if len(self._own) > MOST_OWN:
                self._own.popitem(last=False)

    def is_own(self, nodeid: int) -> bool:
        """Say whether it is a file that the job has made."""
        return nodeid in self._own

    @property
    def may_go_on(self) -> bool:
        """Whether there is any directory in which more may be made: home has room."""
        return bool(self._granted)

    def goes_on(self, op: int, made: int, granted: Granted, now: float) -> None:
        """Take note of what goes along with home's reply to what was answered here: `made` is its node."""
        self._clock(granted.ns, now)
        if not granted.what & MORE:
            self._granted.clear()
        if op == abi.MKDIR and not granted.what & EMPTY:
            self.lose(made)
            self._leases.broken(made, b"")

    def lose(self, nodeid: int) -> None:
        """Have home asked for what is made in that directory; 0: in any."""
        if nodeid:
            self._granted.pop(nodeid, None)
        else:
            self._granted.clear()

    def failed(self, parent: int, name: bytes, made: int) -> None:
        """Take note that home could not make what was answered here."""
        self.lose(parent)
        self.lose(made)
        self._leases.broken(made, b"")
        self._leases.broken(parent, name)

    def _enter(self, nodeid: int, grant: Grant) -> None:
        self._granted[nodeid] = grant
        self._granted.move_to_end(nodeid)
        if len(self._granted) > MOST_GRANTED:
            self._granted.popitem(last=False)

    def _empty(self, nodeid: int, above: Grant, attr: Sequence[int]) -> None:
        # no rule speaks of what is in it: else home does not say EMPTY (submit/export/rights.py: owned)
        self._enter(nodeid, grant := Grant(above.likes, attr))
        grant.shown = True
        self._leases.listed(nodeid, [])

    # what is answered

    def answer(self, op: int, unique: int, raw: bytes | memoryview, number: int, now: float) -> Made | None:
        """Return what is made by the change of that number, if all of it is known; else home is to be asked."""
        nodeid, uid, gid = asking(raw)
        grant = self._granted.get(nodeid)
        like = None if grant is None else grant.likes.get((op, uid, gid))
        if grant is None or like is None or number >= NUMBERS or not self._leases.holds(now):
            return None
        name, (words, attr) = name_of(op, raw), like
        if grant.words.speak_of(name) or not is_absent(self._leases, nodeid, name) or _asks(op, name, raw):
            return None
        told = list(attr)
        told[0], told[9] = INODES + number, _mode(op, raw)
        seconds, ns = self._changed(grant, number, now)
        told[3:9] = seconds, seconds, seconds, ns, ns, ns
        if op == abi.SYMLINK:
            told[1] = len(raw) - abi.ARGS - len(name) - 2
        made = MADE + number
        self._leases.name(nodeid, name, made)
        if op == abi.MKDIR:
            self._empty(made, grant, told)
            if grant.attr:
                grant.attr[10] += told[10] - 1  # its ".."
        packed = abi.ATTR.pack(*told)
        body = abi.ENTRY.pack(made, 0, TTL, TTL, 0, 0) + packed
        if op != abi.CREATE:
            return Made(made, 0, words, packed, abi.reply(unique, body))
        self.owns(made)
        if not abi.CREATE_IN.unpack_from(raw, abi.ARGS)[0] & _ACCMODE:
            words &= ~MAY_WRITE
        return Made(made, made, words, packed, abi.reply(unique, body + abi.OPEN_OUT.pack(made, 0, 0)))

    def _changed(self, grant: Grant, number: int, now: float) -> tuple[int, int]:
        """Take note that the change of that number was made in a directory; return when, as home's clock has it."""
        seconds, ns = divmod(self.time(now), _NS)
        grant.last = number
        if grant.attr:
            grant.attr[4:9] = seconds, seconds, grant.attr[6], ns, ns
        return seconds, ns

    def did(self, nodeid: int, number: int, attr: bytes) -> None:
        """Take note of the attributes of a directory as home tells them after the change of that number."""
        grant = self._granted.get(nodeid)
        if grant is not None and grant.last == number and grant.attr:
            grant.attr = list(abi.ATTR.unpack(attr))

    def sets(self, nodeid: int, attr: bytes, number: int, now: float) -> None:
        """Take note that the change of that number gives these attributes to a directory; nothing: home is asked to.

        Who may make nothing there any more, or might make it otherwise, asks home.
        """
        grant = self._granted.get(nodeid)
        if grant is None:
            return
        told = list(abi.ATTR.unpack(attr)) if attr else [0] * 16
        if told[9] & _OWNER != _OWNER or told[9] & _SPECIAL:
            self.lose(nodeid)
            return
        grant.attr, grant.last = told, number
        grant.attr[5], grant.attr[8] = divmod(self.time(now), _NS)

    def getattr(self, unique: int, nodeid: int, done: int) -> bytes | None:
        """Return the reply to a GETATTR of a directory in which something is made after the change of number `done`."""
        grant = self._granted.get(nodeid)
        if grant is None or grant.last <= done or not grant.attr:
            return None
        grant.told = True
        return abi.reply(unique, abi.ATTR_OUT.pack(TTL, 0, 0) + abi.ATTR.pack(*grant.attr))

    def settles(self, nodeid: int, number: int) -> bool:
        """Take note that home has done the change of that number in a directory, or has not; say whether the kernel is
        to forget what it was told of that."""
        grant = self._granted.get(nodeid)
        if grant is None or grant.last != number:
            return False
        told, grant.told, grant.last = grant.told, False, 0  # from now on home is asked for what its reply did not say
        return told

    def attributes(self, nodeid: int) -> bytes:
        """Return the struct fuse_attr of a directory in which something is made, as it is known, not to be used again;
        nothing: it is not."""
        grant = self._granted.get(nodeid)
        return abi.ATTR.pack(*grant.attr) if grant is not None and grant.attr else b""

    def saw(self, attr: bytes, now: float) -> None:
        """Take note of attributes (struct fuse_attr) that came just now: no file is changed later than its change time
        is by home's clock."""
        told = abi.ATTR.unpack(attr)
        self._clock(told[5] * _NS + told[8], now)

    def _clock(self, ns: int, now: float) -> None:
        ahead = ns - int(now * _NS)
        self._ahead = ahead if self._ahead is None else max(self._ahead, ahead)

    def leapt(self, seconds: float) -> None:
        """Take note that the clock here was set ahead, and home's was not."""
        if self._ahead is not None:
            self._ahead -= int(seconds * _NS)

    def time(self, now: float) -> int:
        """Tell home's time, in ns, or a moment less: no later than what home gives to anything from now on; 0: it is
        not known."""
        return 0 if self._ahead is None else self._ahead + int(now * _NS)


def asking(raw: bytes | memoryview) -> tuple[int, int, int]:
    """The directory, and the ids of who asks."""
    _, _, _, nodeid, uid, gid, _, _, _ = abi.IN_HEADER.unpack_from(raw)
    return nodeid, uid, gid


def _mode(op: int, raw: bytes | memoryview) -> int:
    """The mode that is asked for (st_mode): where there is no default ACL."""
    if op == abi.SYMLINK:
        return stat.S_IFLNK | 0o777
    at = abi.ARGS + (4 if op == abi.CREATE else 0)
    mode, umask = abi.MKDIR_IN.unpack_from(raw, at)
    return int(_FORMATS[op] | mode & ~umask & 0o7777)


def _tells_all(op: int, raw: bytes | memoryview) -> bool:
    """Say whether the reply to that says what may be done with others like it: not where it may be written to in part,
    or not at all."""
    flags = abi.CREATE_IN.unpack_from(raw, abi.ARGS)[0] if op == abi.CREATE else _ACCMODE
    return bool(flags & _ACCMODE) and not flags & _ASKS


def _asks(op: int, name: bytes, raw: bytes | memoryview) -> bool:
    """Say whether home might refuse it, or make it otherwise."""
    if len(name) > NAME_MAX or (op == abi.SYMLINK and len(raw) > _TARGET_MAX):
        return True
    if op == abi.CREATE and abi.CREATE_IN.unpack_from(raw, abi.ARGS)[0] & _ASKS:
        return True
    return bool(_mode(op, raw) & _SPECIAL)
