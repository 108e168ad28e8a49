"""The form of CRIU's image files: two magic numbers, then entries of protobuf, each after its length. Shipped.

Source: criu/include/magic.h and criu/protobuf.c of CRIU 4.
"""

from __future__ import annotations

import re
import struct

from checkpoint.execute.criu import CriuError
from checkpoint.wire import protobuf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from checkpoint.execute.spool import Spool

COMMON = 0x54564319
FILES, IDS, FDINFO, CORE = 0x56303138, 0x54432030, 0x56213732, 0x55053847
TCP_STREAM, FILE_LOCKS, TIME_NAMESPACE, REMAPS = 0x51465506, 0x54323616, 0x43114433, 0x59133954
TERMINALS, TREE = 0x59453036, 0x50273030
FILES_NAME = "files.img"
_IDS_FILES, _FD_FILE, _FD_NUMBER = 2, 1, 4  # images/core.proto, images/fdinfo.proto
_FILE_TYPE, _FILE_REGULAR, _REGULAR_NAME = 1, 3, 6  # images/fdinfo.proto, images/regfile.proto


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


def kinds(names: list[str], files: bytes) -> list[str]:
    """List what kinds of resources an image has: those of its files, and by their names those of its image files.

    `files`: files.img; a kind of file is criu's number of it (fd_types, images/fdinfo.proto), with "removed" for a
    regular file without a name. Raises CriuError.
    """
    found = {re.sub(r"(-[0-9a-f]+)+$", "", name[:-4]) for name in names if name.endswith(".img")}
    for raw in entries(files, FILES):
        try:
            fields = protobuf.decode(raw)
            found.add("file %d" % (protobuf.integer(fields, _FILE_TYPE) or 0))
            regular = protobuf.decode(protobuf.content(fields, _FILE_REGULAR))
            if protobuf.content(regular, _REGULAR_NAME).endswith(b" (deleted)"):
                found.add("removed")
        except protobuf.ProtobufError as e:
            raise CriuError(f"an entry of it {e}") from e
    return sorted(found)


def holders(spool: Spool) -> Iterator[tuple[int, int, int]]:
    """Yield each file that a process has open: criu's id of it, pid and descriptor, as the job numbers them.

    The process with the lowest pid, as text, comes last. Raises CriuError, ProtobufError, OSError.
    """
    for name in reversed(spool.names()):
        found = re.match(r"ids-(\d+)\.img$", name)
        if not found:
            continue
        files = protobuf.integer(protobuf.decode(first(spool.read(name), IDS)[0]), _IDS_FILES) or 0
        rows = entries(spool.read(f"fdinfo-{files}.img"), FDINFO)
        for fields in map(protobuf.decode, rows):
            yield protobuf.integer(fields, _FD_FILE) or 0, int(found[1]), protobuf.integer(fields, _FD_NUMBER) or 0
