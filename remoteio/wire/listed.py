"""Listings: struct fuse_direntplus each, and several directories' in the reply to a LIST. Pure. Shipped.

The reply to a LIST has, for the directory that was asked for and then for some below it, each::

    u64 nodeid | u32 bytes of the entries | u32 leased | struct fuse_attr of it | struct fuse_direntplus each

`leased` is 1 if its attributes and all its names hold until a BREAK (``wire.leases``), and 0 if not. Each entry whose
nodeid is not 0 counts one lookup of the kernel's, as in a READDIRPLUS.

Where the names alone are asked for (`NAMES`), of one directory, it has these, each behind a slash, which hold until a
BREAK: there are no others.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from remoteio.errors import ProtocolError
from remoteio.wire import fuse_abi as abi

ENTRY_SIZE = abi.ENTRY.size + abi.ATTR.size
_HEAD = struct.Struct("=QII")
NAMES = 2  # instead of whether names are looked up
DIRECTORY = 4  # d_type: DT_DIR of readdir(3)

# start, end, nodeid, name, offset of the next, d_type
Entries = list[tuple[int, int, int, bytes, int, int]]


def walk(listing: bytes) -> Entries:
    """Read the entries of a listing."""
    found: Entries = []
    at = 0
    while at + ENTRY_SIZE + abi.DIRENT.size <= len(listing):
        _, offset, length, kind = abi.DIRENT.unpack_from(listing, at + ENTRY_SIZE)
        begin = at + ENTRY_SIZE + abi.DIRENT.size
        end = at + (ENTRY_SIZE + abi.DIRENT.size + length + 7 & ~7)
        found.append((at, end, abi.ENTRY.unpack_from(listing, at)[0], listing[begin : begin + length], offset, kind))
        at = end
    return found


def pack_names(names: Iterable[bytes]) -> bytes:
    """Make the reply to a LIST of the names alone."""
    return b"".join(b"/" + name for name in names)


def parse_names(body: bytes) -> list[bytes]:
    """Read the reply to a LIST of the names alone. Raises ProtocolError."""
    first, *names = body.split(b"/")
    if first or not names or b"" in names:
        raise ProtocolError("the names in a directory are not told as they are (%d bytes)" % len(body))
    return names


def directories(found: Entries) -> list[int]:
    """List the nodes of the directories among the entries."""
    return [nodeid for _, _, nodeid, _, _, kind in found if kind == DIRECTORY and nodeid]


def pack(nodeid: int, attr: bytes, entries: bytes, leased: bool = False) -> bytes:
    """Make one directory's part of the reply to a LIST."""
    return _HEAD.pack(nodeid, len(entries), leased) + attr + entries


def parse(body: bytes) -> list[tuple[int, bytes, bytes, bool]]:
    """Read (nodeid, attributes, entries, leased) of each directory in the reply to a LIST. Raises ProtocolError."""
    found, at = [], 0
    while at < len(body):
        begin = at + _HEAD.size + abi.ATTR.size
        nodeid, size, leased = _HEAD.unpack_from(body, at) if begin <= len(body) else (0, 0, 0)
        if not size or begin + size > len(body) or leased > 1:
            raise ProtocolError("a directory that was listed ahead is cut short (%d bytes)" % len(body))
        found.append((nodeid, body[at + _HEAD.size : begin], body[begin : begin + size], bool(leased)))
        at = begin + size
    return found
