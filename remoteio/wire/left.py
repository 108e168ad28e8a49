"""LEFT and STATS: files that a host knows are leased together. Pure. Shipped.

Requests of the relay's own; their arguments are the nodes, u64 each, no more than MOST. The body of the reply has a
struct fuse_attr for each, in their order, which is leased from then on (``wire.leases``):

* LEFT: of what the job has written and closed, and is as it left it, with its contents;
* STATS: of what was under a lease before, and has changed since;

of all else zeros.
"""

from __future__ import annotations

import struct

from remoteio.errors import ProtocolError
from remoteio.wire import fuse_abi as abi

MOST = 128
NOT = bytes(abi.ATTR.size)
_NODE = struct.Struct("=Q")


def pack(nodes: list[int]) -> bytes:
    """Make the request's arguments."""
    return b"".join(map(_NODE.pack, nodes))


def nodes_of(raw: bytes | bytearray | memoryview) -> list[int]:
    """Read the nodes of a request. Raises FuseError."""
    told = raw[abi.ARGS :]
    if len(told) % _NODE.size or len(told) > MOST * _NODE.size:
        raise abi.FuseError("it asks for files that it holds, and not for whole numbers of them (%d bytes)" % len(told))
    return [nodeid for (nodeid,) in _NODE.iter_unpack(told)]


def parse(raw: bytes | memoryview, body: bytes) -> list[tuple[int, bytes]]:
    """Read the reply to that request: nodes that are leased, with struct fuse_attr each. Raises ProtocolError."""
    nodes, size = nodes_of(raw), abi.ATTR.size
    if len(body) != len(nodes) * size:
        raise ProtocolError("of %d files home tells %d bytes" % (len(nodes), len(body)))
    told = [(node, body[k * size : (k + 1) * size]) for k, node in enumerate(nodes)]
    return [each for each in told if each[1] != NOT]
