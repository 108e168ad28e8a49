"""What an operation of the export answers: one value, whichever frame carries it. Pure."""

from __future__ import annotations

from remoteio.wire import fuse_abi as abi
from remoteio.wire import known as wire
from remoteio.wire.frames import FUSE, KNOWN, ORDERED
from remoteio.wire.known import Piggyback

_HEADER = abi.OUT_HEADER.pack


class Reply:
    """A successful answer.

    body     the reply's body, as fuse.h has it for the operation
    known    what the job's kernel is about to ask for next, as of now; None: nothing
    before   notifications (fuse.h) that the kernel must take before the reply; not together with `known`
    """

    __slots__ = ("before", "body", "known")

    def __init__(self, body: bytes, known: Piggyback | None = None, before: bytes = b"") -> None:
        self.body, self.known, self.before = body, known, before

    def frame(self, unique: int) -> tuple[int, bytes]:
        """Make the frame (kind, payload) that answers the request of that number."""
        body, known = self.body, self.known
        reply = _HEADER(16 + len(body), 0, unique) + body
        if known is not None:
            return KNOWN, wire.pack(reply, known)
        return (ORDERED, self.before + reply) if self.before else (FUSE, reply)


DONE = Reply(b"")
