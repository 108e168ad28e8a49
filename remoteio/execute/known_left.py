"""Execute side: files that the job has written some time ago, and asks for again. Pure. Shipped.

What it wrote is here (``written``), but what others have done to it since is not known for longer than coherence.TTL.
So when the job asks for such a file, home is asked to lease that and the ones that were written after it (LEFT): who
installs a package, or unpacks a tree, goes on with these as a rule. Twice as many each time, up to ``wire.left.MOST``;
and the next of them as soon as one of the later half is opened, so that who goes on does not come to their end.
Beside the lease nothing is told that the job does not have: it is opened, and read, without a question from then on.
"""

from __future__ import annotations

from remoteio.execute.known_stats import KnownStats
from remoteio.execute.leased_names import named
from remoteio.execute.leases import only_reads
from remoteio.wire import fuse_abi as abi
from remoteio.wire import left

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remoteio.execute.known import Asked

_FIRST = 8


class KnownLeft(KnownStats):
    """Asks for leases on what the job has left behind."""

    def __init__(self) -> None:
        super().__init__()
        self._met, self._window = 0, _FIRST  # such a file that is asked for; 0: none. How many to ask for then
        self._later: frozenset[int] = frozenset()  # the later half of those that home was asked to lease last

    def answer(self, op: int, unique: int, nodeid: int, raw: memoryview, now: float) -> bytes | None:
        """Return the reply to a request of one of ANSWERED, if it is known."""
        answer = super().answer(op, unique, nodeid, raw, now)
        if op == abi.OPEN and nodeid in self._later:
            self._met, self._later, self.ahead.moved = nodeid, frozenset(), True
        if answer is None and (op == abi.LOOKUP or (op == abi.OPEN and _reads(raw))):
            found = nodeid if op == abi.OPEN else named(self.leases, nodeid, bytes(raw[abi.ARGS : -1]))
            if self.written.may_lease(found):
                self._met, self.ahead.moved = found, True
        return answer

    def ask_ahead(self, now: float, asked: dict[int, Asked]) -> list[bytes]:
        """Return the requests for what the job may want next, each put into `asked` as the relay's are."""
        requests = super().ask_ahead(now, asked)
        met, self._met = self._met, 0
        nodes = self.written.written_after(met, self._window) if met else []
        if nodes:
            self._later = frozenset(nodes[len(nodes) // 2 :])
            self._window = min(2 * self._window, left.MOST)
            requests.append(self._own(abi.LEFT, 0, left.pack(nodes), now, asked))
        return requests

    def told_alone(self, asked: Asked, error: int, body: bytes, now: float) -> None:
        """Keep the body of the reply to a LEFT or STATS, or to a question of the relay's own for extended attributes.
        Raises ProtocolError."""
        if asked[0] == abi.LEFT:
            self.left_told(asked[5], asked[3], body)
        elif asked[0] == abi.STATS:
            self.stats_told(asked[5], asked[3], body)
        else:
            self.replied(asked, error, bytes(abi.OUT_HEADER.size) + body, now)

    def left_told(self, raw: bytes | memoryview, stamp: int, body: bytes) -> None:
        """Keep the body of the reply to a LEFT; empty: it has failed. Raises ProtocolError."""
        for nodeid, attr in left.parse(raw, body) if body else ():
            if self.holds(nodeid, stamp):
                self.leases.attributes(nodeid, attr)
                self.leases.contents(nodeid)
                self.leases.lacks(nodeid)
                if self.leases.may_open(nodeid, 0):
                    self.written.leased(nodeid, attr)


def _reads(raw: bytes | memoryview) -> bool:
    return only_reads(abi.OPEN_IN.unpack_from(raw, abi.ARGS)[0])
