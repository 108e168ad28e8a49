"""Every operation passes one point: what changes is refused where nothing may be changed, and noted where it may."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remoteio.submit.export.changes import Changes, state
from remoteio.submit.export.confine import HIDDEN, READ, Confinement, Mark
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.submit.export.written_files import WrittenFiles
from remoteio.wire import fuse_abi as abi
from tests.hostile import Host, Refused

CHANGING = sorted(op for op, row in abi.OPERATIONS.items() if row[3] != abi.READS)
# What these make or remove is no file that was there before and holds data: there is nothing to put back.
MAKING = {abi.SYMLINK, abi.MKNOD, abi.MKDIR, abi.RMDIR, abi.TMPFILE}
EFFECTS = {
    abi.READS, abi.CHANGES_NODE, abi.CHANGES_OPEN, abi.MAY_CHANGE, abi.MAKES_NAME, abi.LINKS, abi.REMOVES_NAME,
    abi.MOVES_NAMES,
}  # fmt: skip
# Those of the kernel's operations (fuse.h) that change a file, a directory, or what is known of one.
KERNEL_CHANGES = {
    "setattr", "symlink", "mknod", "mkdir", "unlink", "rmdir", "rename", "link", "open", "write", "setxattr",
    "removexattr", "create", "fallocate", "rename2", "copy_file_range", "tmpfile", "copy_file_range_64",
}  # fmt: skip


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


def test_every_operation_says_what_it_changes() -> None:
    assert {row[3] for row in abi.OPERATIONS.values()} == EFFECTS
    assert {abi.OPERATIONS[op][0] for op in CHANGING} == KERNEL_CHANGES


@pytest.mark.parametrize("op", CHANGING, ids=lambda op: abi.OPERATIONS[op][0])
@pytest.mark.parametrize("level", [READ, HIDDEN])
def test_what_changes_is_refused_where_nothing_may_be_changed(
    tree: Callable[..., Tree], tmp_path: Path, op: int, level: int
) -> None:
    """In a tree that may only be read; and of the file alone, if it has been hidden since the kernel learnt of it."""
    made = tree(confinement=Confinement([Mark(b"/", READ, None)]) if level == READ else None)
    handle = made.host.open(made.node, os.O_RDONLY)
    if level == HIDDEN:
        for known in (abi.ROOT_ID, made.node):
            made.host.export.inodes.get(known).rights = Confinement([Mark(b"/", HIDDEN, None)]).top
    before = {name: (tmp_path / name).lstat() for name in os.listdir(tmp_path)}
    with pytest.raises(Refused) as raised:
        made.host.ask(op, *made.request(op, handle))
    # A file that was opened to be read only is not written to, whatever may be done with it.
    by_handle = abi.OPERATIONS[op][3] == abi.CHANGES_OPEN
    allowed = {errno.EBADF} if by_handle else {errno.EROFS} if level == READ else {errno.EROFS, errno.EACCES}
    assert raised.value.errno in allowed
    after = {name: (tmp_path / name).lstat() for name in os.listdir(tmp_path)}
    assert {name: (st.st_ctime_ns, st.st_size) for name, st in after.items()} == {
        name: (st.st_ctime_ns, st.st_size) for name, st in before.items()
    }


@pytest.mark.parametrize("op", sorted(set(CHANGING) - MAKING), ids=lambda op: abi.OPERATIONS[op][0])
def test_what_changes_is_noted(tree: Callable[..., Tree], tmp_path: Path, op: int) -> None:
    changes = Changes()
    made = tree(record=WrittenFiles(changes))
    handle = made.host.open(made.node, os.O_RDWR)
    write = abi.WRITE_IN.pack(handle, 100, 1, 0, 0, 0, 0) + b"y"
    made.host.ask(abi.WRITE, made.node, write)
    st = (tmp_path / "file").stat()
    noted = changes.file((st.st_dev, st.st_ino))
    assert noted.since is not None and noted.since.last == state(st)
    made.host.ask(op, *made.request(op, handle))
    now = os.fstat(made.host.export.inodes.handle(handle).fd)
    assert state(now) != state(st)
    since = noted.since
    assert since is not None and not since.others
    assert since.removed if op in (abi.UNLINK, abi.RENAME, abi.RENAME2) else since.last == state(now)
