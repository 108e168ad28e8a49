"""Execute side: files that the kernel wrongly says are deleted. Shipped.

From Linux 6.16 on, fuse_lookup (fs/fuse/dir.c) lets others see a new dentry before it has its epoch. Of several
processes that look up one name for the first time at once, a second may find it without, and drop it; the first then
holds its descriptor, mapping or executable under a dentry that has no place in the tree, and /proc calls it
"NAME (deleted)" although NAME is there. (The same comes of a file moved away at home and back again.)

CRIU looks for the file by what /proc says. While it is at work, and the job is not, a name that ends so and does not
exist stands for the name without that ending: at a dump, and at the restore that opens what the dump wrote down. If
that is nobody's either, the name was removed, and home knows of other names that the file has: the restore is given
one of these (checkpoint/execute/restore.py).
"""

from __future__ import annotations

import errno

from remoteio.wire import fuse_abi as abi

_MARK = b" (deleted)\0"


class FalseDeleted:
    """Follows the LOOKUPs of such names that are under way. Pure."""

    def __init__(self) -> None:
        self.criu = False  # it is at work, and the job is not
        # unique -> request; the name with one ending less, until home is asked who had it
        self._asked: dict[int, tuple[bytes, bytes]] = {}

    def asked(self, unique: int, raw: memoryview) -> bool:
        """Take note of a LOOKUP. True: it is of such a name, and home is to be asked."""
        if not self.criu or bytes(raw[-len(_MARK) :]) != _MARK:
            return False
        self._asked[unique] = bytes(raw), bytes(raw[abi.ARGS : -len(_MARK)]) + b"\0"
        return True

    def answered(self, unique: int, reply: bytes | memoryview) -> tuple[bytes | memoryview, bytes]:
        """Return what the kernel is to be told, and what home is asked first (if anything: then the kernel waits)."""
        if unique not in self._asked:
            return reply, b""
        raw, had = self._asked.pop(unique)
        _, error, _ = abi.OUT_HEADER.unpack_from(reply)
        nodeid = 0 if error else abi.ENTRY.unpack_from(reply, abi.OUT_HEADER.size)[0]
        if nodeid:
            return (reply if len(raw) == abi.ARGS + len(had) + len(_MARK) - 1 else _once(reply)), b""
        op = abi.IN_HEADER.unpack_from(raw)[1]
        if error not in (0, -errno.ENOENT) or op == abi.REMOVED:
            return reply, b""
        shorter = raw.endswith(_MARK)
        op, name = (op, raw[abi.ARGS : -len(_MARK)] + b"\0") if shorter else (abi.REMOVED, had)
        raw = abi.IN_HEADER.pack(abi.ARGS + len(name), op, *abi.IN_HEADER.unpack_from(raw)[2:]) + name
        self._asked[unique] = raw, had
        return b"", raw


def _once(reply: bytes | memoryview) -> bytes:
    """The same entry, not to be found again without asking: the job does not know the name."""
    nodeid, generation, _, attributes, _, nanoseconds = abi.ENTRY.unpack_from(reply, abi.OUT_HEADER.size)
    rest = bytes(reply[abi.OUT_HEADER.size + abi.ENTRY.size :])
    return (
        bytes(reply[: abi.OUT_HEADER.size]) + abi.ENTRY.pack(nodeid, generation, 0, attributes, 0, nanoseconds) + rest
    )
