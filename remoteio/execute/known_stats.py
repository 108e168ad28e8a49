"""Execute side: attributes of files that others have changed are asked for together. Pure. Shipped.

What others change of many files at once (``git checkout``, ``chmod -R``) home takes back, each by itself; who looks at
them again (``git status``, ``make``, ``ls -l``) asks for one after the other. The names are leased as they were. So
from the third in a row that home is asked for, it is asked for those behind it in the directory as well (STATS), twice
as many each time. Only where the kernel keeps names (``invalidating``): else it looks them up again, and home lists
their directory.
"""

from __future__ import annotations

from remoteio.execute.known_reads import KnownReads
from remoteio.execute.leased_names import named, unknown_from
from remoteio.execute.leases import attributes_of
from remoteio.wire import fuse_abi as abi
from remoteio.wire import left
from remoteio.wire.coherence import LISTED_AFTER, TTL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remoteio.execute.known import Asked

_FIRST = 16


class KnownStats(KnownReads):
    """Asks for attributes."""

    def __init__(self) -> None:
        super().__init__()
        self._row, self._row_at = 0, 0.0  # how many home was asked for one after the other, and when for the last
        self._behind, self._many = 0, _FIRST  # behind which to ask for so many; 0: none
        self._asking = False  # home is asked, and has not answered

    def answer(self, op: int, unique: int, nodeid: int, raw: memoryview, now: float) -> bytes | None:
        """Return the reply to a request of one of ANSWERED, if it is known."""
        answer = super().answer(op, unique, nodeid, raw, now)
        if answer is None and (op == abi.GETATTR or op == abi.LOOKUP):
            found = nodeid if op == abi.GETATTR else named(self.leases, nodeid, bytes(raw[abi.ARGS : -1]))
            if found and attributes_of(self.leases, found) is None and not self.making.is_own(found):
                self._missed(found, now)
        return answer

    def _missed(self, nodeid: int, now: float) -> None:
        self._row = self._row + 1 if now - self._row_at < TTL else 1
        self._row_at = now
        if self._row >= LISTED_AFTER and self.leases.seconds > TTL and not self._asking:
            self._behind, self.ahead.moved = nodeid, True

    def ask_ahead(self, now: float, asked: dict[int, Asked]) -> list[bytes]:
        """Return the requests for what the job may want next, each put into `asked` as the relay's are."""
        requests = super().ask_ahead(now, asked)
        behind, self._behind = self._behind, 0
        nodes = unknown_from(self.leases, behind)[1 : self._many + 1] if behind and not self._asking else []
        if nodes:
            self._asking, self._many = True, min(2 * self._many, left.MOST)
            requests.append(self._own(abi.STATS, 0, left.pack(nodes), now, asked))
        return requests

    def stats_told(self, raw: bytes | memoryview, stamp: int, body: bytes) -> None:
        """Keep the body of the reply to a STATS; empty: it has failed. Raises ProtocolError."""
        self._asking = False
        if not body:
            self._row, self._many = 0, _FIRST
        for nodeid, attr in left.parse(raw, body) if body else ():
            if self.holds(nodeid, stamp):
                self.leases.attributes(nodeid, attr)
