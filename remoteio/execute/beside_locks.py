"""Execute side: what home tells of files beside one that is locked, for which the kernel is given no time. Shipped.

The kernel asks for them each time. The relay answers for coherence.TTL, as from all that was told, until home takes it
back: it sees what others do to any file in that directory. With each lock that is granted all such knowledge goes
(``known``: a sweep), unless home says that nobody else can have had it since the last (``behind.SAME_FILE``).
"""

from __future__ import annotations

from remoteio.wire import fuse_abi as abi
from remoteio.wire.coherence import BESIDE

_ATTRIBUTES = (abi.GETATTR, abi.SETATTR)
_ENTRIES = (abi.LOOKUP, abi.CREATE)


def is_told_once(reply: bytes | memoryview) -> bool:
    """Say whether the kernel is to ask for the name each time that a LOOKUP or CREATE told. Raises struct.error."""
    _, _, seconds, _, ns, _ = abi.ENTRY.unpack_from(reply, abi.OUT_HEADER.size)
    return not seconds and not ns


def is_untold(op: int, reply: bytes | memoryview) -> bool:
    """Say whether home does not take back what it told with a name, and it is for no time."""
    return op in _ENTRIES and is_told_once(reply) and not timeless(op, 0, reply)[0]


def timeless(op: int, nodeid: int, reply: bytes | memoryview) -> tuple[int, bytes]:
    """Return the node, and its struct fuse_attr, that the reply to a request of `nodeid` tells for no time; 0: none.

    Raises struct.error.
    """
    at = abi.OUT_HEADER.size
    if op in _ATTRIBUTES:
        at += abi.ATTR_OUT.size
    elif op in _ENTRIES:
        nodeid, at = abi.ENTRY.unpack_from(reply, at)[0], at + abi.ENTRY.size
    else:
        return 0, b""
    attr = bytes(reply[at : at + abi.ATTR.size])
    return (nodeid, attr) if attr.endswith(BESIDE) else (0, b"")
