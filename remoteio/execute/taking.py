"""Execute side: what takes a name away, told to the job's kernel before home has done it. Pure. Shipped.

Home grants it of a directory with the reply to the first UNLINK, RMDIR or RENAME there (``wire.makes``: REMOVE). From
then on a removal is answered here of each name that is known to lead somewhere, but for those that home keeps for
itself; of a directory, if it is granted so as well, nothing in it is hidden from the job (SHOWN), and it is known to be
empty. Of what the job has made itself no grant is needed. A RENAME of such a file may take the name of any that might
be removed. Home is told which node is meant, and removes that, or nothing.

The caller tells the time, and comes with one thread at a time (``relay.Relay._order``).
"""

from __future__ import annotations

from remoteio.execute.leased_names import is_absent, is_empty, named
from remoteio.execute.leases import Leases
from remoteio.execute.making import NAME_MAX, Grant, Making, Words, asking
from remoteio.wire import fuse_abi as abi
from remoteio.wire.makes import HOMES, MADE, NOREPLACE, REMOVE, SHOWN, Granted, names_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remoteio.execute.known import Asked

_MOST_LOST = 1024
_LINKS = 10  # in struct fuse_attr, unpacked
_REMOVES = (abi.UNLINK, abi.RMDIR)


class Taking(Making):
    """Answers what takes a name away, too."""

    def __init__(self, leases: Leases) -> None:
        super().__init__(leases)
        self.took_at = 0.0  # when the job has last taken a name away
        self._lost: dict[int, int] = {}  # directories of which home took all back -> by which count; 0: of any

    def taken_back(self, nodeid: int, count: int) -> None:
        """Take note that home takes back all that was told of a directory, 0: of any; by the count of ``known``."""
        self.lose(nodeid)
        if len(self._lost) >= _MOST_LOST:
            self._lost = {0: count}
        self._lost[nodeid] = count

    def is_lost(self, nodeid: int, stamp: int) -> bool:
        """Say whether home has taken all of a directory back since the request of that stamp went out."""
        return stamp < max(self._lost.get(nodeid, 0), self._lost.get(0, 0))

    def may_take(self, asked: Asked, granted: Granted, above: bytes, now: float) -> None:
        """Keep what goes along with the reply to what takes a name away; `above`: the directory's attributes."""
        _, nodeid, _, stamp, _, _ = asked
        if granted.ns:
            self._clock(granted.ns, now)
            self.took_at = now
        if self.is_lost(nodeid, stamp):
            return
        grant = self._granted.get(nodeid)
        if not granted.what & REMOVE:
            if grant is not None:
                grant.kept = None
            return
        if grant is None:
            grant = Grant({}, ())
            self._enter(nodeid, grant)
        grant.attr, grant.kept = list(abi.ATTR.unpack(above)), Words(granted.words)
        grant.shown = bool(granted.what & SHOWN)

    def may_take_ahead(self, stamp: int, told: list[tuple[int, bytes, Granted]], now: float) -> None:
        """Keep what came along with directories that were listed ahead: (node, attributes, what is granted) each."""
        if self._ahead is None:
            return  # nobody could say what time it is at home
        for nodeid, attr, granted in told:
            self.may_take((abi.LIST, nodeid, 0, stamp, now, b""), granted, attr, now)

    def takes(self, op: int, raw: bytes | memoryview, now: float) -> tuple[int, ...]:
        """Return the node whose name an UNLINK or RMDIR takes away, or a RENAME within one directory, if it is known
        to have the name still, and home to do it; of a RENAME also that of the one whose name it is given, alike, or 0:
        nothing has it. Nothing: home is to be asked."""
        nodeid, uid, gid = asking(raw)
        grant = self._granted.get(nodeid)
        if grant is None or not self._leases.holds(now):
            return ()
        makes = (abi.CREATE, uid, gid) in grant.likes
        if op in _REMOVES:
            self.took_at = now
            return self._removed(op, grant, nodeid, bytes(raw[abi.ARGS : -1]), makes)
        newdir, flags, *_ = *(abi.RENAME_IN if op == abi.RENAME else abi.RENAME2_IN).unpack_from(raw, abi.ARGS), 0
        old, new = names_of(raw)
        found = self._owned(grant, nodeid, old) if makes else ()
        if not found or newdir != nodeid or flags & ~NOREPLACE or old == new or found[0] not in self._own:
            return ()
        if is_absent(self._leases, nodeid, new):
            return () if grant.words.speak_of(new) or len(new) > NAME_MAX else (*found, 0)
        taken = self._removed(abi.UNLINK, grant, nodeid, new, makes)  # no directory, as the kernel has seen
        return () if not taken or flags or taken == found else found + taken

    def _removed(self, op: int, grant: Grant, nodeid: int, name: bytes, makes: bool) -> tuple[int, ...]:
        found = self._owned(grant, nodeid, name) if makes else ()
        if not found and grant.kept is not None and not (grant.kept.speak_of(name) or grant.words.speak_of(name)):
            node = named(self._leases, nodeid, name)
            found = (node,) if 0 < node < HOMES or node >= MADE else ()
        return found if op == abi.UNLINK or (found and self._is_empty(found[0])) else ()

    def _is_empty(self, nodeid: int) -> bool:
        """Whether nothing is in a directory, nor anything of which the job is not told."""
        grant = self._granted.get(nodeid)
        return grant is not None and grant.shown and is_empty(self._leases, nodeid)

    def _owned(self, grant: Grant, nodeid: int, name: bytes) -> tuple[int, ...]:
        found = named(self._leases, nodeid, name)
        return (found,) if (found >= MADE or found in self._own) and not grant.words.speak_of(name) else ()

    def took(self, op: int, raw: bytes | memoryview, number: int, now: float) -> None:
        """Take note that the change of that number has taken the name away, or given the file another."""
        nodeid, _, _ = asking(raw)
        grant = self._granted[nodeid]
        old, new = (bytes(raw[abi.ARGS : -1]), b"") if op in _REMOVES else names_of(raw)
        if new:  # first: a file without a name is forgotten
            self._leases.name(nodeid, new, named(self._leases, nodeid, old))
        if op == abi.RMDIR:
            self._lose_directory(grant, named(self._leases, nodeid, old))
        self._leases.name(nodeid, old, 0)
        self._changed(grant, number, now)

    def _lose_directory(self, grant: Grant, gone: int) -> None:
        """Take note that a directory is gone, and with it the ".." that counts as a link of the one that it was in."""
        its = self._granted[gone].attr
        if its and grant.attr:
            grant.attr[_LINKS] -= its[_LINKS] - 1
        else:
            grant.attr = []
        self.lose(gone)
        self._leases.broken(gone, b"")
