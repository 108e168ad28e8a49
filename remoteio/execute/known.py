"""Execute side: what came along with a reply and answers the next request without a round trip. Shipped.

For coherence.TTL seconds, the time for which the kernel itself would use attributes it was given:

* attributes of a node (with OPEN and WRITE; of the directory, with what changes one): the kernel asks for them again
  after each read and each change;
* the contents of a small file (with OPEN);
* directories' entries (``known_listings``), and those of directories that are about to be opened (``ahead``);
* small files that are about to be opened (``files_ahead``), whose OPEN is then answered here;
* where a symbolic link points (with LOOKUP): who looks it up by a path reads it next;
* that a file has no capabilities (``security.capability``): the kernel asks at each write and chown.

What others change may go unseen for that long (docs/consistency.md); what the job itself changes may not go unseen at
all. Replies overtake each other, and the submit side does several requests at once, so that a reply may tell of a file
as it was before a change whose own reply has come already. So requests and changes are numbered by one count, in the
order in which they were seen here:

* a request gets its *stamp* when it goes out (``asked``);
* a change gets a number twice, when it is asked for and when it is answered, since it is done at some time between;
* what came with a reply counts only if its stamp is not below the number of the node's last change (``holds``).

Two changes of one node under way at once each refuse what the other tells: less is known, nothing wrong. A change that
does not name its node by number, or a lock, whose file may stand for any others, is a *sweep*: a change of all. Not
taken: versions from the submit side (it would have to number every change of everybody).

Names, attributes and contents that home has leased (``leases``) answer for longer, until home says that they are
broken, be it by the job: a break is a change as of when it comes here.

Pure: the caller tells the time, and sees to it that one thread at a time is here (``relay.Relay._order``).
"""

from __future__ import annotations

from collections import OrderedDict

from remoteio.execute.ahead import Ahead
from remoteio.execute.beside_locks import timeless
from remoteio.execute.files_ahead import File, FilesAhead
from remoteio.execute.held_locks import LOCK_OPS
from remoteio.execute.known_listings import KnownListings
from remoteio.execute.lacking import CAPABILITY, Lacking
from remoteio.execute.leases import Leases, size_of
from remoteio.execute.opened import Opened
from remoteio.execute.removing import Removing
from remoteio.wire import fuse_abi as abi
from remoteio.wire import leases as wire
from remoteio.wire.coherence import KNOWN_CHANGES, KNOWN_LINKS, KNOWN_NODES, SILENCE, TTL
from remoteio.wire.known import Listing, Piggyback
from remoteio.wire.listed import ENTRY_SIZE, walk
from remoteio.wire.makes import OPS, name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    # a request under way: its operation, node, pid, stamp, when it was asked, and it whole
    Asked = tuple[int, int, int, int, float, "bytes | memoryview"]

_CHANGES = frozenset((abi.WRITE, abi.SETATTR, abi.FALLOCATE, abi.SETXATTR, abi.REMOVEXATTR, abi.FLUSH)) | {
    abi.CREATE,
    abi.MKNOD,
    abi.MKDIR,
    abi.SYMLINK,
}  # these change the directory
# these change files that they do not name by node: links, times, sizes of others; and what a lock guards lies anywhere
_SWEEPING = frozenset(
    (
        abi.SETLK,
        abi.SETLKW,
        abi.LINK,
        abi.UNLINK,
        abi.RENAME,
        abi.RENAME2,
        abi.RMDIR,
        abi.COPY_FILE_RANGE,
        abi.COPY_FILE_RANGE_64,
    )
)
_REMOVING = frozenset((abi.UNLINK, abi.RMDIR))  # unless it is known which
_O_DIRECT = 0o40000
NOTHING = (float("-inf"), b"", b"", 0)  # is known of a node


class Known:
    """Answers from what is known of the job's files: take a stamp with ``asked``, and give it back with the reply."""

    def __init__(self) -> None:
        self.listings = KnownListings()
        self.ahead = Ahead(self.listings)
        self.files = FilesAhead()
        self.leases = Leases()
        self.opened = Opened()
        # nodeid -> until, attributes, contents, for how much of that time the kernel may have the attributes
        self._attr: OrderedDict[int, tuple[float, bytes, bytes, int]] = OrderedDict()
        self.lacking = Lacking(self.leases, self.files.orders.onward)
        self._links: OrderedDict[int, tuple[float, bytes]] = OrderedDict()  # nodeid -> until, where it points
        self._change: OrderedDict[int, int] = OrderedDict()  # nodeid -> number of its last change, in their order
        self._removing = Removing(self.leases)
        self._sweep = 0
        self._count = 0

    def asked(self, op: int, nodeid: int, raw: bytes | memoryview = b"") -> int:
        """Take note of a request that goes out, and return its stamp. `raw`: it whole, if it may be known by that what
        it changes."""
        self._count += 1
        if op in _CHANGES:
            self._attr.pop(nodeid, None)
            if op in (abi.SETXATTR, abi.REMOVEXATTR):
                self.lacking.forget(nodeid)
            self._changed(nodeid, (name_of(op, raw),) if op in OPS and raw else ())
        elif op in _REMOVING and raw and (gone := self._removing.begins(self._count, nodeid, raw)):
            self.gone(nodeid, gone[:1], gone[1:])
        elif op in _SWEEPING and op not in LOCK_OPS:  # a lock tells of nothing before it is granted
            self._attr.clear()
            self.leases.changed(nodeid)
            self._swept()
        elif op == abi.OPEN:
            self._attr.pop(nodeid, None)  # close-to-open: what was known before does not answer for this one
        return self._count

    def gone(self, nodeid: int, names: tuple[bytes, ...], nodes: tuple[int, ...]) -> None:
        """Take note that these nodes have lost these names in the directory `nodeid`, or may have."""
        for each in nodes:
            self._attr.pop(each, None)
            self._changed(each)
        self._attr.pop(nodeid, None)
        self._changed(nodeid, names)

    def _swept(self) -> None:
        self._sweep = self._count
        self._links.clear()
        self.listings.sweep()
        self.ahead.sweep()
        self.files.sweep()

    def _changed(self, nodeid: int, names: tuple[bytes, ...] = ()) -> None:
        """Take note of a change of a node; `names`: of nothing in that directory but these."""
        self._change[nodeid] = self._count
        self._change.move_to_end(nodeid)
        self.leases.changed(nodeid)
        self.listings.changed(nodeid, names)
        self.ahead.changed(nodeid)
        self.files.changed(nodeid)
        self.opened.changed(nodeid)
        if len(self._change) > KNOWN_CHANGES:  # all others count as changed then
            self._sweep = max(self._sweep, self._change.popitem(last=False)[1])

    def unused(self) -> bool:
        """Say whether home is to be given anything back."""
        given = self.listings.unused or self.leases.unused or self.files.unused or self.opened.released
        return bool(given or self.leases.dropped)

    def answered(self, op: int, nodeid: int, stamp: int, sole: bool = False) -> bool:
        """Take note of the reply to a request, and say whether what it carries still holds."""
        holds = self.holds(nodeid, stamp)
        if op in _CHANGES:
            self._count += 1
            self._changed(nodeid)
        elif op in _SWEEPING and not sole:
            self._count += 1
            if gone := self._removing.ends(stamp, nodeid):
                self.gone(nodeid, gone[:1], gone[1:])
                return holds
            self._swept()
            self.leases.changed(nodeid)  # it may have been leased again meanwhile, and home says this by no break
            if op in LOCK_OPS:  # what was told while it waited may be what others have changed since
                self._attr.clear()
        return holds

    def replied(self, asked: Asked, error: int, payload: bytes | memoryview, now: float, sole: bool = False) -> None:
        """Take note of the reply to a request, and keep what it tells by itself. Raises struct.error.

        `sole`: it is of a lock, and tells of nothing that others have done.
        """
        op, nodeid, _, stamp, _, raw = asked
        holds = self.answered(op, nodeid, stamp, sole)
        if op in XATTRS and holds:
            self.lacking.replied(op, nodeid, raw, error, payload, now)
        elif op == abi.CREATE and not error:
            self.lacking.learn(abi.ENTRY.unpack_from(payload, abi.OUT_HEADER.size)[0], CAPABILITY, now)
        elif op == abi.READDIRPLUS and not error:
            entries = bytes(payload[abi.OUT_HEADER.size :])
            self.files.orders.listed(nodeid, entries)
            self.ahead.goes_on(nodeid, entries)
        found, attr = (0, b"") if error else timeless(op, nodeid, payload)
        if found and (holds if found == nodeid else self.holds(found, stamp)):
            self.learn(found, attr, b"", now, 0)

    def holds(self, nodeid: int, stamp: int) -> bool:
        """Say whether no change was asked for or answered since the request of that stamp."""
        return self._change.get(nodeid, 0) <= stamp and self._sweep <= stamp

    def broken(self, items: list[tuple[int, bytes]]) -> None:
        """Take note that what home has told of these nodes and names (``wire.leases``) holds no more.

        It is a change like the job's own, as of now: a reply that is under way may tell of what was before.
        """
        for nodeid, name in items:
            self._count += 1
            if nodeid == wire.EVERYTHING:
                self._attr.clear()
                self.lacking.clear()
                self._swept()
                self.leases.clear()
                self.opened.pushed.clear()
            else:
                self._attr.pop(nodeid, None)
                self.lacking.forget(nodeid)
                self._changed(nodeid)
                self.leases.broken(nodeid, name)

    def lease(
        self, nodeid: int, stamp: int, what: int, name: bytes, told: tuple[int, bytes, Piggyback | None, bool]
    ) -> None:
        """Keep until a break what a reply told: of which node (0: none), its attributes, what came along, and whether
        the kernel is told for no time. Call it before what came along is kept for its time."""
        if not self.holds(nodeid, stamp):
            return
        leases, (found, attr, known, locked) = self.leases, told
        if what & wire.NAME:
            leases.name(nodeid, name, found, locked)
        if what & wire.ATTR and found and self.holds(found, stamp):
            leases.attributes(found, attr)
            if what & wire.CONTENTS:
                leases.contents(found, known.version if known is not None else b"")
        if what & wire.LISTED and known is not None and known.listing is not None:
            entries = known.listing.entries
            # one that comes with a LOOKUP has no order of its own
            leases.listed(nodeid, within := walk(entries), b"" if what & wire.NAME else entries)
            for start, _, each, *_ in within if what & wire.ENTRIES else ():
                if each and self.holds(each, stamp):
                    leases.attributes(each, entries[start + abi.ENTRY.size : start + ENTRY_SIZE])

    def learn_listing(self, op: int, nodeid: int, fh: int, stamp: int, listing: Listing, now: float) -> None:
        """Keep what came with the reply to a LOOKUP in the directory `nodeid`, or to the OPENDIR that made `fh`."""
        named = {each[2] for each in walk(listing.entries)} - {0}
        if not all(self.holds(each, stamp) for each in (nodeid, *named)):
            self.listings.refuse(listing.entries)
        elif op == abi.OPENDIR:
            found = self.listings.opened(fh, listing.entries, listing.complete, now)
            self.ahead.opened(nodeid, found, now)
            self.files.orders.listed(nodeid, listing.entries)
        else:
            found = walk(listing.entries)
            self.listings.learn(nodeid, listing.entries, found, now + TTL)
            self.ahead.looked(nodeid, found, now)
            self.files.orders.listed(nodeid, listing.entries)

    def _open(self, unique: int, nodeid: int, raw: memoryview, now: float) -> bytes | None:
        """Return the reply to an OPEN, if the file is under a lease, or was fetched, or pushed.

        None long before home must be asked again: a file that is open then, and that others replace, is not taken up.
        """
        if not self.leases.holds(now + SILENCE / 2):
            return None
        flags = abi.OPEN_IN.unpack_from(raw, abi.ARGS)[0]
        leased, keeps = self.leases.may_open(nodeid, flags), abi.FOPEN_KEEP_CACHE
        file = self.files.open(nodeid, flags, now, leased or self.opened.pushed.may_open(nodeid))
        if file is not None:
            return self.open_ahead(unique, nodeid, file)
        if not leased and self.opened.pushed.may_open(nodeid):
            leased, keeps = self.leases.open_first(nodeid, flags, self.opened.pushed.version(nodeid)), 0
            self.opened.pushed.opened(nodeid, leased)
        fh = self.opened.open(nodeid, flags, now) if leased else 0
        return abi.reply(unique, abi.OPEN_OUT.pack(fh, keeps, 0)) if fh else None

    def open_ahead(self, unique: int, nodeid: int, file: File | None) -> bytes | None:
        """Return the reply to an OPEN of a file that was fetched, and keep what is in it for who reads it.

        From then on the kernel's pages are those of the lease.
        """
        if file is None:
            return None
        self.learn(nodeid, file.attr, file.contents, file.until - TTL)
        self.leases.contents(nodeid)
        return abi.reply(unique, abi.OPEN_OUT.pack(file.handle, 0, 0))

    def learn_link(self, nodeid: int, stamp: int, link: bytes, now: float, seconds: float = TTL) -> None:
        """Keep where the symbolic link `nodeid` points, as the reply to a LOOKUP told, for who reads it next."""
        if self._sweep <= stamp:
            self._links[nodeid] = (now + seconds, link)
            if len(self._links) > KNOWN_LINKS:
                self._links.popitem(last=False)

    def learn(self, nodeid: int, attr: bytes, contents: bytes, now: float, share: int = 1) -> None:
        """Keep the struct fuse_attr of a node, and all its contents; `share` 0: the kernel asks each time."""
        self._attr[nodeid] = (now + TTL, attr, contents, share)
        if len(self._attr) > KNOWN_NODES:
            self._attr.popitem(last=False)

    def size(self, nodeid: int, now: float) -> int:
        """Tell how long a file is, as it was told last; -1: that is not known."""
        until, attr, *_ = self._attr.get(nodeid, NOTHING)
        return int(abi.ATTR.unpack(attr)[1]) if until >= now else size_of(self.leases, nodeid)

    def answer(self, op: int, unique: int, nodeid: int, raw: memoryview, now: float) -> bytes | None:
        """Return the reply to a request of one of ANSWERED, if it is known."""
        leases = self.leases
        leased = leases.holds(now)
        if op == abi.LOOKUP:
            name = bytes(raw[abi.ARGS : -1])
            known = self.listings.lookup(unique, nodeid, name, now)
            if known is None and (not leased or (known := leases.lookup(unique, nodeid, name)) is None):
                if self.ahead.look(nodeid, name, now):
                    return self.listings.lookup(unique, nodeid, name, now)
                self.files.orders.looked_up(nodeid, name)
            return known
        if op == abi.OPENDIR:
            self.files.orders.entered(nodeid)
            return self.ahead.open(unique, nodeid, now, _listing_leases(self, leased))
        if op == abi.OPEN:
            self.ahead.bare.opens()
            return self._open(unique, nodeid, raw, now)
        if op == abi.READDIRPLUS:
            return self.ahead.read(unique, nodeid, raw, now, _listing_leases(self, leased))
        if op == abi.READLINK:
            until, link = self._links.pop(nodeid, (0.0, b""))  # the kernel keeps it from now on
            return abi.reply(unique, link) if link and until >= now else None
        if op in XATTRS:
            return self.lacking.answer(op, unique, nodeid, raw, leased, now)
        if op == abi.ACCESS:
            return self.opened.searched.answer(leases, unique, nodeid, raw) if leased else None
        if op == abi.GETATTR and leased and (known := leases.getattr(unique, nodeid)) is not None:
            return known
        if op == abi.READ:
            return _read(self, unique, nodeid, raw, leased, now)
        until, attr, _, share = self._attr.get(nodeid, NOTHING)
        return (
            abi.reply(unique, abi.ATTR_OUT.pack(0, share * int((until - now) * 1e9) % 1000000000, 0) + attr)
            if until >= now
            else None
        )


OPENING = frozenset((abi.OPEN, abi.OPENDIR))
"""Operations whose answer has a handle."""

WAITING = OPENING | {abi.LOOKUP, abi.READ}
"""Operations that may wait for what is under way."""

XATTRS = frozenset((abi.GETXATTR, abi.LISTXATTR))
"""Operations that tell of extended attributes."""

ANSWERED = WAITING | XATTRS | {abi.ACCESS, abi.GETATTR, abi.READLINK, abi.READDIRPLUS}


def _read(known: Known, unique: int, nodeid: int, raw: memoryview, leased: bool, now: float) -> bytes | None:
    """Return the reply to a READ, if what it asks for was pushed, or came with an OPEN."""
    _, offset, size, _, _, flags, _ = abi.READ_IN.unpack_from(raw, abi.ARGS)
    if flags & _O_DIRECT:
        return None
    if leased and size_of(known.leases, nodeid) >= 0:  # else it may have been taken back
        data = known.opened.pushed.read(nodeid, offset, size)
        if data is not None:
            return abi.reply(unique, data)
    until, _, contents, _ = known._attr.get(nodeid, NOTHING)
    return abi.reply(unique, contents[offset : offset + size]) if until >= now and offset < len(contents) else None


def _listing_leases(known: Known, hold: bool) -> Leases | None:
    """The leases by which directories may be opened here, if those `hold`; none while CRIU asks."""
    return known.leases if hold and not known.opened.by_home else None
