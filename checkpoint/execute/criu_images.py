"""The form of CRIU's image files: two magic numbers, then entries of protobuf, each after its length. Shipped.

Source: criu/include/magic.h and criu/protobuf.c of CRIU 4.
"""

from __future__ import annotations

import os
import re
import struct

from checkpoint.execute.criu import CriuError
from checkpoint.wire import protobuf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

COMMON = 0x54564319
FILES, IDS, FDINFO, CORE = 0x56303138, 0x54432030, 0x56213732, 0x55053847
TCP_STREAM, FILE_LOCKS, TIME_NAMESPACE, REMAPS = 0x51465506, 0x54323616, 0x43114433, 0x59133954
TERMINALS = 0x59453036
_IDS_FILES, _FD_FILE, _FD_NUMBER = 2, 1, 4  # images/core.proto, images/fdinfo.proto


def head(magic: int) -> bytes:
    """Make the first bytes of an image file of that kind."""
    return struct.pack("<II", COMMON, magic)


def entry(raw: bytes) -> bytes:
    """Put its length before an entry."""
    return struct.pack("<I", len(raw)) + raw


def first(image: bytes, magic: int, at: int = 8) -> tuple[bytes, int]:
    """Take the entry at `at`, by default the first: its bytes, and where what follows begins. Raises CriuError."""
    if image[:8] != head(magic):
        raise CriuError("it has another form than that of criu 4")
    size = int.from_bytes(image[at : at + 4], "little")
    raw = image[at + 4 : at + 4 + size]
    if len(image) < at + 4 or len(raw) != size:
        raise CriuError("it is cut short")
    return raw, at + 4 + size


def entries(image: bytes, magic: int) -> list[bytes]:
    """List the entries of an image file that has nothing else. Raises CriuError."""
    if image[:8] != head(magic):
        raise CriuError("it has another form than that of criu 4")
    out, at = [], 8
    while at < len(image):
        raw, at = first(image, magic, at)
        out.append(raw)
    return out


def holders(spool: str) -> Iterator[tuple[int, int, int]]:
    """Yield each file that a process has open: criu's id of it, pid and descriptor, as the job numbers them.

    The process with the lowest pid, as text, comes last. Raises CriuError, ProtobufError, OSError.
    """
    for name in sorted(os.listdir(spool), reverse=True):
        found = re.match(r"ids-(\d+)\.img$", name)
        if not found:
            continue
        with open(os.path.join(spool, name), "rb") as f:
            files = protobuf.integer(protobuf.decode(first(f.read(), IDS)[0]), _IDS_FILES) or 0
        with open(os.path.join(spool, f"fdinfo-{files}.img"), "rb") as f:
            rows = entries(f.read(), FDINFO)
        for fields in map(protobuf.decode, rows):
            yield protobuf.integer(fields, _FD_FILE) or 0, int(found[1]), protobuf.integer(fields, _FD_NUMBER) or 0
