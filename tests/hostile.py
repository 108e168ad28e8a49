"""An execute host that sends what requests it likes, straight to the export."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from remoteio.submit.export.confine import Confinement
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.wire import fuse_abi as abi
from remoteio.wire import leases, left, listed
from remoteio.wire.frames import LEASED


class Refused(OSError):
    """The export's answer is an error."""


@dataclass
class Host:
    """Asks `export`; what is refused raises Refused, whose errno is the export's."""

    export: Export

    @classmethod
    def of(cls, root: Path | str, confinement: Confinement | None = None) -> Host:
        ids = ShownIds(os.geteuid(), os.getegid(), frozenset())
        return cls(Export(ids, str(root), confinement=confinement))

    def ask(self, op: int, node: int, arguments: bytes = b"") -> bytes:
        """The body of the answer."""
        answer = self.export.answer(abi.Request(abi.request(op, node, arguments, 9)))
        if answer is None:
            return b""
        payload = leases.split(answer[1])[3] if answer[0] == LEASED else answer[1]
        _, error, _ = abi.OUT_HEADER.unpack_from(payload)
        if error < 0:
            raise Refused(-error, os.strerror(-error))
        return bytes(payload[abi.OUT_HEADER.size :])

    def lookup(self, node: int, name: bytes) -> int:
        """The node of that name. Raises Refused(ENOENT)."""
        found = int(abi.ENTRY.unpack_from(self.ask(abi.LOOKUP, node, name + b"\0"))[0])
        if not found:
            raise Refused(errno.ENOENT, os.strerror(errno.ENOENT))
        return found

    def walk(self, path: Path | str) -> int:
        """The node of an absolute path without links."""
        node = abi.ROOT_ID
        for name in os.fsencode(path).strip(b"/").split(b"/"):
            node = self.lookup(node, name)
        return node

    def names(self, node: int) -> set[bytes]:
        """What READDIR, READDIRPLUS and LIST say is in a directory; they must agree."""
        (handle,) = struct.unpack_from("=Q", self.ask(abi.OPENDIR, node, abi.OPEN_IN.pack(0, 0)))
        seen = []
        plus = abi.ENTRY.size + abi.ATTR.size
        for op, fh, skip in ((abi.READDIR, handle, 0), (abi.READDIRPLUS, handle, plus), (abi.READDIR, abi.OWN, 0)):
            data = self.ask(op, node, abi.READ_IN.pack(fh, 0, 1 << 20, 0, 0, 0, 0))
            names, at = set(), 0
            while at < len(data):
                _, _, length, _ = abi.DIRENT.unpack_from(data, at + skip)
                start = at + skip + abi.DIRENT.size
                names.add(data[start : start + length])
                at += (skip + abi.DIRENT.size + length + 7) & ~7
            seen.append(names - {b".", b".."})
        self.ask(abi.RELEASEDIR, node, abi.RELEASE_IN.pack(handle, 0, 0, 0))
        assert seen[0] == seen[1] == seen[2] == self.ahead(node, seen[0]) == self.names_alone(node, seen[0])
        return seen[0]

    def ahead(self, node: int, if_large: set[bytes]) -> set[bytes]:
        """What LIST says is in a directory; of one that is too large for it, `if_large`."""
        try:
            ((_, _, entries, _),) = listed.parse(self.ask(abi.LIST, node, abi.LIST_IN.pack(1, 0)))
        except Refused as e:
            assert e.errno == errno.EAGAIN
            return if_large
        return {name for _, _, _, name, _, _ in listed.walk(entries)} - {b".", b".."}

    def names_alone(self, node: int, if_large: set[bytes]) -> set[bytes]:
        """The same of a LIST of the names alone."""
        try:
            told = self.ask(abi.LIST, node, abi.LIST_IN.pack(1, listed.NAMES))
        except Refused as e:
            assert e.errno == errno.EAGAIN
            return if_large
        return set(listed.parse_names(told)) - {b".", b".."}

    def open(self, node: int, flags: int) -> int:
        """A handle."""
        return int(abi.OPEN_OUT.unpack_from(self.ask(abi.OPEN, node, abi.OPEN_IN.pack(flags, 0)))[0])

    def read(self, node: int) -> bytes:
        handle = self.open(node, os.O_RDONLY)
        data = self.ask(abi.READ, node, abi.READ_IN.pack(handle, 0, 1 << 16, 0, 0, 0, 0))
        self.ask(abi.RELEASE, node, abi.RELEASE_IN.pack(handle, 0, 0, 0))
        return data


def whatever(op: int, nodes: list[int], handles: list[int], names: list[bytes]) -> list[tuple[int, bytes]]:
    """Every request of that operation that these nodes, handles and names give: (node, arguments) each."""
    found: list[tuple[int, bytes]] = []
    for node in nodes:
        for name in names:
            text = name + b"\0"
            found += {
                abi.LOOKUP: [(node, text)],
                abi.REMOVED: [(node, text)],
                abi.FETCH: [(node, b"")],
                abi.LEFT: [(0, left.pack(nodes))],
                abi.STATS: [(0, left.pack(nodes))],
                abi.LIST: [(node, abi.LIST_IN.pack(*how)) for how in ((0, 0), (8, 0), (1 << 31, 0), (1, 2))],
                abi.CREATE: [
                    (node, abi.CREATE_IN.pack(flags, 0o644, 0, 0) + text)
                    for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC)
                ],
                abi.MKNOD: [(node, abi.MKNOD_IN.pack(0o100644, 0, 0, 0) + text)],
                abi.MKDIR: [(node, abi.MKDIR_IN.pack(0o755, 0) + text)],
                abi.SYMLINK: [(node, text + b"/tmp\0")],
                abi.UNLINK: [(node, text)],
                abi.RMDIR: [(node, text)],
                abi.LINK: [(node, abi.LINK_IN.pack(old) + text) for old in nodes],
                abi.RENAME: [(node, abi.RENAME_IN.pack(to) + text + new + b"\0") for to in nodes for new in names],
                abi.RENAME2: [
                    (node, abi.RENAME2_IN.pack(to, flag, 0) + text + new + b"\0")
                    for to in nodes for new in names for flag in (1, 2)
                ],
                abi.OPENED: [
                    (0, abi.OPENED_ONE.pack(abi.OWN_FILES + node, node, flags, 0)) for flags in (os.O_RDONLY, os.O_RDWR)
                ],
                abi.SETXATTR: [(node, abi.SETXATTR_IN.pack(1, 0) + b"user.x\0" + b"1")],
                abi.REMOVEXATTR: [(node, b"user.kept\0")],
            }.get(op, [])  # fmt: skip
        if op == abi.SETATTR:
            for valid in (abi.FATTR_MODE, abi.FATTR_SIZE, abi.FATTR_MTIME, abi.FATTR_UID | abi.FATTR_GID):
                found.append((node, abi.SETATTR_IN.pack(valid, 0, 0, 1, 0, 5, 5, 0, 0, 0, 0, 0o777, 0, 1, 1, 0)))
            for handle in handles:
                size = abi.FATTR_SIZE | abi.FATTR_FH
                found.append((node, abi.SETATTR_IN.pack(size, 0, handle, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)))
        if op == abi.OPEN:
            flags = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_ACCMODE, os.O_TRUNC, os.O_RDWR | os.O_TRUNC)
            found += [(node, abi.OPEN_IN.pack(each, 1)) for each in flags]
        if op == abi.TMPFILE:
            found.append((node, abi.CREATE_IN.pack(os.O_RDWR, 0o644, 0, 0) + b"#1\0"))
        for handle in handles:
            found += {
                abi.WRITE: [(node, abi.WRITE_IN.pack(handle, 0, 4, how, 0, 0, 0) + b"EVIL") for how in (0, 1, 4, 5)],
                abi.FALLOCATE: [(node, abi.FALLOCATE_IN.pack(handle, 0, 9000, mode, 0)) for mode in (0, 3)],
                abi.COPY_FILE_RANGE: [(node, abi.COPY_IN.pack(each, 0, node, handle, 0, 9, 0)) for each in handles],
                abi.COPY_FILE_RANGE_64: [(node, abi.COPY_IN.pack(each, 0, node, handle, 0, 9, 0)) for each in handles],
            }.get(op, [])
    return found


def alone_with_its_mounts(export: Export) -> None:
    """Have what is mounted elsewhere on this machine, as other tests do all the time, take no lease back."""
    mounts = export.leases._mounts
    assert mounts is not None
    mounts.poll.unregister(mounts.fd)


@contextmanager
def leasing(top: Path) -> Iterator[Host]:
    """Have a host of the tree at `top`, to which home leases."""
    host = Host.of(top)
    assert host.export.leases.begin()
    alone_with_its_mounts(host.export)
    yield host
    host.export.close()
