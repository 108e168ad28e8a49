"""PUSHED: what a command is likely to use as it starts, sent before it asks. Pure. Shipped.

One after the other, each as long as its head says::

    u64 nodeid | u64 offset | u32 bytes of the rest | u16 bytes of the name | u16 what | the name | the rest

what        nodeid         the rest
==========  =============  ============================================================================
NAME        the directory  struct fuse_entry_out with attributes, as a LOOKUP of that name gives it
TOLD        the directory  the same, of what is under no lease: for coherence.TTL seconds
TARGET      the link       where the symbolic link points; without a name
FILE        the file       u64 from, u64 to, each: what of it will come as DATA, in that order; the name is that of
                           its version, of ``known.VERSION`` bytes, if the host may keep it by that; else there is none
DATA        the file       what it holds from `offset` on; without a name
SEARCHED    the directory  struct fuse_attr; the job's user may search it (access(2), X_OK); without a name
LISTED      0              deflated (RFC 1950): directories as the reply to a LIST has them (``wire.listed``)
SINCE       a number       nothing: all behind it in the frame was looked up after so many CREDITs had been taken
==========  =============  ============================================================================

Of what is LISTED with BARE in place of the offset, files are names alone, and each entry that has a node holds as well.

All else holds until a BREAK (``wire.leases``), but TARGET, which is that of this node for good. A FILE comes behind
the NAME that leads to it: it may be opened for reading, and holds what it holds; with BARE in place of the offset, it
has no ``security.capability``. Its DATA comes some time after that; where it will not, another FILE says so that
promises nothing. Each NAME and TOLD whose own nodeid is not 0 counts one lookup of the kernel's.

The host asks for it by CREDIT of this kind, and is sent no more than that: a frame may be begun while there is any.
"""

from __future__ import annotations

import struct

from remoteio.errors import ProtocolError
from remoteio.wire.fuse_abi import ATTR
from remoteio.wire.known import VERSION
from remoteio.wire.listed import ENTRY_SIZE

NAME, TARGET, FILE, DATA, LISTED, TOLD, SEARCHED, SINCE = range(8)
_SIZES = {NAME: ENTRY_SIZE, TOLD: ENTRY_SIZE, SEARCHED: ATTR.size, SINCE: 0}
BARE = 1
FAR = 0.003
"""Seconds of a round trip from which on home is far, and START says so: its host asks with its first word. One that is
nearer asks once it has measured that by itself."""
PIECE = 16 << 10
"""Bytes of a file that are one DATA, at the most."""
FRAME = 48 << 10
"""Bytes of a frame at the most: it stays below frames.LARGE, and what is asked for waits behind no more than that."""
LISTED_AT_ONCE = 256 << 10
"""Bytes of the directories that are LISTED in one part, at the most."""
WIDEST = 4 << 20
"""Bytes that a host may ask for at a time."""

_RANGE = struct.Struct("=QQ")
_HEAD = struct.Struct("=QQIHH")


def pack(what: int, nodeid: int, name: bytes = b"", rest: bytes = b"", offset: int = 0) -> bytes:
    """Make one part of a PUSHED frame."""
    return _HEAD.pack(nodeid, offset, len(rest), len(name), what) + name + rest


def pack_file(nodeid: int, ranges: list[tuple[int, int]], bare: bool, version: bytes = b"") -> bytes:
    """Make a FILE of which these ranges will come."""
    return pack(FILE, nodeid, version, b"".join(_RANGE.pack(*each) for each in ranges), BARE if bare else 0)


def pack_listed(directories: list[bytes], bare: bool) -> bytes:
    """Make a LISTED of what ``listed.pack`` has made of each directory."""
    import zlib  # a host that is near needs none

    return pack(LISTED, 0, b"", zlib.compress(b"".join(directories), 1), BARE if bare else 0)


def listed(rest: bytes) -> bytes:
    """Read the rest of a LISTED, as the reply to a LIST has it. Raises ProtocolError."""
    import zlib

    inflating = zlib.decompressobj()
    try:
        body = inflating.decompress(rest, LISTED_AT_ONCE)
    except zlib.error as e:
        raise ProtocolError("directories that are pushed cannot be read: %s" % e) from None
    if not inflating.eof:
        raise ProtocolError("directories that are pushed are cut short, or too many")
    return body


def promised(rest: bytes) -> list[tuple[int, int]]:
    """Read the rest of a FILE: the ranges that will come. Raises ProtocolError."""
    if len(rest) % _RANGE.size:
        raise ProtocolError("what will come of a file is cut short (%d bytes)" % len(rest))
    return [(begin, end) for begin, end in _RANGE.iter_unpack(rest)]


def parse(payload: bytes | memoryview) -> list[tuple[int, int, bytes, int, bytes]]:
    """Read (what, nodeid, name, offset, the rest) of each part of a PUSHED frame. Raises ProtocolError."""
    data, found, at = bytes(payload), [], 0
    while at < len(data):
        if at + _HEAD.size > len(data):
            raise ProtocolError("what is pushed ends within a head")
        nodeid, offset, size, length, what = _HEAD.unpack_from(data, at)
        begin = at + _HEAD.size + length
        at = begin + size
        if at > len(data) or what > SINCE or size != _SIZES.get(what, size):
            raise ProtocolError("what is pushed is cut short, or of no kind that there is (%d)" % what)
        if what == FILE and length not in (0, VERSION):
            raise ProtocolError("a version is pushed whose name is of no length that there is (%d)" % length)
        found.append((what, nodeid, data[begin - length : begin], offset, data[begin:at]))
    return found
