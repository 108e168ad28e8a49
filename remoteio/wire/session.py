"""What two ends remember so that their byte stream may be cut and replaced. Pure. Shipped.

The theory. A session is two sequences of bytes, one each way, which no stream carries whole. Each end numbers bytes by
counting them from the session's beginning: those it has put into some stream (`sent`), and those it has taken from one
(`received`). A stream delivers a prefix of what was put into it and then nothing, so what an end has received is always
the first `received` bytes of what the other has sent, wherever the stream was cut: in a frame, in its head, in an ACK.
Hence one number says all. An end keeps what it sent from the byte on that the other has acknowledged; when a new stream
is there, each tells the other what it has received, and sends again from exactly that byte. So every byte arrives once,
and in order, by whatever number of streams; and FrameReader, which keeps what it has of a frame, sees no cut at all.
This is what Eternal Terminal does (`BackedReader`, `BackedWriter`), and TCP in the small.

ACK frames are part of the sequence like all others, so they too arrive once and in order, and never say less than one
before; what is told at a join comes by another way, and may be ahead of an ACK that is still to be sent again. An
acknowledgement says that the bytes are in the other end's memory, not that anything was done about them: it is to
outlive its streams, not the other process.
"""

from __future__ import annotations

import struct
from collections import deque

from remoteio.errors import ProtocolError
from remoteio.wire.frames import ACK, frame

COUNT = struct.Struct("=Q")
_PART = 64  # bytes that a part takes in memory beside its own


class Session:
    """One end's memory: what it sent and may have to send again, and how much it has received.

    sent          bytes ever sent
    acknowledged  of those, how many the other end is known to have
    held          bytes of memory that are kept
    received      bytes ever received
    owed          of those, how many the other end has not been told of
    last_word     up to which byte what this end has said goes that may be its last word
    """

    __slots__ = (
        "_begins",
        "_keeps",
        "_parts",
        "_said",
        "_told",
        "acknowledged",
        "held",
        "last_word",
        "received",
        "sent",
    )

    def __init__(self, sent: int = 0, received: int = 0) -> None:
        """`sent`, `received`: what has gone over before this end keeps anything."""
        self.sent = self.acknowledged = self._begins = sent  # _begins: the number of the first byte of the first part
        self.received, self._told, self._said = received, received, 0
        self.held = self.last_word = 0
        self._parts: deque[bytes | memoryview] = deque()
        self._keeps = True

    def keep(self, parts: list[bytes | memoryview]) -> None:
        """Take note that `parts` are sent next. They are kept as they are, not copied: they must not change."""
        for part in parts:
            self.sent += len(part)
            if self._keeps:
                self.held += len(part) + _PART
                self._parts.append(part)

    @property
    def owed(self) -> int:
        return self.received - self._told if self._keeps else 0

    def tell(self) -> bytes:
        """Make the ACK frame for all that was received; it is to be sent."""
        self._told = self.received
        return frame(ACK, COUNT.pack(self._told))

    def told(self, payload: bytes | memoryview) -> None:
        """Take an ACK's payload, and keep no longer what the other end has. Raises ProtocolError."""
        if len(payload) != COUNT.size:
            raise ProtocolError("an acknowledgement has %d bytes, not %d" % (len(payload), COUNT.size))
        (theirs,) = COUNT.unpack(payload)
        if not self._said <= theirs <= self.sent:
            raise ProtocolError("it acknowledges %d bytes, after %d, of %d" % (theirs, self._said, self.sent))
        self._said = theirs
        if theirs > self.acknowledged:  # else it was sent before what a join has told us
            self._acknowledge(theirs)

    def rejoin(self, theirs: int) -> list[bytes | memoryview]:
        """Return what is to be sent again to an end that has received `theirs` bytes.

        Raises ProtocolError if it cannot have received so many, or has told before that it has more.
        """
        if not self.acknowledged <= theirs <= self.sent:
            text = "it has received %d bytes, as it says, of %d, and had %d before"
            raise ProtocolError(text % (theirs, self.sent, self.acknowledged))
        self._acknowledge(theirs)
        again = list(self._parts)
        if theirs > self._begins:
            again[0] = memoryview(again[0])[theirs - self._begins :]
        return again

    def _acknowledge(self, theirs: int) -> None:
        self.acknowledged = theirs
        parts = self._parts
        while parts and self._begins + len(parts[0]) <= theirs:
            size = len(parts.popleft())
            self._begins += size
            self.held -= size + _PART

    def begin_anew(self) -> None:
        """Forget all that went over: there is another end now, which has heard nothing."""
        self.sent = self.acknowledged = self._begins = self.received = self._told = self._said = self.held = 0
        self._parts.clear()
        self.last_word = 1  # what goes first

    def forgo(self) -> None:
        """Keep nothing any more, and owe no acknowledgement: the stream that is there is the last."""
        self._keeps = False
        self._parts.clear()
        self.held = 0
