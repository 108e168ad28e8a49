"""Submit side: what is armed of a node that is watched for ``leases``."""

from __future__ import annotations

from remoteio import inotify as ino
from remoteio.submit.export.nodes import Node

ITSELF = b""
"""In place of a name: the node's attributes."""

NAMES = ino.IN_CREATE | ino.IN_DELETE | ino.IN_MOVED_FROM | ino.IN_MOVED_TO
"""Events of names in a directory."""

_BUSY = 64  # events within a second, after which a node is left alone


class Watch:
    """Keeps what is armed of one watched node, of many: it has no sets until it needs them.

    all_broken  nothing of it is armed; else all but the names in `broken` and, if it is `itself_broken`, its attributes
    """

    __slots__ = (
        "all_broken", "beside", "broken", "events", "hides", "itself_broken", "key", "nodeid", "number", "own", "since"
    )  # fmt: skip

    def __init__(self, node: Node, number: int) -> None:
        self.nodeid, self.number, self.key = node.id, number, (node.dev, node.ino)
        self.hides = node.rights.hides  # names in it are not to be told of
        self.all_broken = self.itself_broken = True
        self.broken: set[bytes] | None = None
        self.events, self.since = 0, 0.0
        self.beside = False  # a file in it was locked: it tells what is done to all files in it
        # events of the job's doing: the host knows, and none was seen here
        self.own: set[tuple[int, bytes]] | None = None

    def does(self, event: int, name: bytes, fails: bool) -> bool:
        """Take note that the job does that to a name, or fails to; whether others' doing was taken for his."""
        if fails:
            return not self.saw(event, name)
        self.own = self.own or set()
        self.own.add((event, name))
        return False

    def is_busy(self, now: float) -> bool:
        """Count one event more; whether there are too many."""
        if now - self.since > 1:
            self.since, self.events = now, 0
        self.events += 1
        return self.events > _BUSY

    def saw(self, event: int, name: bytes) -> bool:
        """Say whether the host knows that the name is made, or removed; but once."""
        known = self.own is not None and (event & NAMES, name) in self.own
        if known and self.own is not None:
            self.own.remove((event & NAMES, name))
        return known

    def arm(self, name: bytes) -> None:
        """Arm one name, or ITSELF. Names that were never told of are armed as well."""
        if self.all_broken:
            self.all_broken, self.itself_broken, self.broken = False, True, None
        if name == ITSELF:
            self.itself_broken = False
        elif self.broken:
            self.broken.discard(name)

    def loses(self, name: bytes) -> bool:
        """Take note that a name is armed no more, nor the attributes; say whether one of the two was."""
        self.broken = self.broken or set()
        was = not self.itself_broken or name not in self.broken
        self.itself_broken = True
        self.broken.add(name)
        return was
