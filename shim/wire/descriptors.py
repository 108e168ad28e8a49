"""What a job has open from descriptor 3 on, beside its three streams: what it inherits. Pure. Shipped."""

from __future__ import annotations

from remoteio.wire import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

READ, WRITE, FILE, TERMINAL = "read", "write", "file", "terminal"
MOST_STREAMS = len(frames.EXTRA)


class Descriptor:
    """One descriptor of a job.

    number  as the job knows it
    kind    READ, WRITE: a pipe, whose other end is at home; FILE: a file that is opened anew; TERMINAL: the job's own
    needed  without it the job does not start
    flags   of open(2), of a FILE
    offset  of a FILE
    path    of a FILE
    """

    __slots__ = ("flags", "kind", "needed", "number", "offset", "path")

    def __init__(
        self, number: int, kind: str, needed: bool = False, flags: int = 0, offset: int = 0, path: bytes = b""
    ) -> None:
        self.number, self.kind, self.needed = number, kind, needed
        self.flags, self.offset, self.path = flags, offset, path

    @property
    def stream(self) -> bool:
        """Whether it is a pipe."""
        return self.kind in (READ, WRITE)

    def pack(self) -> bytes:
        """Make an item of a START frame's `descriptors`."""
        words = "%d %s %d %d %d " % (self.number, self.kind, self.needed, self.flags, self.offset)
        return words.encode() + self.path

    @classmethod
    def unpack(cls, item: bytes) -> Descriptor:
        """Read what ``pack`` made. Raises ValueError."""
        number, kind, needed, flags, offset, path = item.split(b" ", 5)
        if kind.decode() not in (READ, WRITE, FILE, TERMINAL):
            raise ValueError("a descriptor is of no known kind")
        return cls(int(number), kind.decode(), needed == b"1", int(flags), int(offset), path)


def stream_kinds(descriptors: Sequence[Descriptor]) -> dict[int, Descriptor]:
    """Number the streams among them: the kind of frame of each. Both ends count in the same order."""
    return dict(zip(frames.EXTRA, (each for each in descriptors if each.stream)))
