"""Every operation passes one point: what changes is refused where nothing may be changed, and noted where it may."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from remoteio.submit.export.changes import Changes, state
from remoteio.submit.export.confine import HIDDEN, READ, Confinement, Mark
from remoteio.submit.export.written_files import WrittenFiles
from remoteio.wire import fuse_abi as abi
from tests.export_tree import Tree
from tests.hostile import Refused

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
def test_by_another_name_what_is_to_be_kept_is_seen_and_not_changed(
    tree: Callable[..., Tree], tmp_path: Path, op: int
) -> None:
    """Which files are to be kept is asked when one of several names is to be changed, not while it is only read."""
    asked: list[int] = []

    def linked(level: int) -> list[tuple[int, int]]:
        asked.append(level)
        st = (tmp_path / "file").stat()
        return [(st.st_dev, st.st_ino)] if level == READ else []

    made = tree(confinement=Confinement(linked=linked, devices=frozenset([tmp_path.stat().st_dev])))
    os.link(tmp_path / "file", tmp_path / "further")
    assert made.host.lookup(abi.ROOT_ID, b"file") == made.node
    handle = made.host.open(made.node, os.O_RDONLY)
    assert asked == [HIDDEN]
    before = (tmp_path / "file").stat()
    with pytest.raises(Refused) as raised:
        made.host.ask(op, *made.request(op, handle))
    by_handle = abi.OPERATIONS[op][3] == abi.CHANGES_OPEN  # it was opened to be read only
    assert raised.value.errno == (errno.EBADF if by_handle else errno.EROFS)
    assert asked == ([HIDDEN] if by_handle else [HIDDEN, READ])
    after = (tmp_path / "file").stat()
    assert (after.st_ctime_ns, after.st_size) == (before.st_ctime_ns, before.st_size)


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
