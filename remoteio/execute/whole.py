"""Execute side: directories in which the job makes something, and the names in them. Pure. Shipped.

A name is made before home has made it if it is known to be absent, and temporary files have names that nobody has
looked up. So the names in such a directory are asked for: by a LIST of the names alone, whose reply holds until a
break. One that is too large, or is refused, is not asked for again within coherence.TTL.
"""

from __future__ import annotations

from remoteio.execute.leases import Leases, is_whole, named
from remoteio.wire.coherence import KNOWN_OPENED, TTL
from remoteio.wire.listed import parse_names


class Whole:
    """Knows of which directories to ask for the names, and keeps them in `leases`.

    The caller tells the time, and comes with one thread at a time (``relay.Relay._order``).
    """

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._asked: dict[int, float] = {}  # nodeid -> when it was asked for last; 0: it is to be

    def wants(self, nodeid: int, now: float) -> bool:
        """Take note that something is made in a directory; whether its names are to be asked for."""
        if is_whole(self._leases, nodeid) or self._asked.get(nodeid, 0.0) >= now - TTL:
            return False
        if len(self._asked) >= KNOWN_OPENED:
            self._asked.clear()
        self._asked[nodeid] = 0.0
        return True

    def next(self, now: float) -> list[int]:
        """List the directories that are to be asked for; they are taken as asked from now on."""
        wanted = [nodeid for nodeid, since in self._asked.items() if not since]
        self._asked.update(dict.fromkeys(wanted, now))
        return wanted

    def told(self, nodeid: int, holds: bool, body: bytes) -> None:
        """Keep the body of the reply, if it `holds`; empty: it was refused. Raises ProtocolError."""
        names = parse_names(body) if body else []
        if names and holds:
            leases = self._leases  # what is known of a name is so still
            leases.listed(nodeid, [(0, 0, named(leases, nodeid, name), name, 0, 0) for name in names])
        elif names:
            self._asked.pop(nodeid, None)  # something was made there meanwhile
