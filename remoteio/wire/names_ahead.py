"""NAMES: names that the job's kernel is likely to look up, told before it asks. Pure. Shipped.

One after the other, with the number of bytes of the part that ends each::

    u64 nodeid | u32 bytes | u16 bytes of the name | u16 what | the name | the rest

what        nodeid         the rest
==========  =============  ============================================================================
NAME        the directory  struct fuse_entry_out with attributes, as a LOOKUP of that name gives it
LISTING     the directory  struct fuse_direntplus each: all that is in it; without a name
TARGET      the link       where the symbolic link points; without a name

Each NAME and each entry of a LISTING whose own nodeid is not 0 counts one lookup of the kernel's.
"""

from __future__ import annotations

import struct

from remoteio.errors import ProtocolError
from remoteio.wire.listed import ENTRY_SIZE

NAME, LISTING, TARGET = 0, 1, 2
_HEAD = struct.Struct("=QIHH")


def pack(what: int, nodeid: int, name: bytes, rest: bytes) -> bytes:
    """Make one part of a NAMES frame."""
    return _HEAD.pack(nodeid, len(rest), len(name), what) + name + rest


def parse(payload: bytes | memoryview) -> list[tuple[int, int, bytes, bytes]]:
    """Read (what, nodeid, name, the rest) of each part of a NAMES frame. Raises ProtocolError."""
    data, found, at = bytes(payload), [], 0
    while at < len(data):
        if at + _HEAD.size > len(data):
            raise ProtocolError("what is told of names ends within a head")
        nodeid, size, length, what = _HEAD.unpack_from(data, at)
        begin = at + _HEAD.size + length
        at = begin + size
        if at > len(data) or what > TARGET or (what == NAME and size != ENTRY_SIZE):
            raise ProtocolError("what is told of names is cut short, or of no kind that there is (%d)" % what)
        found.append((what, nodeid, data[begin - length : begin], data[begin:at]))
    return found
