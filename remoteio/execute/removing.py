"""Execute side: which nodes home was asked to take names of away. Pure. Shipped.

An UNLINK or RMDIR does not say of which node it is, and what else it has changed with it. Where the name is known under
a lease, that is known: if no break has come for it before the reply has, it was that node's to the end.

The caller comes with one thread at a time (``relay.Relay._order``).
"""

from __future__ import annotations

from remoteio.execute.leased_names import named
from remoteio.execute.leases import Leases
from remoteio.wire import fuse_abi as abi

_MOST = 1024  # under way: one a thread of the job, as a rule

Gone = tuple[bytes, int]  # a name, and the node that has it


class Removing:
    """Keeps what is asked for, by its stamp. `leases`: which names are known."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._asked: dict[int, Gone] = {}

    def begins(self, stamp: int, nodeid: int, raw: bytes | memoryview) -> Gone | None:
        """Return what is removed by a request that goes out; None: it is not known."""
        name = bytes(raw[abi.ARGS : -1])
        node = named(self._leases, nodeid, name)
        if not node or len(self._asked) >= _MOST:
            return None
        self._asked[stamp] = name, node
        return name, node

    def ends(self, stamp: int, nodeid: int) -> Gone | None:
        """Return what was removed by the one whose reply has come; None: it is not known, or others may have had the
        name by then."""
        gone = self._asked.pop(stamp, None)
        return gone if gone is not None and named(self._leases, nodeid, gone[0]) == gone[1] else None
