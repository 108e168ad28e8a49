"""Execute side: which extended attributes files lack, and of which files to ask ahead. Pure. Shipped.

The kernel remembers none of it: it asks for security.capability at each write and chown, `ls -l` asks for two more of
each file, and `cp -a` for a list of all. Hardly any has one. That one is lacking is known for coherence.TTL, and where
the file's attributes hold under a lease, as long as they do: setxattr(2) changes the inode, which home's watch tells
(IN_ATTRIB). Who asks home of two files will ask of all that are in the directory, and walk on: so the names of what
these have are asked for ahead (listxattr(2)), of twice as many each time that the job comes to one of which home was
not asked.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice

from remoteio.execute.leased_names import beside
from remoteio.execute.leases import NO_CAPABILITY, Leases, is_bare
from remoteio.wire import fuse_abi as abi
from remoteio.wire.coherence import KNOWN_BARE, TTL

CAPABILITY = b"security.capability\0"
_ANY = b""  # stands for all that there may be
_BITS = {
    name: NO_CAPABILITY << k
    for k, name in enumerate(
        (CAPABILITY, b"security.selinux\0", b"system.posix_acl_access\0", b"system.posix_acl_default\0", _ANY)
    )
}
_ALL = sum(_BITS.values())
_LISTS = (b"system.posix_acl_access\0", b"system.posix_acl_default\0")
_NOTHING = (float("-inf"), 0)
_FIRST, _MOST = 8, 256  # files that are asked of at once
_ROOM = 1024  # bytes of names: who has more is not known


class Lacking:
    """Knows what files lack, and whom to ask next. `onward`: of which, from one on, no more than so many (``orders``);
    where it knows none, those beside it by the leases are asked of.

    listed  files of which the kernel was told an access list"""

    def __init__(self, leases: Leases, onward: Callable[[int, int], list[int]]) -> None:
        self._leases, self._onward = leases, onward
        self.listed: set[int] = set()
        self._known: OrderedDict[int, tuple[float, int]] = OrderedDict()  # nodeid -> until when, and what it lacks
        self._ahead: frozenset[int] = frozenset()  # files that the job is taken to come to
        self._unasked: dict[int, None] = {}  # of these, those of which home was not asked, in their order
        self._asked: set[int] = set()  # of all files
        self._window = 0
        self._next: list[int] = []

    def learn(self, nodeid: int, name: bytes, now: float) -> None:
        """Keep that a file lacks the attribute of that name, which ends with a NUL."""
        self._learn(nodeid, _BITS.get(name, 0), now)

    def _learn(self, nodeid: int, lacks: int, now: float) -> None:
        if not lacks:
            return
        self._leases.lacks(nodeid, lacks)
        until, bits = self._known.get(nodeid, _NOTHING)
        self._known[nodeid] = (until, bits | lacks) if until >= now else (now + TTL, lacks)
        if len(self._known) > KNOWN_BARE:
            self._known.popitem(last=False)

    def forget(self, nodeid: int) -> None:
        """Keep nothing of that file for a time."""
        self._known.pop(nodeid, None)

    def clear(self) -> None:
        """Keep nothing of any."""
        self._known.clear()

    def replied(
        self, op: int, nodeid: int, raw: bytes | memoryview, error: int, payload: bytes | memoryview, now: float
    ) -> None:
        """Keep what the reply to a GETXATTR or LISTXATTR says that a file lacks, or that it has an access list."""
        name = bytes(raw[abi.ARGS + abi.GETXATTR_IN.size :]) if op == abi.GETXATTR else _ANY
        if op == abi.GETXATTR and error == -errno.ENODATA:
            self.learn(nodeid, name, now)
        elif not error and name in _LISTS:
            if len(self.listed) >= KNOWN_BARE:
                self.listed.pop()
            self.listed.add(nodeid)
        elif op == abi.LISTXATTR and not error:
            told = bytes(payload[abi.OUT_HEADER.size :])
            if abi.GETXATTR_IN.unpack_from(raw, abi.ARGS)[0]:
                has = {name + b"\0" for name in told.split(b"\0")[:-1]} | ({_ANY} if told else set())
                self._learn(nodeid, sum(bit for name, bit in _BITS.items() if name not in has), now)
            elif not any(told):  # the size of no names
                self._learn(nodeid, _ALL, now)

    def answer(self, op: int, unique: int, nodeid: int, raw: memoryview, leased: bool, now: float) -> bytes | None:
        """Return the reply to a GETXATTR or LISTXATTR of what a file lacks, if it is known to; `leased`: what is leased
        holds. If it is not known, home is about to be asked."""
        name = bytes(raw[abi.ARGS + abi.GETXATTR_IN.size :]) if op == abi.GETXATTR else _ANY
        bit = _BITS.get(name, 0)
        until, bits = self._known.get(nodeid, _NOTHING)
        if (until < now or not bits & bit) and not (leased and is_bare(self._leases, nodeid, bit)):
            if bit and name != CAPABILITY:
                self._missed(nodeid, bool(bits & bit))
            return None
        if op == abi.GETXATTR:
            return abi.failure(unique, errno.ENODATA)
        size, _ = abi.GETXATTR_IN.unpack_from(raw, abi.ARGS)
        return abi.reply(unique, b"" if size else abi.GETXATTR_OUT.pack(0, 0))

    @property
    def wants(self) -> bool:
        """Whether there is something to ask."""
        return bool(self._next)

    def next(self) -> list[tuple[int, int, bytes]]:
        """Return what to ask of which file, once: operation, node, arguments."""
        found, self._next = self._next, []
        return [(abi.LISTXATTR, nodeid, abi.GETXATTR_IN.pack(_ROOM, 0)) for nodeid in found]

    def _missed(self, nodeid: int, late: bool) -> None:
        """Find what to ask next; `late`: that it lacks this was known, but too long ago."""
        if late or len(self._asked) > KNOWN_BARE:
            self._asked.clear()
        if late or nodeid not in self._ahead:
            found = self._onward(nodeid, KNOWN_BARE) or beside(self._leases, nodeid)
            self._ahead = frozenset(found)
            self._unasked = dict.fromkeys(each for each in found if each not in self._asked)
        if nodeid not in self._unasked:
            return
        del self._unasked[nodeid]
        ahead = list(islice(self._unasked, self._window))
        for each in ahead:
            del self._unasked[each]
        ahead += [nodeid] if ahead else []  # what else it may lack
        self._asked.update((nodeid, *ahead))
        self._next += ahead
        self._window = min(2 * self._window, _MOST) or _FIRST
