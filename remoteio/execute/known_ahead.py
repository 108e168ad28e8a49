"""Execute side: what is asked for ahead of the job, and what comes of it. Pure. Shipped."""

from __future__ import annotations

from remoteio.execute.ahead import Waiting
from remoteio.execute.beside_locks import is_told_once, is_untold
from remoteio.execute.known import NOTHING, XATTRS
from remoteio.execute.known_names import KnownNames
from remoteio.execute.leased_names import given, is_absent, is_locked, is_whole, keep_listing, keep_names, named
from remoteio.execute.leases import size_of
from remoteio.execute.making import Made
from remoteio.execute.pushed import UNUSED_S
from remoteio.execute.taking import Taking
from remoteio.execute.written import Written
from remoteio.wire import fuse_abi as abi
from remoteio.wire import pushed as wire
from remoteio.wire.behind import MAY_WRITE
from remoteio.wire.coherence import KNOWN_OPENED, TTL
from remoteio.wire.fetched import parse as parse_fetched
from remoteio.wire.leases import EVERYTHING
from remoteio.wire.listed import NAMES, TAKES, parse, parse_names, takings, walk
from remoteio.wire.makes import MORE, Granted, name_of

_O_TRUNC = 0o1000

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remoteio.execute.known import Asked


class KnownAhead(KnownNames):
    """Asks ahead for what the job may open next; knows what may be made before home has, and what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.making = Taking(self.leases)
        self.written = Written(self)
        self._names: dict[int, float] = {}  # directories whose names are asked for -> when they were; 0: they will be

    def broken(self, items: list[tuple[int, bytes]]) -> None:
        """Take note that what home has told of these nodes and names holds no more; of all that is in a directory, that
        home is to be asked for what is made there."""
        super().broken(items)
        for nodeid, name in items:
            if not name:
                self.making.taken_back(nodeid, self._count)

    def granted(
        self, asked: Asked, granted: Granted, reply: bytes | memoryview, above: bytes, now: float
    ) -> Made | None:
        """Keep what goes along with the reply to what makes a name: see ``Making.granted``. Raises struct.error."""
        op, nodeid, _, stamp, _, raw = asked
        made, name = abi.ENTRY.unpack_from(reply, abi.OUT_HEADER.size)[0], name_of(op, raw)
        absent = is_absent(self.leases, nodeid, name)
        self.leases.changed(nodeid)
        self.leases.broken(nodeid, name)  # home does not say so by a break
        if absent and self.holds(made, stamp):
            self.leases.name(nodeid, name, made, is_told_once(reply))
            if op == abi.CREATE:
                self.making.owns(made)
        if self.making.is_lost(nodeid, stamp) or not self.holds(made, stamp):
            return None  # it may have been taken back since
        if granted.what & MORE and not is_whole(self.leases, nodeid) and self._names.get(nodeid, 0.0) < now - TTL:
            if len(self._names) >= KNOWN_OPENED:
                self._names.clear()
            self._names[nodeid] = 0.0
            self.ahead.moved = True
        return self.making.granted(op, raw, granted, reply, above, now)

    def removed(self, nodeid: int, name: bytes) -> None:
        """Take note that home has removed a name when the job asked for that: it does not say so by a break."""
        if named(self.leases, nodeid, name):
            self.leases.name(nodeid, name, 0)

    def removes(self, nodeid: int, *nodes: int, names: tuple[bytes, ...] = ()) -> int:
        """Take note that the kernel is told that names of these nodes in the directory `nodeid` are gone, or others;
        return the stamp of that. `names`: these, and no others there."""
        self._count += 1
        self.gone(nodeid, names, nodes)
        return self._count

    def told_of_file(self, asked: Asked, reply: bytes | memoryview, now: float) -> None:
        """Take note of home's word on a file: whether it is empty, or as the job left it. Raises struct.error.

        Call it after what came along was kept.
        """
        op, nodeid, _, stamp, _, raw = asked
        at, attr = abi.OUT_HEADER.size, b""
        if op == abi.GETATTR:
            self.written.told(nodeid, reply[at + abi.ATTR_OUT.size :])
            return
        if op != abi.OPEN:
            nodeid, attr = abi.ENTRY.unpack_from(reply, at)[0], bytes(reply[at + abi.ENTRY.size :][: abi.ATTR.size])
            at += abi.ENTRY.size + abi.ATTR.size
        elif abi.OPEN_IN.unpack_from(raw, abi.ARGS)[0] & _O_TRUNC and nodeid in self._attr:
            attr = self._attr[nodeid][1]
        if op == abi.LOOKUP:
            self.written.told(nodeid, attr)
        elif (words := abi.OPEN_OUT.unpack_from(reply, at)[1]) & MAY_WRITE and attr and not is_untold(op, reply):
            self.written.begin(nodeid, attr, stamp, now)
        else:
            self.written.opened(nodeid, words, now)

    def answer(self, op: int, unique: int, nodeid: int, raw: memoryview, now: float) -> bytes | None:
        """Return the reply to a request of one of ANSWERED, if it is known."""
        self.ahead.bare.of(op, raw)
        answer = super().answer(op, unique, nodeid, raw, now)
        self.ahead.moved |= op in XATTRS and self.lacking.wants
        if answer is not None and (op == abi.LOOKUP or op == abi.OPENDIR):
            self.opened.pushed.looked(nodeid)
        elif op == abi.LOOKUP and self.leases.holds(now):
            found = named(self.leases, nodeid, bytes(raw[abi.ARGS : -1]))
            until, attr, *_ = self._attr.get(found, NOTHING)
            attr = attr if until >= now else self.written.attributes(found, now) or self.making.attributes(found)
            if found and attr:
                given(self.leases, found)
                ttl = 0 if is_locked(self.leases, nodeid) else TTL
                return abi.reply(unique, abi.ENTRY.pack(found, 0, ttl, 0, 0, 0) + attr)
        return answer

    def waits(self, op: int, nodeid: int, waiting: Waiting, now: float) -> bool:
        """Put off an OPENDIR or OPEN of what is being listed or fetched ahead, a LOOKUP in it, or a READ of what is on
        its way."""
        if op != abi.OPEN:
            return (self.opened.pushed if op == abi.READ else self.ahead).waits(nodeid, waiting)
        return self.files.waits(nodeid, abi.OPEN_IN.unpack_from(waiting[1], abi.ARGS)[0], waiting)

    def ask_ahead(self, now: float, asked: dict[int, Asked]) -> list[bytes]:
        """Return the requests that list and fetch ahead what the job may open next, each put into `asked` as the
        relay's are."""
        walked, looked, below = self.ahead.next(now, self.leases)
        pushed = self.opened.pushed
        takes = TAKES if now - self.making.took_at < TTL else 0
        found = [(nodeid, takes) for nodeid in walked] + [(nodeid, 1 | takes) for nodeid in looked]
        wanted = [nodeid for nodeid, since in self._names.items() if not since]
        self._names.update(dict.fromkeys(wanted, now))
        found += [(nodeid, NAMES) for nodeid in wanted]
        return (
            [self._own(*each, now, asked) for each in self.lacking.next()]
            + [self._own(abi.LIST, nodeid, abi.LIST_IN.pack(below, looks), now, asked) for nodeid, looks in found]
            + [
                self._own(abi.FETCH, nodeid, b"", now, asked)
                for nodeid in self.files.next(now, lambda each: self.leases.may_open(each, 0) or pushed.may_open(each))
            ]
        )

    def ask_root(self, now: float, asked: dict[int, Asked]) -> bytes:
        """Return the request for the root's attributes, which the kernel asks for as soon as INIT is answered."""
        return self._own(abi.GETATTR, abi.ROOT_ID, abi.GETATTR_IN.pack(0, 0, 0), now, asked)

    def root_told(self, stamp: int, body: bytes, now: float) -> None:
        """Keep the body of the reply to that; empty: it has failed. Raises struct.error."""
        if body and any(abi.ATTR_OUT.unpack_from(body)[:2]) and self.holds(abi.ROOT_ID, stamp):
            self.learn(abi.ROOT_ID, body[abi.ATTR_OUT.size :], b"", now)

    def _own(self, op: int, nodeid: int, args: bytes, now: float, asked: dict[int, Asked]) -> bytes:
        """Make a request of the relay's own, and put it into `asked`."""
        stamp = self.asked(op, nodeid)
        request = abi.request(op, nodeid, args, abi.OWN + stamp)
        asked[abi.OWN + stamp] = (op, nodeid, 0, stamp, now, request)
        return request

    def listed_ahead(self, nodeid: int, stamp: int, body: bytes, now: float) -> list[Waiting]:
        """Keep the body of the reply to a LIST; empty: it has failed. Return the requests that waited for it.

        Raises ProtocolError.
        """
        listed = parse(body)
        for directory, attr, entries, leased in listed:
            self._learn_directory(directory, attr, entries, leased, stamp, now)
        may = [each for each in takings(body) if self.holds(each[0], stamp)]
        self.making.may_take_ahead(stamp, may, now)
        told = [(directory, entries) for directory, _, entries, _ in listed]
        return self.ahead.came(nodeid, told, lambda each: self.holds(each, stamp), now)

    def names_listed(self, nodeid: int, stamp: int, body: bytes) -> None:
        """Keep the body of the reply to a LIST of the names alone; empty: it has failed. Raises ProtocolError."""
        if body and self.holds(nodeid, stamp):
            keep_names(self.leases, nodeid, parse_names(body))
        elif body:
            self._names.pop(nodeid, None)  # the next that is made there may have it asked for again at once

    def _learn_directory(self, nodeid: int, attr: bytes, entries: bytes, leased: bool, stamp: int, now: float) -> None:
        if self.holds(nodeid, stamp):
            self.learn(nodeid, attr, b"", now)
            if leased:
                self.leases.attributes(nodeid, attr)
                self.leases.listed(nodeid, walk(entries), entries)
        self.files.orders.listed(nodeid, entries)

    def fetched(self, nodeid: int, stamp: int, body: bytes, asked: float, now: float) -> list[Waiting]:
        """Keep the body of the reply to a FETCH that was `asked` for then; empty: it was refused. Return the OPENs that
        waited for it.

        Raises ProtocolError.
        """
        holds = self.holds(nodeid, stamp) and self.files.is_asked(nodeid)
        waiting = self.files.came(nodeid, body, holds, asked, now)
        if body and holds:
            _, attr, parent, name, _ = parse_fetched(body)
            if parent and self.holds(parent, stamp):
                self.leases.name(parent, name, nodeid)
                self.leases.attributes(nodeid, attr)
        return waiting

    def open_waiting(self, op: int, unique: int, nodeid: int, raw: bytes, now: float) -> bytes | None:
        """Return the reply to the OPENDIR or LOOKUP that waited for a LIST, or the OPEN for a FETCH, if that told
        enough."""
        if abi.IN_HEADER.unpack_from(raw)[1] == abi.LOOKUP:
            return self.answer(abi.LOOKUP, unique, nodeid, memoryview(raw), now)
        if op == abi.LIST:
            return self.ahead.open(unique, nodeid, now, None)
        flags = abi.OPEN_IN.unpack_from(raw, abi.ARGS)[0]
        return self.open_ahead(unique, nodeid, self.files.take(nodeid, flags, now))

    def _listed(
        self, told: list[tuple[int, bytes, bytes, bool]], bare: bool, size: int, now: float, stamp: int
    ) -> None:
        """Keep directories that home has listed unasked, which came in so many bytes."""
        for nodeid, attr, entries, leased in told:
            if bare:
                found = walk(entries)
                named = [each[2] for each in found if each[2]]
                if not leased or not all(self.holds(each, stamp) for each in (nodeid, *named)):
                    self.listings.unused += named
                    continue
                keep_listing(self.leases, nodeid, attr, found, entries)
            else:
                self._learn_directory(nodeid, attr, entries, leased, stamp, now)
                self.ahead.pushed(nodeid, entries, lambda each: self.holds(each, stamp), now)
            self.opened.pushed.listing(nodeid, size // len(told))
        self.ahead.walks.sent()

    def pushed(self, payload: bytes | memoryview, now: float) -> list[tuple[int, bytes]]:
        """Keep what home has sent unasked, but for what the job or others have changed meanwhile.

        Return the numbers of the READs that waited for it, and the answers. Raises ProtocolError.
        """
        answers, stamp = [], 0
        for what, nodeid, name, offset, rest in wire.parse(payload):
            if what == wire.SINCE:
                stamp = max(stamp, self.since.of(nodeid))
            elif what == wire.NAME:
                found = abi.ENTRY.unpack_from(rest)[0]
                if self.holds(nodeid, stamp) and self.holds(found, stamp):
                    self.leases.pushed(nodeid, name, found, rest[abi.ENTRY.size :])
                    self.files.orders.named(nodeid, name, rest)
                elif found:
                    self.listings.unused.append(found)
            elif what == wire.TOLD:
                self.learn_name(nodeid, name, rest, now, stamp)
            elif what == wire.TARGET:
                self.learn_link(nodeid, stamp, rest, now, UNUSED_S)  # what is a link to something else is another node
            elif what == wire.SEARCHED:
                if self.holds(nodeid, stamp):
                    self.opened.searched.learn(self.leases, nodeid, rest)
            elif what == wire.LISTED:
                self._listed(parse(wire.listed(rest)), offset == wire.BARE, len(rest), now, stamp)
            elif what == wire.DATA:
                answers += self.opened.pushed.data(nodeid, offset, rest)
            elif self.holds(nodeid, stamp) and (size := size_of(self.leases, nodeid)) >= 0:
                self.opened.pushed.file(nodeid, size, wire.promised(rest), now, name)
                if offset == wire.BARE:
                    self.leases.lacks(nodeid)
        return answers


def anew(known: KnownAhead) -> list[tuple[int, int, int]]:
    """Forget what was leased by a home that is no more; list what another is told is open: see Opened.told_anew.

    What waits for a guess is among what that is asked for first.
    """
    known.broken([(EVERYTHING, b"")])
    known.ahead.nobody_waits()
    known.files.nobody_waits()
    known.opened.nobody_waits()
    return known.opened.told_anew()
