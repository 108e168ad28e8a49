"""Execute side: which extended attributes files lack, and of which files to ask ahead. Pure. Shipped.

The kernel remembers none of it: it asks for security.capability at each write and chown, and `ls -l`, `cp -a` and
others ask for two more of each file. Hardly any has one. That one is lacking is known for coherence.TTL, and where the
file's attributes hold under a lease, as long as they do: setxattr(2) changes the inode, which home's watch tells
(IN_ATTRIB). Who asks home for one of two files will ask for that of all that are in the directory: they are asked
ahead, in the order in which it was listed, and twice as many each time.
"""

from __future__ import annotations

from collections import OrderedDict

from remoteio.execute.leases import NO_CAPABILITY, Leases, beside
from remoteio.wire.coherence import KNOWN_BARE, TTL

CAPABILITY = b"security.capability\0"
_BITS = {
    name: NO_CAPABILITY << k
    for k, name in enumerate(
        (CAPABILITY, b"security.selinux\0", b"system.posix_acl_access\0", b"system.posix_acl_default\0")
    )
}
_NOTHING = (float("-inf"), 0)
_FIRST, _MOST = 8, 256  # files that are asked of at once


class Lacking:
    """Knows what files lack, and whom to ask next."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._known: OrderedDict[int, tuple[float, int]] = OrderedDict()  # nodeid -> until when, and what it lacks
        self._places: dict[int, int] = {}  # of the files in the directory of one that was asked of last, in its order
        self._asked: dict[bytes, tuple[int, int]] = {}  # name -> up to which place, and how many next
        self._next: list[tuple[int, bytes]] = []

    def learn(self, nodeid: int, name: bytes, now: float) -> None:
        """Keep that a file lacks the attribute of that name, which ends with a NUL."""
        bit = _BITS.get(name, 0)
        if not bit:
            return
        self._leases.lacks(nodeid, bit)
        until, bits = self._known.get(nodeid, _NOTHING)
        self._known[nodeid] = (until, bits | bit) if until >= now else (now + TTL, bit)
        if len(self._known) > KNOWN_BARE:
            self._known.popitem(last=False)

    def forget(self, nodeid: int) -> None:
        """Keep nothing of that file for a time."""
        self._known.pop(nodeid, None)

    def clear(self) -> None:
        """Keep nothing of any."""
        self._known.clear()

    def knows(self, nodeid: int, name: bytes, leased: bool, now: float) -> bool:
        """Say whether it lacks that; `leased`: what is leased holds. If it is not known, home is about to be asked."""
        bit = _BITS.get(name, 0)
        until, bits = self._known.get(nodeid, _NOTHING)
        if (until >= now and bits & bit) or (leased and self._leases.bare(nodeid, bit)):
            return True
        if bit and name != CAPABILITY:
            self._missed(nodeid, name)
        return False

    @property
    def wants(self) -> bool:
        """Whether there is something to ask."""
        return bool(self._next)

    def next(self) -> list[tuple[int, bytes]]:
        """Return of which file to ask for what, once."""
        found, self._next = self._next, []
        return found

    def _missed(self, nodeid: int, name: bytes) -> None:
        place = self._places.get(nodeid)
        if place is None:
            self._places = {each: k for k, each in enumerate(beside(self._leases, nodeid))}
            self._asked = {each: (0, max(count // 2, _FIRST)) for each, (_, count) in self._asked.items()}
            place = self._places.get(nodeid, -1)
        upto, count = self._asked.get(name, (0, 0))
        if upto > place + 2 * _MOST:  # from its beginning again
            upto = 0
        begin = max(upto, place + 1)
        if count:
            self._next += [(each, name) for each, k in self._places.items() if begin <= k < begin + count]
        self._asked[name] = begin + count, min(2 * count, _MOST) or _FIRST
