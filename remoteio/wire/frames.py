"""Frames on a byte stream: a length, a kind, a payload. Sans-I/O.

::

    u32 length of the payload | u8 kind | 3 bytes zero | payload          (native byte order)

FUSE messages travel as they are: the kernel's own format is the payload.
"""

from __future__ import annotations

import struct

from remoteio.errors import ProtocolError

HEADER = struct.Struct("=IBBBB")
MAX_PAYLOAD = 8 << 20
LARGE = 1 << 16  # a payload from this size on gets a buffer of its own, filled by the read itself
_ROOM = 1 << 18

FUSE, ORDERED, KNOWN, START, HELLO, STARTED, EXIT, FAIL, STDIN, STDOUT, STDERR = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
CREDIT, CLOSED, SIGNAL, WINSIZE, STOPPED, PING, PAUSE = 12, 13, 14, 15, 16, 17, 18
ORDER, NEWS, IMAGE, BUNDLE, ACK, BYE, SPENT, STATE = 19, 20, 21, 22, 23, 24, 25, 26
NAMES = 27
LEASED, BREAK = 28, 29
AFTER = 30
PUSHED = 31
GRANTED = 32
FORWARD = 40
EXTRA = range(64, 96)  # a stream each
NOT_NOW = 75  # the exit status in a FAIL of a host whose owner lets no job begin now: another may try later
# Their frames stay in order among themselves, whatever their size; all others may overtake them.
BULK = frozenset((IMAGE, BUNDLE))

# kind -> (name, who sends it, what it carries): docs/protocol.md is made from this
KINDS: dict[int, tuple[str, str, str]] = {
    FUSE: ("FUSE", "both", "one message of linux/fuse.h: a request to the submit side, a reply or notification back"),
    ORDERED: ("ORDERED", "submit", "FUSE messages to be written to the kernel one after the other, each whole"),
    KNOWN: (
        "KNOWN",
        "submit",
        "a FUSE reply, then struct fuse_attr of the request's node as of now, then its contents or nothing; "
        "of LOOKUP and OPENDIR: u8 whether it is all of the directory, then struct fuse_direntplus each",
    ),
    NAMES: ("NAMES", "submit", "names that the job is likely to look up: see remoteio/wire/names_ahead.py"),
    PUSHED: ("PUSHED", "submit", "what the job is likely to use as it starts: see remoteio/wire/pushed.py"),
    START: ("START", "submit", "the job: fields of shim/wire/job_spec.py"),
    HELLO: (
        "HELLO",
        "execute",
        "fields host, time (ns since the epoch), uids, gids (mapped ranges; none: all), network, resolver",
    ),
    STARTED: ("STARTED", "execute", "empty: the job's first instruction is next"),
    EXIT: ("EXIT", "execute", "u32 wait status of the job, as waitpid(2) gives it; all its writes are done"),
    FAIL: ("FAIL", "execute", "u32 exit status for rexec, or 75: its owner lets no job begin now; a sentence in UTF-8"),
    STDIN: ("STDIN", "submit", "bytes of the job's standard input, or of the terminal; empty: end of file"),
    STDOUT: ("STDOUT", "execute", "bytes of standard output, or of the terminal; empty: end of file"),
    STDERR: ("STDERR", "execute", "bytes of standard error; empty: end of file"),
    CREDIT: ("CREDIT", "both", "u8 kind, u32 n: the reader of that stream took n bytes"),
    CLOSED: ("CLOSED", "both", "u8 kind: nobody reads that stream any more"),
    SIGNAL: ("SIGNAL", "submit", "u8 signal number, for the job's process group"),
    WINSIZE: ("WINSIZE", "submit", "u16 rows, columns, x pixels, y pixels"),
    STOPPED: ("STOPPED", "execute", "u8 signal number: the job stopped, as a shell would see it"),
    PING: ("PING", "both", "empty, once a second; anything at all counts as a sign of life"),
    PAUSE: ("PAUSE", "submit", "rexec is about to be stopped: no sign of life is due until the next PING"),
    ORDER: ("ORDER", "submit", "JSON: what a job that can be checkpointed is to do, see shim/wire/job_messages.py"),
    NEWS: ("NEWS", "execute", "JSON: what happened to a job that can be checkpointed, see shim/wire/job_messages.py"),
    IMAGE: (
        "IMAGE",
        "both",
        "one payload of checkpoint/wire/image_wire.py; CREDIT of this kind bounds what is under way",
    ),
    BUNDLE: ("BUNDLE", "submit", "bytes of the criu that the host asked for; empty: the end"),
    ACK: ("ACK", "both", "u64 n: how many bytes of the session this end has received"),
    BYE: ("BYE", "both", "empty: the session is over, and nobody comes back to it"),
    STATE: (
        "STATE",
        "execute",
        "after HELLO, to a home that takes the job up: fields why (it cannot be), files, asked, highest, places, "
        "stdin, serial; then all that was asked and has no answer",
    ),
    LEASED: (
        "LEASED",
        "submit",
        "u8 FUSE or KNOWN, u8 what holds until a BREAK, u16 length of a name, u32 zero, the name, the payload of that "
        "kind: see remoteio/wire/leases.py",
    ),
    BREAK: ("BREAK", "submit", "u64 nodeid, u64 length of a name, the name padded to 8 bytes, each: it holds no more"),
    AFTER: (
        "AFTER",
        "execute",
        "u64 number, if the request has been answered already, or 0; u64 number of the one that must be done before; "
        "the request: see remoteio/wire/behind.py",
    ),
    GRANTED: (
        "GRANTED",
        "submit",
        "u8 FUSE or KNOWN, u8 what, u16 length of the words, u32 zero, u64 time, the words, the payload of that kind: "
        "see remoteio/wire/makes.py",
    ),
    FORWARD: ("FORWARD", "both", "one message about a forwarded connection: see shim/wire/forwards.py; empty: no more"),
    SPENT: (
        "SPENT",
        "both",
        "of the submit side empty: tell what the job has cost, which is told before EXIT at the latest: fields asked "
        "(rows of remoteio/execute/counts.py), ahead (how many listings and files came ahead of the job, and how many "
        "of these it used), cpu (µs), line (bytes that the link carries in a second) where that is known well, and "
        "forgot (nothing) where the host's kernel asks again for all that it was told: another job may begin at once",
    ),
    **dict.fromkeys(
        EXTRA, ("EXTRA", "both", "bytes of a pipe of the job's from descriptor 3 on, each a kind; empty: end of file")
    ),
}


class FrameError(ProtocolError):
    """The bytes are not frames: an unknown kind, a reserved byte set, or a length over MAX_PAYLOAD."""


class FrameReader:
    """Cuts bytes into frames: ask ``buffer()`` where the next go, fill some, tell ``filled(n)``; or ``feed(data)``."""

    __slots__ = ("_end", "_kind", "_large", "_large_at", "_room", "_start", "_view")

    def __init__(self) -> None:
        self._room = bytearray(_ROOM)
        self._view = memoryview(self._room)
        self._start = self._end = 0
        self._large: memoryview | None = None
        self._large_at = self._kind = 0

    def buffer(self) -> memoryview:
        """Return where the next bytes of the stream belong; never empty."""
        if self._large is not None:
            return self._large[self._large_at :]
        if self._start == self._end:
            self._start = self._end = 0
        elif len(self._room) - self._end < HEADER.size or self._end > _ROOM // 2:
            left = self._end - self._start
            self._room[:left] = self._room[self._start : self._end]
            self._start, self._end = 0, left
        return self._view[self._end :]

    @property
    def large(self) -> bool:
        """Whether ``buffer()`` is the rest of one large frame, and takes nothing beyond it."""
        return self._large is not None

    def filled(self, n: int) -> list[tuple[int, bytes | memoryview]]:
        """Take `n` bytes put into the last ``buffer()``; return the frames that are now whole. Raises FrameError."""
        if self._large is not None:
            self._large_at += n
            if self._large_at < len(self._large):
                return []
            whole, self._large = self._large, None
            return [(self._kind, whole)]
        self._end += n
        frames: list[tuple[int, bytes | memoryview]] = []
        start, end, view = self._start, self._end, self._view
        while end - start >= 8:
            length, kind, a, b, c = HEADER.unpack_from(view, start)
            if kind not in KINDS or length > MAX_PAYLOAD or a or b or c:
                raise FrameError(
                    "the stream holds no frame where one should begin (kind %d, %d bytes)" % (kind, length)
                )
            if start + 8 + length <= end:
                body = start + 8
                start = body + length
                frames.append((kind, bytes(view[body:start])))
            elif length >= LARGE:
                have = end - start - 8
                self._large = memoryview(bytearray(length))
                self._large[:have] = view[start + 8 : end]
                self._large_at, self._kind = have, kind
                start = end
                break
            else:
                break
        self._start, self._end = start, end
        return frames

    def feed(self, data: bytes) -> list[tuple[int, bytes | memoryview]]:
        """Take `data`, and return the frames that are now whole. Raises FrameError."""
        frames = []
        rest = memoryview(data)
        while rest:
            room = self.buffer()
            n = min(len(room), len(rest))
            room[:n] = rest[:n]
            rest = rest[n:]
            frames += self.filled(n)
        return frames


def frame(kind: int, payload: bytes = b"") -> bytes:
    """Make one frame, whole."""
    return HEADER.pack(len(payload), kind, 0, 0, 0) + payload


def pack_fields(fields: dict[str, list[bytes]]) -> bytes:
    """Pack named lists of byte strings.

    u32 names; each: u32 length, u32 items, the name, the items (u32 length first).
    """
    out = [struct.pack("=I", len(fields))]
    for name, items in fields.items():
        key = name.encode()
        out.append(struct.pack("=II", len(key), len(items)) + key)
        for item in items:
            out.append(struct.pack("=I", len(item)) + item)
    return b"".join(out)


def unpack_fields(data: bytes | memoryview) -> dict[str, list[bytes]]:
    """Read what ``pack_fields`` has packed. Raises FrameError."""
    data = bytes(data)
    at = 0

    def take(n: int) -> bytes:
        nonlocal at
        if at + n > len(data):
            raise FrameError("fields end in the middle")
        at += n
        return data[at - n : at]

    def number() -> int:
        return int(struct.unpack("=I", take(4))[0])

    fields: dict[str, list[bytes]] = {}
    for _ in range(number()):
        size, count = number(), number()
        name = take(size).decode("utf-8", "replace")
        fields[name] = [take(number()) for _ in range(count)]
    if at != len(data):
        raise FrameError("bytes follow the last field")
    return fields
