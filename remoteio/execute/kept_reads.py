"""Execute side: READs that are answered from what is kept on this host (``kept_contents``). Shipped.

As long as home leases a file's contents and has named its version (``wire.leases``), what is kept by that name is what
home would send. What is not kept comes from home, and is kept. Over a link that is quick nothing is looked for, nor
kept: home's page cache answers sooner than a disk here, and the sums cost more processor time than a READ.
"""

from __future__ import annotations

from remoteio.execute.at_once import AtOnce
from remoteio.wire import fuse_abi as abi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from remoteio.execute.kept_contents import Encrypting, KeptContents
    from remoteio.execute.known import Asked
    from remoteio.wire.link import Link

FAR = 0.003  # seconds that the quickest answer took: what is longer is no local network
NARROW = 1 / 25e6  # seconds a byte, of the quickest large answer: 200 Mbit/s
_LARGE = 1 << 16  # bytes of an answer that tells of the link's width
_O_DIRECT = 0o40000


class KeptReads(AtOnce):
    """Looks READs up in what is kept. Threads: see ``relay``, of which this is a part."""

    def __init__(self, fd: int, link: Link, fail: Callable[[BaseException], None]) -> None:
        super().__init__(fd, link, fail)
        self.kept: KeptContents | None = None  # as soon as it is known to be worth it
        self._place: tuple[str, Encrypting] | None = None
        self._quickest = self._a_byte = float("inf")  # seconds

    def keep_in(self, path: str, encrypting: Encrypting) -> None:
        """Keep what is read in that directory of this host, if home is far: see ``kept_contents``."""
        self._place = path, encrypting

    def begins(self, trip: float, line: int = 0) -> None:
        if trip:
            self._quickest = trip
        super().begins(trip, line)

    def settle(self) -> None:
        """Wait until what is to be kept is written; but not long for a disk that does not take it."""
        if self.kept is not None:
            self.kept.settle()

    def _store(self) -> KeptContents | None:
        """Find what keeps contents; None: home is near, or nothing is to be kept."""
        if self._place is None or not self._is_far():
            return None
        if self.kept is None:
            from remoteio.execute.kept_contents import KeptContents  # most runs need none

            kept = KeptContents()
            kept.use(*self._place)
            with self._order:
                self.kept = self.kept or kept
        return self.kept

    def _is_far(self) -> bool:
        return self._quickest >= FAR or float("inf") > self._a_byte >= NARROW

    def _send(self, op: int, raw: bytes | memoryview) -> None:
        kept = self._store() if op == abi.READ else None
        if kept is not None:
            _, _, unique, nodeid, *_ = abi.IN_HEADER.unpack_from(raw)
            _, offset, count, _, _, flags, _ = abi.READ_IN.unpack_from(raw, abi.ARGS)
            leases = self._known.leases
            with self._order:
                version, size = leases.version(nodeid) if leases.holds(self.now()) else (b"", 0)
            if version and not flags & _O_DIRECT:
                self._beside(lambda: self._read(unique, raw, kept.read(version, size, offset, count)))
                return
        super()._send(op, raw)

    def pushed(self, payload: bytes | memoryview) -> None:
        """Keep also for later runs what home has sent of files that may be kept. Raises ProtocolError."""
        super().pushed(payload)
        with self._order:
            pushed = self._known.opened.pushed
            told, pushed.to_keep = pushed.to_keep, []
        kept = self._store() if told else None
        if kept is not None:
            for each in told:
                kept.keep(*each)

    def _read(self, unique: int, raw: bytes | memoryview, data: bytes | None) -> None:
        if data is None:
            super()._send(abi.READ, raw)
        elif self._asked.pop(unique, None) is None:
            self.from_link(abi.reply(unique, data))  # its process was dying, and has been answered
        else:
            with self._order:
                self.counts.here[abi.READ] += 1
            self._to_kernel(abi.reply(unique, data))

    def _read_on(self) -> None:
        """Answer READs of what has come ahead of them, and ask for what is read next, where home is far."""
        known, reads = self._known, self._known.opened.reads
        with self._order:
            ready = reads.ready()
            wanted = reads.next(self._quickest, self.handles.locked) if FAR <= self._quickest < float("inf") else []
        for unique, parts in ready:
            self._give(unique, parts)
        for nodeid, offset, size in wanted:
            if self._is_kept(nodeid, offset, size):
                continue
            with self._order:
                request = known.reads(nodeid, offset, size, self.now(), self._asked)
            if request:
                super()._send(abi.READ, request)
        if reads.released:
            self.give_back()

    def _give(self, unique: int, parts: list[memoryview]) -> None:
        if self._asked.pop(unique, None) is None:
            self.from_link(abi.reply(unique))  # its process was dying, and has been answered
            return
        with self._order:
            self.counts.here[abi.READ] += 1
        self._to_kernel(abi.OUT_HEADER.pack(abi.OUT_HEADER.size + sum(map(len, parts)), 0, unique), *parts)

    def _is_kept(self, nodeid: int, offset: int, size: int) -> bool:
        with self._order:
            version, whole = self._known.leases.version(nodeid)
        kept = self._store() if version else None
        return kept is not None and kept.has(version, whole, offset, size)

    def _more(self, op: int) -> None:
        super()._more(op)
        if self._known.opened.reads.moved:
            self._read_on()

    def _came_ahead(self, asked: Asked, error: int, came: bytes | memoryview) -> None:
        """Keep what was asked for ahead. Raises ProtocolError."""
        op, nodeid, _, stamp, _, raw = asked
        if op != abi.READ:
            quickest = self._quickest
            super()._came_ahead(asked, error, came)
            self._quickest = quickest  # who waited for that came later than it was asked for
            return
        known, now, data = self._known, self.now(), memoryview(came)
        unique = abi.IN_HEADER.unpack_from(raw)[2]
        with self._order:
            self.counts.carried[abi.READ] += len(raw) + len(data)
            holds = known.holds(nodeid, stamp) and nodeid not in self.handles.locked
            release = known.opened.reads.came(unique, data, holds, now)
        kept = self._store() if data else None
        if kept is not None:
            self._keep(kept, nodeid, stamp, abi.READ_IN.unpack_from(raw, abi.ARGS)[1], data)
        if release is not None:
            self.behind.send(release)
        self._read_on()

    def _noted(self, asked: Asked, unique: int, payload: bytes | memoryview, now: float) -> bytes | memoryview:
        op, nodeid, _, stamp, at, raw = asked
        took, size = now - at, len(payload)
        self._quickest = min(self._quickest, took)
        if op == abi.READ and size >= _LARGE:
            self._a_byte = min(self._a_byte, took / size)
            with self._order:
                self._known.opened.reads.arrived(size, at, now)
        kept = self._store() if op == abi.READ else None
        if kept is not None:
            self._keep(kept, nodeid, stamp, abi.READ_IN.unpack_from(raw, abi.ARGS)[1], payload[abi.OUT_HEADER.size :])
        return super()._noted(asked, unique, payload, now)

    def _keep(self, kept: KeptContents, nodeid: int, stamp: int, offset: int, data: bytes | memoryview) -> None:
        with self._order:
            version, size = self._known.leases.version(nodeid) if self._known.holds(nodeid, stamp) else (b"", 0)
        if version:
            kept.keep(version, size, offset, data)
