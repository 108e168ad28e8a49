"""A small tree that is exported, with a request for each operation that changes it: the fixture `tree`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remoteio.submit.export.confine import Confinement
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.submit.export.written_files import WrittenFiles
from remoteio.wire import fuse_abi as abi
from tests.hostile import Host


class Tree:
    """In `top`: `file`, open as `handle`, `beside` it a second, and an `empty` directory."""

    def __init__(self, top: Path, record: WrittenFiles | None = None, confinement: Confinement | None = None) -> None:
        self.top = top
        for name in ("file", "beside"):
            (top / name).write_bytes(b"x" * 100)
            os.setxattr(top / name, "user.kept", b"1")
        (top / "empty").mkdir()
        ids = ShownIds(os.geteuid(), os.getegid(), frozenset())
        self.host = Host(Export(ids, str(top), record, confinement))
        self.node, self.empty = self.host.lookup(abi.ROOT_ID, b"file"), self.host.lookup(abi.ROOT_ID, b"empty")

    def request(self, op: int, handle: int) -> tuple[int, bytes]:
        """(node, arguments) of a request that changes `file`, or what has a name in `top`."""
        root, node = abi.ROOT_ID, self.node
        owner = abi.SETATTR_IN.pack(abi.FATTR_SIZE, 0, 0, 50, *[0] * 12)
        copy = abi.COPY_IN.pack(handle, 0, node, handle, 200, 10, 0)
        return {
            abi.SETATTR: (node, owner),
            abi.SETXATTR: (node, abi.SETXATTR_IN.pack(1, 0) + b"user.new\0001"),
            abi.REMOVEXATTR: (node, b"user.kept\0"),
            abi.OPEN: (node, abi.OPEN_IN.pack(os.O_WRONLY | os.O_TRUNC, 0)),
            abi.WRITE: (node, abi.WRITE_IN.pack(handle, 0, 2, 0, 0, 0, 0) + b"ab"),
            abi.FALLOCATE: (node, abi.FALLOCATE_IN.pack(handle, 0, 300, 0, 0)),
            abi.COPY_FILE_RANGE: (node, copy),
            abi.COPY_FILE_RANGE_64: (node, copy),
            abi.CREATE: (root, abi.CREATE_IN.pack(os.O_WRONLY | os.O_TRUNC, 0o644, 0, 0) + b"file\0"),
            abi.SYMLINK: (root, b"new\0target\0"),
            abi.MKNOD: (root, abi.MKNOD_IN.pack(0o100644, 0, 0, 0) + b"new\0"),
            abi.MKDIR: (root, abi.MKDIR_IN.pack(0o755, 0) + b"new\0"),
            abi.TMPFILE: (root, abi.CREATE_IN.pack(os.O_RDWR, 0o644, 0, 0) + b"/\0"),
            abi.LINK: (root, abi.LINK_IN.pack(node) + b"new\0"),
            abi.UNLINK: (root, b"file\0"),
            abi.RMDIR: (root, b"empty\0"),
            abi.RENAME: (root, abi.RENAME_IN.pack(root) + b"file\0new\0"),
            abi.RENAME2: (root, abi.RENAME2_IN.pack(root, 2, 0) + b"file\0beside\0"),
        }[op]


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Callable[..., Tree]]:
    made: list[Tree] = []

    def make(record: WrittenFiles | None = None, confinement: Confinement | None = None) -> Tree:
        made.append(Tree(tmp_path, record, confinement))
        return made[-1]

    yield make
    for each in made:
        each.host.export.inodes._check()
        each.host.export.inodes.close_all()
