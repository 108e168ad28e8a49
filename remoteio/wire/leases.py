"""LEASED and BREAK: what an execute host may answer from for as long as nobody has changed it. Pure. Shipped.

LEASED is a reply whose telling holds until a BREAK, and not for coherence.TTL seconds alone::

    u8 kind of the reply (FUSE, KNOWN) | u8 what | u16 length of the name | u32 zero | the name | the reply's payload

`what` is a sum of NAME (a LOOKUP: that `name` leads there, or nowhere), ATTR (the attributes of the node: of a LOOKUP,
those of what was found; of an OPEN or OPENDIR, those that go along with the reply), LISTED (the names of the
listing, and that there are no others), CONTENTS (of an OPEN for reading, together with ATTR: what the file holds,
and that it may be opened so), KEPT (together with CONTENTS: the reply, a KNOWN, has the name of this version of the
file in place of its contents; what has that name has the same contents, in all runs) and ENTRIES (together with LISTED:
the attributes of what is in the listing, but for names alone). The name of a LOOKUP stands here
since its reply does not have it.

BREAK takes leases back, of each node named, and of the name in it; a name of no bytes stands for the node's attributes
and contents, and all names in it, node 0 for all that was ever told, and a `/` for the locks on it (``behind.LOCKS``)::

    u64 nodeid | u64 length of the name | the name, padded to 8 bytes        (again and again)
"""

from __future__ import annotations

import struct

from remoteio.errors import ProtocolError
from remoteio.wire.frames import FUSE, KNOWN

NAME, ATTR, LISTED, CONTENTS, KEPT, ENTRIES = 1, 2, 4, 8, 16, 32
EVERYTHING = 0

_HEAD = struct.Struct("=BBHI")
_BREAK = struct.Struct("=QQ")
_NAME_MAX = 255  # bytes of a name: linux/limits.h


def pack(kind: int, what: int, name: bytes, payload: bytes) -> bytes:
    """Make the payload of a LEASED frame of a reply that `kind` and `payload` make alone."""
    return _HEAD.pack(kind, what, len(name), 0) + name + payload


def split(payload: bytes | memoryview) -> tuple[int, int, bytes, bytes | memoryview]:
    """Part a LEASED frame into the reply's kind, what is leased, the name, the reply. Raises ProtocolError."""
    if len(payload) >= _HEAD.size:
        kind, what, length, zero = _HEAD.unpack_from(payload)
        at = _HEAD.size + length
        if kind in (FUSE, KNOWN) and 0 < what < 64 and length <= _NAME_MAX and not zero and at <= len(payload):
            return kind, what, bytes(payload[_HEAD.size : at]), payload[at:]
    raise ProtocolError("a lease does not say what for (%d bytes)" % len(payload))


def pack_break(nodeid: int, name: bytes) -> bytes:
    """Make one item of a BREAK frame's payload."""
    return _BREAK.pack(nodeid, len(name)) + name.ljust(len(name) + 7 & ~7, b"\0")


def broken(payload: bytes | memoryview) -> list[tuple[int, bytes]]:
    """Read the nodes and names of a BREAK frame. Raises ProtocolError."""
    found, at = [], 0
    while at < len(payload):
        if at + _BREAK.size > len(payload):
            raise ProtocolError("what takes leases back is cut short")
        nodeid, length = _BREAK.unpack_from(payload, at)
        at += _BREAK.size
        if length > _NAME_MAX or at + length > len(payload):
            raise ProtocolError("a name whose lease is taken back is cut short")
        found.append((nodeid, bytes(payload[at : at + length])))
        at += length + 7 & ~7
    return found
