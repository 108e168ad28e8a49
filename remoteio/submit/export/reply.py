"""What an operation of the export answers: one value, whichever frame carries it. Pure."""

from __future__ import annotations

from typing import Union

from remoteio.wire import fuse_abi as abi
from remoteio.wire import known as wire
from remoteio.wire import leases, makes
from remoteio.wire.frames import FUSE, GRANTED, KNOWN, LARGE, LEASED, ORDERED
from remoteio.wire.known import Piggyback

_HEADER = abi.OUT_HEADER.pack

Frame = Union[tuple[int, bytes], tuple[int, bytes, bytes]]
"""A kind, and the payload, perhaps in two parts."""


class Reply:
    """A successful answer.

    body     the reply's body, as fuse.h has it for the operation
    known    what the job's kernel is about to ask for next, as of now; None: nothing
    before   notifications (fuse.h) that the kernel must take before the reply; not together with `known` or `leased`
    leased   what of it holds until a break, as ``wire.leases`` has it; `name`: of a LOOKUP
    granted  of what makes a name: what more may be made (wire.makes); not together with `before` or `leased`
    """

    __slots__ = ("before", "body", "granted", "known", "leased", "name")

    def __init__(
        self, body: bytes, known: Piggyback | None = None, before: bytes = b"", leased: int = 0, name: bytes = b""
    ) -> None:
        self.body, self.known, self.before, self.leased, self.name = body, known, before, leased, name
        self.granted: makes.Granted | None = None

    def frame(self, unique: int) -> Frame:
        """Make the frame that answers the request of that number."""
        body, known = self.body, self.known
        head = _HEADER(16 + len(body), 0, unique)
        if len(body) >= LARGE and known is None and not (self.before or self.leased):
            return FUSE, head, body  # what was read, which to copy would take as long as to read it
        reply = head + body
        if self.before:
            return ORDERED, self.before + reply
        kind, payload = (FUSE, reply) if known is None else (KNOWN, wire.pack(reply, known))
        if self.granted is not None:
            return GRANTED, makes.pack(kind, self.granted, payload)
        return (LEASED, leases.pack(kind, self.leased, self.name, payload)) if self.leased else (kind, payload)


DONE = Reply(b"")
