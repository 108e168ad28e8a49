"""Execute side: directories that the job's user may search, as home has said ahead of the question. Pure. Shipped.

The kernel asks for that (ACCESS, X_OK) of the directory that a process makes its own. Who may search one is changed
together with its attributes, by its mode, owner or list of rights; so it holds as long as those do that came with it.

The caller sees to it that one thread at a time is here (``relay.Relay._order``).
"""

from __future__ import annotations

from remoteio.execute.leases import Leases, attributes_of
from remoteio.wire import fuse_abi as abi

X_OK = 1  # access(2)


class Searched:
    """Keeps which directories these are."""

    def __init__(self) -> None:
        self._attr: dict[int, bytes] = {}  # by node, the attributes that were leased with it

    def learn(self, leases: Leases, nodeid: int, attr: bytes) -> None:
        """Keep that it may be searched, as long as these attributes hold."""
        leases.attributes(nodeid, attr)
        kept = attributes_of(leases, nodeid)
        if kept is not None:
            self._attr[nodeid] = kept

    def answer(self, leases: Leases, unique: int, nodeid: int, raw: memoryview) -> bytes | None:
        """Return the reply to an ACCESS, if it is known."""
        attr = self._attr.get(nodeid)
        if attr is None or attributes_of(leases, nodeid) is not attr:
            return None
        return abi.reply(unique) if abi.ACCESS_IN.unpack_from(raw, abi.ARGS)[0] == X_OK else None
