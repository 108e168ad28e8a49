"""Execute side: what is asked for ahead of who reads a large file. Pure. Shipped."""

from __future__ import annotations

from remoteio.execute.known_ahead import KnownAhead
from remoteio.wire import fuse_abi as abi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remoteio.execute.ahead import Waiting
    from remoteio.execute.known import Asked


class KnownReads(KnownAhead):
    """Asks for what is read next (``opened.reads``)."""

    def asked(self, op: int, nodeid: int, raw: bytes | memoryview = b"") -> int:
        """Take note of a request that goes out, and return its stamp."""
        if op == abi.OPEN:
            self.opened.reads.changed(nodeid)  # close-to-open
        return super().asked(op, nodeid, raw)

    def _swept(self) -> None:
        super()._swept()
        self.opened.reads.clear()

    def waits(self, op: int, nodeid: int, waiting: Waiting, now: float) -> bool:
        """Put off what is under way, also a READ that has been asked for ahead."""
        if super().waits(op, nodeid, waiting, now):
            return True
        return op == abi.READ and self.opened.reads.waits(nodeid, waiting, now)

    def reads(self, nodeid: int, offset: int, size: int, now: float, asked: dict[int, Asked]) -> bytes:
        """Return the request for what is read next of a file, put into `asked` as the relay's are; b"": it is wanted no
        more."""
        fh = self.opened.reads.asked(nodeid, offset, size)
        if not fh:
            return b""
        request = self._own(abi.READ, nodeid, abi.READ_IN.pack(fh, offset, size, 0, 0, 0, 0), now, asked)
        self.opened.reads.asks(abi.IN_HEADER.unpack_from(request)[2], nodeid, offset, size, now)
        return request
