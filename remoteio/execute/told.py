"""Execute side: what home tells beside its replies, and what it is given back for it. Shipped."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable

from remoteio.errors import ProtocolError
from remoteio.execute import given_back
from remoteio.execute.behind import Behind
from remoteio.execute.beside_locks import is_told_once
from remoteio.execute.clock import Clock
from remoteio.execute.counts import Counts
from remoteio.execute.handles import Handles
from remoteio.execute.known_own import KnownOwn
from remoteio.execute.told_lately import ToldLately
from remoteio.wire import fuse_abi as abi
from remoteio.wire import known as wire
from remoteio.wire import leases, makes
from remoteio.wire.frames import CREDIT, KNOWN, PUSHED
from remoteio.wire.known import Piggyback
from remoteio.wire.link import Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remoteio.execute.known import Asked


ALWAYS = float("inf")  # what others change of a directory that is leased is told


class Told:
    """Keeps what comes along with replies to `_asked`. Threads: see ``relay``, of which this is a part."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.now = Clock()
        self.lately: ToldLately | None = None  # of a job that another may follow
        self.counts = Counts()
        # unique -> (op, nodeid, pid, stamp, when it was asked, the message: a copy unless LARGE) until it is answered
        self._asked: dict[int, Asked] = {}
        self.handles = Handles()
        self.behind = Behind(link)
        self._known = KnownOwn()
        self._order = threading.Lock()  # of changes against what is learned

    def begins(self, trip: float, line: int = 0) -> None:
        """Have home send what the job is likely to use, if its round trips take so many seconds, and the link carries
        so many bytes in one; 0: nobody knows."""
        if trip:
            with self._order:
                grant = self._known.opened.pushed.pace.told(trip, line, self.now())
            self._grant(grant)

    def from_link(self, payload: bytes | memoryview) -> None:
        """Pass a reply or a notification on to the kernel. Raises ProtocolError."""
        raise NotImplementedError

    def heard(self) -> None:
        """Take note that home has been heard of: once a second, or oftener."""
        now = self._known.leases.heard = self.now()
        if self._known.opened.untold:
            self._tell_of(lambda: self._known.opened.old(now))
        if self._known.files.until < now:
            with self._order:
                self._known.files.expire(now)
        with self._order:
            self._known.opened.reads.expire(now)
        if self._known.opened.pushed.pace.come:
            with self._order:
                self._known.opened.pushed.expire(now)
        if self._known.unused():
            self.give_back()

    def _send(self, op: int, raw: bytes | memoryview) -> None:
        """Send a request of the kernel's, and ahead of it which files are open that home must know of for that."""
        if self._known.opened.untold:
            self._tell_of(lambda: self._known.opened.needed(op, raw))
        self.behind.sent.await_room(len(raw))
        self.behind.send(raw)

    def _tell_of(self, those: Callable[[], list[int]]) -> None:
        opened = self._known.opened
        with self._order:
            handles = those()
            request = opened.request(handles)
        if handles:
            self.behind.send(request)
            with self._order:
                closed = opened.tell(handles)
            for fh in closed:
                self.behind.send(given_back.of_handle(fh))

    def leased(self, payload: bytes | memoryview) -> None:
        """Pass a reply on, and keep until a break what of it is leased. Raises ProtocolError."""
        kind, what, name, payload = leases.split(payload)
        if kind == KNOWN:
            self.known(payload, what, name)
            return
        asked = self._asked.get(_unique(payload))
        if asked is not None:
            with self._order:
                self._known.lease(asked[1], asked[3], what, name, _told(asked[0], asked[1], payload, None))
        self.from_link(payload)

    def granted(self, payload: bytes | memoryview) -> None:
        """Pass the reply to what makes a name on, or takes one away, and keep what more may be done there. Raises
        ProtocolError."""
        kind, granted, payload = makes.split(payload)
        reply, rest = wire.split(payload) if kind == KNOWN else (payload, b"")
        unique, now = _unique(reply), self.now()
        asked, change = self._asked.get(unique), self.behind.change(unique)
        try:
            with self._order:
                if asked is not None and asked[0] in makes.OPS:
                    self.behind.answers.granted = True
                    made = self._known.granted(asked, granted, reply, bytes(rest[: abi.ATTR.size]), now)
                    if made is not None:
                        self.behind.answers.made(made, ALWAYS)
                elif asked is not None:
                    self.behind.answers.granted |= bool(granted.what & makes.REMOVE)
                    self._known.making.may_take(asked, granted, bytes(rest[: abi.ATTR.size]), now)
                elif change is not None:
                    self._known.making.goes_on(change.asked[0], change.node, granted, now)
                    attr = reply[abi.OUT_HEADER.size + abi.ENTRY.size :][: abi.ATTR.size]
                    self._known.written.made(change.node, bytes(attr), change.asked[3])
        except struct.error as e:
            raise cut_short(e) from None
        if kind == KNOWN:
            self.known(payload, leases.ATTR if change is not None and granted.what & makes.ITSELF else 0)
        else:
            self.from_link(payload)

    def broken(self, payload: bytes | memoryview) -> None:
        """Forget what is leased no more. Raises ProtocolError."""
        items = leases.broken(payload)
        with self._order:
            self._known.broken(items)
            self.behind.answers.broken(items)
        self.give_back()

    def known(self, payload: bytes | memoryview, what: int = 0, name: bytes = b"") -> None:
        """Pass a reply on, and keep what goes along with it to answer the next requests. Raises ProtocolError.

        `what` of it, of a LOOKUP's `name`, is kept until a break.
        """
        reply, rest = wire.split(payload)
        unique = _unique(reply)
        asked, change = self._asked.get(unique), None
        if asked is None and (change := self.behind.change(unique)) is not None:
            asked = change.asked
        if asked is not None:
            op, nodeid, _, stamp, _, _ = asked
            known, now = wire.parse(op, rest, bool(what & leases.KEPT)), self.now()
            answers = self.behind.answers
            if known.listing is not None:
                answers.listed(known.listing.entries)
            with self._order:
                if op == abi.WRITE:
                    if self._known.holds(nodeid, stamp):
                        answers.wrote(nodeid, known.attr)
                    self._known.written.confirmed(nodeid, _word(reply), known.attr, stamp, now)
                    self._known.making.saw(known.attr, now)
                elif op == abi.OPEN and change is not None:
                    self._known.written.made(nodeid, known.attr, stamp)
                elif op == abi.RENAME2 and change is not None:
                    self._known.written.moved(change.node, known.contents, stamp, now)
                if op != abi.WRITE and change is not None:
                    self._known.making.did(nodeid, change.number, known.attr)
                self.counts.carried[op] += len(rest)
                if what:
                    self._known.lease(nodeid, stamp, what, name, _told(op, nodeid, reply, known))
                if known.link:
                    self._known.learn_link(node_of(reply), stamp, known.link, now)
                if known.listing is not None:
                    fh = handle_of(reply)
                    self._known.learn_listing(op, nodeid, fh, stamp, known.listing, now)
                if self._known.holds(nodeid, stamp):
                    self._known.learn(nodeid, known.attr, known.contents, now, self._share(asked))
        self.from_link(reply)

    def _share(self, asked: Asked) -> int:
        """Return 0 if the kernel is to ask each time for the attributes that came with the reply to that."""
        op, nodeid, *_, raw = asked
        beside = op == abi.WRITE and abi.HANDLE.unpack_from(raw, abi.ARGS)[0] in self.behind.answers.beside
        return int(not beside and nodeid not in self.handles.locked)

    def pushed(self, payload: bytes | memoryview) -> None:
        """Keep what home has sent before the job asks for it, and have it send more. Raises ProtocolError."""
        now, pushed = self.now(), self._known.opened.pushed
        with self._order:
            answers = self._known.pushed(payload, now)
            self.counts.carried[abi.UNASKED] += len(payload)
            grant = pushed.came(len(payload), now)
        self._grant(grant)
        for unique, answer in answers:
            self._come(unique, answer)
        if self._known.unused():
            self.give_back()

    def _come(self, unique: int, answer: bytes) -> None:
        """Pass on what was waited for and has come by itself."""
        raise NotImplementedError

    def _grant(self, size: int) -> None:
        if size:
            with self._order:
                self._known.credits(self.behind.oldest())
            self._link.send(CREDIT, bytes((PUSHED,)) + size.to_bytes(4, "little"))
        if self._known.opened.pushed.released:
            self.give_back()

    def give_back(self) -> None:
        """The submit side counted lookups for entries, and opened files, that the kernel never got."""
        with self._order:
            unused, self._known.listings.unused = self._known.listings.unused, []
            files, self._known.files.unused = self._known.files.unused, []
            pushed, reads = self._known.opened.pushed, self._known.opened.reads
            waited, pushed.released, reads.released = pushed.released + reads.released, [], []
        for _, raw in waited:
            self._send(abi.READ, raw)
        for handle in files:
            self.behind.send(given_back.of_handle(handle))
        self.forget([(nodeid, 1) for nodeid in unused])

    def forget(self, pairs: list[tuple[int, int]]) -> None:
        """Give lookups (node, how many) back, as far as the submit side has counted them, and what leases had kept."""
        table = self._known.leases
        with self._order:
            back = [(nodeid, told) for nodeid, count in pairs if (told := table.forgotten(nodeid, count))]
            for nodeid, _ in back:
                self._known.files.forgotten(nodeid)
            if table.unused:
                back += table.unused
                table.unused = []
        if back:
            self.behind.send(given_back.of_lookups(back), later=True)


def node_of(reply: bytes | memoryview) -> int:
    """The node in the reply to a LOOKUP."""
    try:
        return int(abi.ENTRY.unpack_from(reply, abi.OUT_HEADER.size)[0])
    except struct.error as e:
        raise cut_short(e) from None


def handle_of(reply: bytes | memoryview) -> int:
    """The handle in the reply to an OPENDIR; of one to a LOOKUP it says nothing."""
    try:
        return int(abi.OPEN_OUT.unpack_from(reply, abi.OUT_HEADER.size)[0])
    except struct.error as e:
        raise cut_short(e) from None


def _word(reply: bytes | memoryview) -> int:
    """What the reply to a WRITE says of others: see ``behind.SAME``."""
    try:
        return int(abi.WRITE_OUT.unpack_from(reply, abi.OUT_HEADER.size)[1])
    except struct.error as e:
        raise cut_short(e) from None


def _unique(reply: bytes | memoryview) -> int:
    """The number of the request that a reply answers."""
    try:
        return int(abi.OUT_HEADER.unpack_from(reply)[2])
    except struct.error as e:
        raise cut_short(e) from None


def _told(
    op: int, nodeid: int, reply: bytes | memoryview, known: Piggyback | None
) -> tuple[int, bytes, Piggyback | None, bool]:
    """Of which node the reply to a request of `nodeid` tells the attributes, what else, and whether for no time."""
    at = abi.OUT_HEADER.size + (abi.ENTRY.size if op == abi.LOOKUP else abi.ATTR_OUT.size)
    found = node_of(reply) if op == abi.LOOKUP else nodeid
    attr = bytes(reply[at : at + abi.ATTR.size]) if op in (abi.LOOKUP, abi.GETATTR) or known is None else known.attr
    if len(attr) != abi.ATTR.size:
        raise ProtocolError("a lease of attributes came without them (%d bytes)" % len(reply))
    return found, attr, known, op == abi.LOOKUP and is_told_once(reply)


def cut_short(error: struct.error) -> ProtocolError:
    """Make the error of a reply that has not all its fields."""
    return ProtocolError("a reply is cut short (%s)" % error)
