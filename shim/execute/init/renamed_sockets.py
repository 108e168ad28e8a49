"""Unix sockets whose file was given another name after they were bound to it, in an image. Shipped.

haproxy and supervisord bind a socket to a name for the moment and rename its file, so that nobody finds the name
without a listener. The kernel shows the socket by the name it was bound to, and so the image has it: as one whose file
was removed. Restored so, the file under its new name would lead nowhere. In the image it gets that name instead.

To be called once criu has written the image, while the tree stands still.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from contextlib import suppress

from checkpoint.execute import criu_images, live_sockets
from checkpoint.wire import protobuf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    # the new name in the same directory, and what lstat(2) says of it
    Found = tuple[bytes, os.stat_result]

_FILES = "files.img"
# The numbers of their fields: images/fdinfo.proto, images/sk-unix.proto and images/fown.proto of CRIU.
_FILE_UNIX, _INODE, _NAME, _PERMS, _NAME_DIR, _DELETED = 16, 2, 11, 13, 14, 15
_MODE, _UID, _GID = 1, 2, 3
_SHOWN = 0xFFFFFFFF  # of an inode's number the kernel tells 32 bits
_LONGEST = 107  # bytes of a name that bind(2) takes: unix(7)


def follow(images: int) -> None:
    """Have the image in the directory `images` name such sockets as they are called now.

    Where two sockets have a file of one number, one of the files was removed, and neither is followed. Raises
    CriuError, ProtobufError, OSError.
    """
    with open(os.open(_FILES, os.O_RDWR | os.O_CLOEXEC, dir_fd=images), "r+b") as file:
        raw = file.read()
        sockets = live_sockets.unix()
        count = Counter(row.file for row in sockets)
        files = {row.inode: row.file for row in sockets if row.file and count[row.file] == 1}
        new = renamed(raw, lambda inode, path: _find(files[inode], path) if inode in files else None)
        if new != raw:
            file.seek(0)
            file.truncate()
            file.write(new)


def renamed(raw: bytes, find: Callable[[int, bytes], Found | None]) -> bytes:
    """Rewrite files.img. `find`: a socket's inode and old path → its name now. Raises CriuError, ProtobufError."""
    out = [criu_images.head(criu_images.FILES)]
    for entry in criu_images.entries(raw, criu_images.FILES):
        pieces = []
        for number, value, whole in protobuf.records(entry):
            if number == _FILE_UNIX and isinstance(value, bytes):
                whole = protobuf.encode([(_FILE_UNIX, _socket(value, find))])
            pieces.append(whole)
        out.append(criu_images.entry(b"".join(pieces)))
    return b"".join(out)


def _socket(raw: bytes, find: Callable[[int, bytes], Found | None]) -> bytes:
    fields = protobuf.decode(raw)
    name = protobuf.content(fields, _NAME)
    bare = name.rstrip(b"\0")
    path = os.path.join(protobuf.content(fields, _NAME_DIR), bare)
    found = find(protobuf.integer(fields, _INODE) or 0, path) if bare and path.startswith(b"/") else None
    if found is None:
        return raw
    new = os.path.join(os.path.dirname(bare), found[0])
    if len(new) > _LONGEST:
        return raw
    at = found[1]
    perms = protobuf.encode([(_MODE, at.st_mode), (_UID, at.st_uid), (_GID, at.st_gid)])
    kept = b"".join(whole for n, _, whole in protobuf.records(raw) if n not in (_NAME, _PERMS, _DELETED))
    return kept + protobuf.encode([(_NAME, new + name[len(bare) :]), (_PERMS, perms)])


def _find(inode: int, path: bytes) -> Found | None:
    """Look for the socket's file, if it is not at `path` any more, in that directory."""
    with suppress(FileNotFoundError):
        if os.lstat(path).st_ino & _SHOWN == inode:
            return None
    try:
        with os.scandir(os.path.dirname(path)) as entries:
            found = [entry for entry in entries if entry.inode() & _SHOWN == inode]
        for entry in found:
            at = entry.stat(follow_symlinks=False)
            if stat.S_ISSOCK(at.st_mode):
                return entry.name, at
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    return None
