"""Connections that go over the job's own link: which were asked for, and the rules of FORWARD frames. Pure. Shipped.

A FORWARD frame is u8 what, u8 zero, u16 forward, u32 number, and what follows; an empty one says that no more come.
`number` is the connection's, given by the end that was connected to: even at the host, odd at home, each larger than
the one before. `forward` counts those that were asked for, and is 0 in all but OPEN::

    OPEN    somebody has connected there: connect to the target here, or RESET
    DATA    bytes, no more than WINDOW beyond what TAKEN has come for
    END     no more DATA comes this way
    TAKEN   u32: so many bytes were written
    RESET   it is over, both ways, whatever was under way; also: nobody listens at the target, or it is one too many

Who has said RESET, or has said END and heard it, forgets the connection, and passes over what comes for it. A home that
takes a job up begins with none, at a number that nobody foresees. So a host reaches nothing at home but the targets
that were named, and has no more kept here than WINDOW for each of TWICE connections.
"""

from __future__ import annotations

import struct

from remoteio.errors import ProtocolError
from remoteio.wire.frames import LARGE, FrameError
from remoteio.wire.link import Link

OPEN, DATA, END, TAKEN, RESET = 1, 2, 3, 4, 5
HEAD = struct.Struct("=BxHI")
COUNT = struct.Struct("=I")
CHUNK = LARGE - 4096  # below LARGE: the frames of a connection stay in order
WINDOW = 512 << 10  # bytes
MOST = 256  # connections that one end has open; who connects beyond waits
TWICE = 2 * MOST  # of the other end's: one that is over there may still be written out here
MOST_FORWARDS = 64  # of one job
LOOPBACK = "127."  # all of these addresses are this machine's own


class Forward:
    """One port that leads to another: `listen` at one end, at home if `at_home`, `target` at the other."""

    __slots__ = ("at_home", "listen", "target")

    def __init__(self, at_home: bool, listen: tuple[str, int], target: tuple[str, int]) -> None:
        self.at_home, self.listen, self.target = at_home, listen, target

    def pack(self) -> bytes:
        """Write it for a START frame."""
        return ("%d %s %d %s %d" % (self.at_home, *self.listen, *self.target)).encode()

    @classmethod
    def unpack(cls, item: bytes) -> Forward:
        """Read what ``pack`` has made. Raises FrameError."""
        words = item.decode("ascii", "replace").split(" ")
        if len(words) != 5 or words[0] not in ("0", "1"):
            raise FrameError("a forward is not two addresses")
        return cls(words[0] == "1", _address(words[1], words[2]), _address(words[3], words[4]))


def _address(host: str, port: str) -> tuple[str, int]:
    parts = host.split(".")
    whole = len(parts) == 4 and all(_number(part, 3, 255) for part in parts)
    if not whole or not host.startswith(LOOPBACK) or not _number(port, 5, 65535) or port == "0":
        raise FrameError("a forward is not from one loopback address to another")
    return host, int(port)


def _number(text: str, digits: int, most: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= digits and int(text) <= most


class Side:
    """What one end has of a job's forwards: all of them, which end it is, and which users may connect there."""

    __slots__ = ("at_home", "forwards", "users")

    def __init__(self, forwards: list[Forward], at_home: bool, users: frozenset[int]) -> None:
        self.forwards, self.at_home, self.users = forwards, at_home, users


class Connection:
    """How one connection stands at one end.

    link                 where its frames go
    room                 bytes that may be sent
    owed                 bytes that have come, and no TAKEN was sent for
    out                  what has come and is not written
    sent_end, came_end   END was
    lost, told           it is reset, and the other end has said so, or knows of none
    begun                it has a socket here, or had one
    """

    __slots__ = ("begun", "came_end", "forward", "link", "lost", "number", "out", "owed", "room", "sent_end", "told")

    def __init__(self, number: int, forward: Forward, link: Link) -> None:
        self.number, self.forward, self.link = number, forward, link
        self.room, self.owed = WINDOW, 0
        self.out = bytearray()  # not as it came: a frame of one byte takes a hundred
        self.sent_end = self.came_end = self.lost = self.told = self.begun = False


class Connections:
    """Keeps those of one link, at one of its ends."""

    def __init__(self, side: Side, link: Link, first: int) -> None:
        """`first`: of how many pairs of numbers none is given here."""
        self.link, self._side = link, side
        self._ours, self._theirs = first, 0
        self.known: dict[int, Connection] = {}

    def ours(self) -> int:
        """Count those that were opened here."""
        return sum(number % 2 == self._side.at_home for number in self.known)

    def open(self, forward: Forward) -> tuple[Connection, bytes]:
        """Begin one of our own; returns it, and what OPEN says of it."""
        self._ours += 1
        number = 2 * self._ours + self._side.at_home
        self.known[number] = made = Connection(number, forward, self.link)
        made.begun = True
        return made, message(OPEN, number, self._side.forwards.index(forward))

    def take(self, payload: bytes | memoryview) -> Connection | None:
        """Take a FORWARD frame; returns the connection that it is about, None if that is over. Raises ProtocolError."""
        if len(payload) < HEAD.size or payload[1]:
            raise ProtocolError("FORWARD has no head")
        what, index, number = HEAD.unpack_from(payload)
        rest = memoryview(payload)[HEAD.size :]
        size = {DATA: len(rest) or 1, TAKEN: COUNT.size}.get(what, 0)
        if not OPEN <= what <= RESET or (index and what != OPEN) or len(rest) != size:
            raise ProtocolError("FORWARD says not what it is")
        if what == OPEN:
            return self._opened(number, index)
        found = self.known.get(number)
        if found is not None:
            self._said(found, what, rest)
        return found

    def _opened(self, number: int, index: int) -> Connection:
        if number % 2 == self._side.at_home or number // 2 <= self._theirs:
            raise ProtocolError("FORWARD opens a connection under a number that is not new")
        forwards = self._side.forwards
        if index >= len(forwards) or forwards[index].at_home == self._side.at_home:
            raise ProtocolError("FORWARD opens a connection to what was not named")
        self._theirs = number // 2
        made = Connection(number, forwards[index], self.link)
        if len(self.known) - self.ours() >= TWICE:
            made.lost = True
        else:
            self.known[number] = made
        return made

    def _said(self, connection: Connection, what: int, rest: memoryview) -> None:
        if what == RESET:
            connection.lost = connection.told = True
            self.forget(connection)
        elif what == TAKEN:
            connection.room += COUNT.unpack(rest)[0]
            if connection.room > WINDOW:
                raise ProtocolError("FORWARD says that more was taken than was sent")
        elif connection.came_end:
            raise ProtocolError("FORWARD goes on behind its end")
        elif what == END:
            connection.came_end = True
        else:
            connection.owed += len(rest)
            if connection.owed > WINDOW:
                raise ProtocolError("FORWARD has more than may be under way")
            connection.out += rest

    def forget(self, connection: Connection) -> None:
        """Take note that all is said of it."""
        if self.known.get(connection.number) is connection:
            del self.known[connection.number]

    def restart(self) -> None:
        """Forget all: the other end is another's, and knows of none."""
        self.known, self._theirs = {}, 0


def message(what: int, number: int, forward: int = 0) -> bytes:
    """Make the head of a FORWARD frame."""
    return HEAD.pack(what, forward, number)
