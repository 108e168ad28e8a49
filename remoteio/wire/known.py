"""KNOWN: a FUSE reply, and what the kernel is about to ask for next, so that it need not travel. Pure. Shipped.

::

    the FUSE reply, as long as its header says | struct fuse_attr | the rest

The attributes are those of the request's node as of the reply: of an opened or written file, or of the directory in
which a name was looked up, made or removed (as NFS version 3 has it in ``post_op_attr``: RFC 1813, section 2.6). The
rest depends on the request's operation:

==================  ====================================================================================
LOOKUP, OPENDIR     u8 (1: the directory ends with it; 0: it goes on), then struct fuse_direntplus each;
                    or u8 2, then where the symbolic link points that was looked up
RENAME2             struct fuse_attr of the file that was renamed; nothing, if others have changed it
any other           all contents of the file, or nothing
==================  ====================================================================================

Each entry of a listing whose nodeid is not 0 counts one lookup of the kernel's, as in a READDIRPLUS.
"""

from __future__ import annotations

from remoteio.errors import ProtocolError
from remoteio.wire import fuse_abi as abi

WITH_LISTING = frozenset((abi.LOOKUP, abi.OPENDIR))
VERSION = 32
"""Bytes of the name of a version of a file."""
_ATTR = abi.ATTR.size
_LINK = 2


class Listing:
    """How a directory begins.

    entries    struct fuse_direntplus each (fuse.h), as a READDIRPLUS gives them
    complete   whether the directory ends with them
    """

    __slots__ = ("complete", "entries")

    def __init__(self, entries: bytes, complete: bool) -> None:
        self.entries, self.complete = entries, complete


class Piggyback:
    """What goes along with a reply.

    attr       struct fuse_attr of the request's node (fuse.h)
    contents   all that the file holds; empty: it is not told; of a RENAME2, its struct fuse_attr
    listing    with the reply to one of WITH_LISTING, and with no other
    link       in place of a listing: where the symbolic link points that was looked up; empty: it is not told
    version    in place of contents: the name of this version of the file (``leases.KEPT``); empty: it is not told
    """

    __slots__ = ("attr", "contents", "link", "listing", "version")

    def __init__(
        self,
        attr: bytes,
        contents: bytes = b"",
        listing: Listing | None = None,
        link: bytes = b"",
        version: bytes = b"",
    ) -> None:
        self.attr, self.contents, self.listing, self.link, self.version = attr, contents, listing, link, version


def pack(reply: bytes, known: Piggyback) -> bytes:
    """Make the payload of a KNOWN frame of a FUSE reply, header included, and what goes along with it."""
    listing = known.listing
    if known.link:
        return reply + known.attr + bytes((_LINK,)) + known.link
    if listing is None:
        return reply + known.attr + (known.version or known.contents)
    return reply + known.attr + (b"\1" if listing.complete else b"\0") + listing.entries


def split(payload: bytes | memoryview) -> tuple[bytes | memoryview, bytes | memoryview]:
    """Part the payload of a KNOWN frame into the FUSE reply and what goes along with it. Raises ProtocolError."""
    if len(payload) >= abi.OUT_HEADER.size:
        size = abi.OUT_HEADER.unpack_from(payload)[0]
        if abi.OUT_HEADER.size <= size <= len(payload) - _ATTR:
            return payload[:size], payload[size:]
    raise ProtocolError("a reply says that more is known than came with it (%d bytes)" % len(payload))


def parse(op: int, rest: bytes | memoryview, kept: bool = False) -> Piggyback:
    """Read what goes along with the reply to a request of the operation `op`: see ``split``. Raises ProtocolError.

    `kept`: it has the name of a version (``leases.KEPT``).
    """
    attr, told = bytes(rest[:_ATTR]), bytes(rest[_ATTR:])
    if kept:
        if op != abi.OPEN or len(told) != VERSION:
            raise ProtocolError("a version of a file came without its name (%d bytes)" % len(told))
        return Piggyback(attr, version=told)
    if op == abi.RENAME2 and len(told) not in (0, _ATTR):
        raise ProtocolError("what was renamed came without its attributes (%d bytes)" % len(told))
    if op not in WITH_LISTING:
        return Piggyback(attr, told)
    if len(told) > 1 and told[0] == _LINK:
        return Piggyback(attr, link=told[1:])
    if not told or told[0] > 1:
        raise ProtocolError("a listing came without saying whether it is the whole directory")
    return Piggyback(attr, b"", Listing(told[1:], told[0] == 1))
