"""Execute side: which names the kernel was told of lately, and holds until coherence.TTL is over. Pure. Shipped.

A job that follows another in one root must see what was changed at home before it began. What is leased was taken back
here; but the kernel would ask nothing for as long as what it was told of a name holds. So it is told, when a job has
ended, that none of that holds any more (FUSE_EXPIRE_ONLY, Linux 6.2: the name stays, with what is mounted on it). Its
next look-up tells it of the file's attributes as well, as a file is come by through a name: but for the root.

Threads: any; each step is one operation of a deque or an int. A request is noted before it is answered.
"""

from __future__ import annotations

from collections import deque

from remoteio.wire import fuse_abi as abi
from remoteio.wire.coherence import TTL
from remoteio.wire.listed import walk
from remoteio.wire.makes import name_of, names_of

NAMES = frozenset(
    (abi.LOOKUP, abi.CREATE, abi.MKDIR, abi.MKNOD, abi.SYMLINK, abi.LINK, abi.RENAME, abi.RENAME2, abi.READDIRPLUS)
)
"""Operations by which the kernel learns of names."""

MOST = 16384  # requests; the oldest go first
MOST_BYTES = 8 << 20  # of them, and of listings
SLOW = 1.0  # seconds for an answer, from which on it is not known any more what came before what
_ITSELF = (b".", b"..")


class ToldLately:
    """Keeps what was asked, and listed, since ``names``."""

    def __init__(self) -> None:
        self._told: deque[tuple[float, int, int, bytes]] = deque()
        self._bytes = 0
        self._until = float("-inf")  # when what is not kept here holds no more

    def note(self, op: int, nodeid: int, raw: bytes, now: float) -> None:
        """Keep a request of one of NAMES but READDIRPLUS; of that, its reply."""
        self._told.append((now, op, nodeid, raw))
        self._bytes += len(raw)
        while len(self._told) > MOST or self._bytes > MOST_BYTES:
            at, _, _, oldest = self._told.popleft()
            self._bytes -= len(oldest)
            self._until = max(self._until, at + SLOW + TTL)

    def answered(self, op: int, nodeid: int, reply: bytes | memoryview, waited: float, now: float) -> None:
        """Take note of the reply to a request, for which so many seconds were waited; keep a listing."""
        if op == abi.READDIRPLUS:
            self.note(op, nodeid, bytes(reply), now)
        elif op in NAMES and waited > SLOW:
            self._until = now + TTL

    def names(self, now: float) -> list[tuple[int, bytes]] | None:
        """Return the names, with their directories' nodes, and forget them; None: there are others."""
        told, self._told, self._bytes = self._told, deque(), 0
        since = now - SLOW - TTL  # what was asked before is held no more
        lately = ((op, nodeid, raw) for at, op, nodeid, raw in told if at > since)
        return [each for asked in lately for each in _names(*asked)] if now > self._until else None


def _names(op: int, nodeid: int, raw: bytes) -> list[tuple[int, bytes]]:
    if op == abi.READDIRPLUS:
        entries = walk(raw[abi.OUT_HEADER.size :])
        return [(nodeid, name) for _, _, found, name, *_ in entries if found and name not in _ITSELF]
    if op in (abi.RENAME, abi.RENAME2):
        old, new = names_of(raw)
        return [(nodeid, old), (abi.HANDLE.unpack_from(raw, abi.ARGS)[0], new)]
    if op == abi.LOOKUP:
        return [(nodeid, raw[abi.ARGS : -1])]
    return [(nodeid, name_of(op, raw))]
