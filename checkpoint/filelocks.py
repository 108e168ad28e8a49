"""CRIU's image of file locks, with those added that its host's kernel knows nothing of. Shipped.

Format: images/file-lock.proto and criu/include/magic.h of CRIU; criu takes each lock again, in the process and through
the descriptor that the entry names.
"""

from __future__ import annotations

import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_NAME = "filelocks.img"
_HEAD = struct.pack("<II", 0x54564319, 0x54323616)
_POSIX, _FLOCK = 1, 2  # FL_POSIX, FL_FLOCK: linux/fs.h


def add(spool: str, locks: Iterable[tuple[bool, int, int, int, int, int]]) -> None:
    """Add locks (flock, F_RDLCK or F_WRLCK, pid, descriptor, start, length) to the image in the directory `spool`.

    Raises OSError.
    """
    data = b"".join(_entry(*lock) for lock in locks)
    if not data:
        return
    path = os.path.join(spool, _NAME)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with open(fd, "ab") as file:
        file.write((b"" if os.fstat(fd).st_size else _HEAD) + data)


def _entry(flock: bool, kind: int, pid: int, fd: int, start: int, length: int) -> bytes:
    fields = enumerate((_FLOCK if flock else _POSIX, kind, pid, fd, start, length), 1)
    message = b"".join(_varint(number << 3) + _varint(value) for number, value in fields)
    return struct.pack("<I", len(message)) + message


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))
