"""Listings: struct fuse_direntplus each, and several directories' in the reply to a LIST. Pure. Shipped.

The reply to a LIST has, for the directory that was asked for and then for some below it, each::

    u64 nodeid | u32 bytes of the entries | u16 what | u16 bytes of the words | struct fuse_attr of it
    | struct fuse_direntplus each | the words

`what` is 1 if its attributes and all its names hold until a BREAK (``wire.leases``), and 0 if not. Each entry whose
nodeid is not 0 counts one lookup of the kernel's, as in a READDIRPLUS. Where names are likely to be taken away (`TAKES`
is asked for), it has also, with 1, makes.REMOVE and makes.SHOWN, which hold until a BREAK too, with their words.

Where the names alone are asked for (`NAMES`), of one directory, it has these, each behind a slash, which hold until a
BREAK: there are no others. Else 1 is asked for where names are looked up.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from remoteio.errors import ProtocolError
from remoteio.wire import fuse_abi as abi
from remoteio.wire.makes import REMOVE, SHOWN, Granted

ENTRY_SIZE = abi.ENTRY.size + abi.ATTR.size
_HEAD = struct.Struct("=QIHH")
_LEASED = 1
NAMES, TAKES = 2, 4  # of what is asked for
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


def names_alone(listing: bytes) -> tuple[bytes, Entries]:
    """Make of a listing one of the names alone; return that, and what is in it: nodes of directories."""
    alone, found = bytearray(listing), []
    for start, end, nodeid, name, offset, kind in walk(listing):
        alone[start : start + ENTRY_SIZE] = bytes(ENTRY_SIZE)
        found.append((start, end, nodeid if kind == DIRECTORY else 0, name, offset, kind))
    return bytes(alone), found


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


def pack(nodeid: int, attr: bytes, entries: bytes, leased: bool = False, granted: Granted | None = None) -> bytes:
    """Make one directory's part of the reply to a LIST; `granted`: how names may be taken away there."""
    what, words = (granted.what, b"/".join(granted.words)) if leased and granted is not None else (0, b"")
    return _HEAD.pack(nodeid, len(entries), what | leased, len(words)) + attr + entries + words


def parse(body: bytes) -> list[tuple[int, bytes, bytes, bool]]:
    """Read (nodeid, attributes, entries, leased) of each directory in the reply to a LIST. Raises ProtocolError."""
    return [(nodeid, attr, entries, leased) for nodeid, attr, entries, leased, _ in _parts(body)]


def takings(body: bytes) -> list[tuple[int, bytes, Granted]]:
    """Read (nodeid, attributes, how names may be taken away) of those of these directories where they may. Raises
    ProtocolError."""
    return [(nodeid, attr, granted) for nodeid, attr, _, _, granted in _parts(body) if granted.what]


def _parts(body: bytes) -> Iterator[tuple[int, bytes, bytes, bool, Granted]]:
    at = 0
    while at < len(body):
        begin = at + _HEAD.size + abi.ATTR.size
        nodeid, size, what, length = _HEAD.unpack_from(body, at) if begin <= len(body) else (0, 0, 0, 0)
        end = begin + size
        if not size or end + length > len(body) or what & ~(_LEASED | REMOVE | SHOWN):
            raise ProtocolError("a directory that was listed ahead is cut short (%d bytes)" % len(body))
        words = tuple(body[end : end + length].split(b"/")) if length else ()
        granted = Granted(what & ~_LEASED, 0, words)
        yield nodeid, body[at + _HEAD.size : begin], body[begin:end], bool(what & _LEASED), granted
        at = end + length
