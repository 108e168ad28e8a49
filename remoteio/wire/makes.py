"""GRANTED: the reply to what makes a name, and whether the host may make more there before home has. Pure. Shipped.

::

    u8 kind of the reply (FUSE, KNOWN) | u8 what | u16 bytes of the words | u32 zero | u64 home's time, ns
    | the words | the reply's payload

`what` is a sum of MORE: what is asked for next in that directory by OPS, of a name that is not there, may be answered
before it is done, until a BREAK of all that is in the directory, or until such an answer comes with a reply that does
not say MORE; EMPTY: what was made is a directory of which that is so too, and there is no name in it, until a BREAK;
SET and OWN: as behind.MAY_SET and MAY_OWN, of a directory that was made; ITSELF: the attributes of the directory in
which it was made, which come along, hold until a BREAK, or until the job changes it; REMOVE: any name in that directory
may be taken away before it is done, by UNLINK, or, if SHOWN holds in what is removed, by RMDIR; SHOWN: all names in it
are told, and none is hidden from the job. The words are the names of which a rule of the job's speaks, with REMOVE also
those that home could not take away, parted by slashes, folded, with "*" for any bytes: these are asked for.

What the host has made so has three numbers that come of the change's own (behind.HEAD), so that none of them travels:
its node and, of a file, the handle (MADE + number), and the inode number that the job sees (INODES + number). An OPEN
that is answered before it is done is of a file that the job has made, to write to it, and its handle is MADE + number,
too.

An UNLINK or RMDIR that is answered before it is done says which node is meant. In place of the number of the process
that asks it has that of the change that made the file, or, of one that has a node of home's, HOMES + that: home removes
nothing else that has the name by then. A RENAME2 that is answered so moves
such a file within one directory, and says there which one is meant, too; and in place of the padding, alike, which file
its new name is taken from, or 0: nothing is to have that name, and RENAME_NOREPLACE is the one flag that it has.
"""

from __future__ import annotations

import struct

from remoteio.errors import ProtocolError
from remoteio.wire import fuse_abi as abi
from remoteio.wire.frames import FUSE, KNOWN

OPS = frozenset((abi.CREATE, abi.MKDIR, abi.SYMLINK))
MORE, EMPTY, SET, OWN, ITSELF, REMOVE, SHOWN = 1, 2, 4, 8, 16, 32, 64
MADE = 1 << 62  # below the relay's own handles (fuse_abi.OWN), above all that home gives
INODES = 0xE0000000  # up to 32 bits, which 32-bit programs can read
NUMBERS = (1 << 32) - INODES  # numbers of changes that may make something
NOREPLACE = 1  # linux/fs.h: RENAME_NOREPLACE
HOMES = 1 << 31  # above these, and above the numbers of all nodes that home gives to what such an UNLINK may mean
_HEAD = struct.Struct("=BBHIQ")


class Granted:
    """What goes along with a reply: `what`, when (`ns`, by home's clock), and the `words`, one each."""

    __slots__ = ("ns", "what", "words")

    def __init__(self, what: int, ns: int, words: tuple[bytes, ...] = ()) -> None:
        self.what, self.ns, self.words = what, ns, words


def pack(kind: int, granted: Granted, payload: bytes) -> bytes:
    """Make the payload of a GRANTED frame of a reply that `kind` and `payload` make alone."""
    words = b"/".join(granted.words)
    return _HEAD.pack(kind, granted.what, len(words), 0, granted.ns) + words + payload


def split(payload: bytes | memoryview) -> tuple[int, Granted, bytes | memoryview]:
    """Part a GRANTED frame into the reply's kind, what goes along with it, the reply. Raises ProtocolError."""
    if len(payload) >= _HEAD.size:
        kind, what, length, zero, ns = _HEAD.unpack_from(payload)
        at = _HEAD.size + length
        if kind in (FUSE, KNOWN) and what < 128 and not zero and at <= len(payload):
            words = bytes(payload[_HEAD.size : at])
            return kind, Granted(what, ns, tuple(words.split(b"/")) if words else ()), payload[at:]
    raise ProtocolError("a reply does not say what more may be made (%d bytes)" % len(payload))


def name_of(op: int, raw: bytes | memoryview) -> bytes:
    """The name that a request of one of OPS makes, or an UNLINK or RMDIR removes."""
    return bytes(raw[abi.ARGS + abi.OPERATIONS[op][1] :]).partition(b"\0")[0]


def unlink(raw: bytes | memoryview, nodeid: int) -> bytes:
    """Make of the kernel's UNLINK or RMDIR the one that says which node is meant."""
    length, op, unique, parent, uid, gid, _, *rest = abi.IN_HEADER.unpack_from(raw)
    return abi.IN_HEADER.pack(length, op, unique, parent, uid, gid, _number(nodeid), *rest) + raw[abi.ARGS :]


def rename(raw: bytes | memoryview, nodeid: int, taken: int) -> bytes:
    """Make of the kernel's RENAME or RENAME2 the one that says which nodes are meant; `taken` 0: none."""
    _, op, unique, parent, uid, gid, _, *rest = abi.IN_HEADER.unpack_from(raw)
    names = bytes(raw[abi.ARGS + abi.OPERATIONS[op][1] :])
    args = abi.RENAME2_IN.pack(parent, 0 if taken else NOREPLACE, _number(taken) if taken else 0) + names
    length, meant = abi.ARGS + len(args), _number(nodeid)
    return abi.IN_HEADER.pack(length, abi.RENAME2, unique, parent, uid, gid, meant, *rest) + args


def _number(nodeid: int) -> int:
    return nodeid - MADE if nodeid >= MADE else HOMES + nodeid


def meant(number: int) -> int:
    """The node that such a request means, by what it has in place of a process."""
    return number - HOMES if number >= HOMES else MADE + number


def names_of(raw: bytes | memoryview) -> tuple[bytes, bytes]:
    """The names that a RENAME or RENAME2 takes away, and gives."""
    old, _, new = bytes(raw[abi.ARGS + abi.OPERATIONS[abi.IN_HEADER.unpack_from(raw)[1]][1] : -1]).partition(b"\0")
    return old, new
