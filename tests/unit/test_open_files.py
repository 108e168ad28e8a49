"""Which open files an image may take in: those that criu finds again by the name it has put there."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from remoteio.submit.export.written_files import OpenFiles, opened
from remoteio.wire import fuse_abi as abi
from tests.export_tree import Tree
from tests.hostile import Refused

Made = Callable[..., Tree]


def seen(made: Tree) -> OpenFiles:
    return opened(made.host.export.inodes)


def told(made: Tree) -> None:
    """The job's kernel asks for the attributes."""
    made.host.ask(abi.GETATTR, made.node, abi.GETATTR_IN.pack(0, 0, 0))


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
def test_a_file_that_was_renamed_or_replaced_here(tree: Made, tmp_path: Path, flags: int) -> None:
    made, path = tree(), tmp_path / "file"
    made.host.open(made.node, flags)
    row = (b"/file", path.stat().st_ino, flags == os.O_RDWR)
    assert seen(made) == OpenFiles([row], [])
    path.rename(tmp_path / "aside")
    assert seen(made) == OpenFiles([], [(b"/file", False)])
    path.write_bytes(bytes(100))
    assert seen(made) == OpenFiles([], [(b"/file", False)])
    (tmp_path / "aside").rename(path)
    assert seen(made) == OpenFiles([row], []), "it was put back"


def test_the_directory_of_a_file_was_renamed_here(tree: Made, tmp_path: Path) -> None:
    made = tree()
    (tmp_path / "empty/inner").touch()
    made.host.open(made.host.lookup(made.empty, b"inner"), os.O_RDONLY)
    (tmp_path / "empty").rename(tmp_path / "aside")
    assert seen(made) == OpenFiles([], [(b"/empty/inner", False)])
    (tmp_path / "empty").symlink_to("aside")
    assert [path for path, *_ in seen(made).rows] == [b"/empty/inner"], "the name leads there again"


def test_a_file_that_was_removed_here_counts_once_the_kernel_knows(tree: Made, tmp_path: Path) -> None:
    """Until then criu takes the name that the kernel remembers; from then on the contents go into the image."""
    made, path = tree(), tmp_path / "file"
    made.host.open(made.node, os.O_RDWR)
    path.unlink()
    assert seen(made) == OpenFiles([], [(b"/file", True)])
    path.write_bytes(bytes(100))
    assert seen(made) == OpenFiles([], [(b"/file", True)])
    told(made)
    assert seen(made) == OpenFiles([], [])


def test_a_file_whose_name_the_job_has_taken_away(tree: Made, tmp_path: Path) -> None:
    made, root = tree(), abi.ROOT_ID
    made.host.open(made.node, os.O_RDWR)
    made.host.ask(abi.RENAME, root, abi.RENAME_IN.pack(root) + b"file\0new\0")
    assert [path for path, *_ in seen(made).rows] == [b"/new"]
    made.host.ask(abi.UNLINK, root, b"new\0")
    (tmp_path / "new").touch()
    assert seen(made) == OpenFiles([], []), "its contents are in the image"
    made.host.ask(abi.TMPFILE, root, abi.CREATE_IN.pack(os.O_RDWR, 0o644, 0, 0) + b"/\0")
    assert seen(made) == OpenFiles([], [])


def test_a_file_of_several_names(tree: Made, tmp_path: Path) -> None:
    made, path = tree(), tmp_path / "file"
    made.host.open(made.node, os.O_RDWR)
    made.host.ask(abi.LINK, abi.ROOT_ID, abi.LINK_IN.pack(made.node) + b"other\0")
    made.host.ask(abi.UNLINK, abi.ROOT_ID, b"other\0")
    row = (b"/file", path.stat().st_ino, True)
    assert seen(made).rows == [row], "it is still the name that it was opened by"
    made.host.ask(abi.LINK, abi.ROOT_ID, abi.LINK_IN.pack(made.node) + b"other\0")
    path.rename(tmp_path / "aside")
    path.write_bytes(bytes(100))
    assert seen(made) == OpenFiles([], [(b"/file", False)]), "it may have been opened by that one"


def test_a_file_that_was_renamed_here_and_seen_by_its_new_name(tree: Made, tmp_path: Path) -> None:
    made, path = tree(), tmp_path / "file"
    made.host.open(made.node, os.O_RDWR)
    path.rename(tmp_path / "aside")
    path.write_bytes(bytes(100))
    assert made.host.lookup(abi.ROOT_ID, b"aside") == made.node
    assert seen(made) == OpenFiles([], [(b"/file", False)])


def removed(made: Tree, name: bytes) -> int:
    """The node that the relay is told of for criu; 0: none."""
    try:
        return int(abi.ENTRY.unpack_from(made.host.ask(abi.REMOVED, abi.ROOT_ID, name + b"\0"))[0])
    except Refused as e:
        assert e.errno == errno.ENOENT
        return 0


def test_a_file_whose_name_was_removed_while_it_has_another(tree: Made, tmp_path: Path) -> None:
    """criu finds it by the name that is gone, and the image is given the other."""
    made = tree()
    made.host.open(made.node, os.O_RDWR)
    made.host.ask(abi.LINK, made.empty, abi.LINK_IN.pack(made.node) + b"other\0")
    row = (b"/empty/other", (tmp_path / "file").stat().st_ino, True)
    assert removed(made, b"file") == made.node, "it has it still"
    made.host.ask(abi.UNLINK, abi.ROOT_ID, b"file\0")
    assert seen(made) == OpenFiles([row], [], [(b"/file", b"/empty/other")])
    assert removed(made, b"file") == made.node
    assert not removed(made, b"other") and not removed(made, b"none")
    (tmp_path / "file (deleted)").touch()
    assert seen(made) == OpenFiles([row], []), "the image may mean that one"
    (tmp_path / "file (deleted)").unlink()
    (tmp_path / "empty/other").rename(tmp_path / "empty/away")
    assert not removed(made, b"file"), "nobody knows where it is"


def test_two_files_that_had_one_name(tree: Made, tmp_path: Path) -> None:
    made = tree()
    made.host.open(made.node, os.O_RDONLY)
    for name in (b"other", b"another"):
        node = made.host.lookup(abi.ROOT_ID, b"file")
        made.host.ask(abi.LINK, made.empty, abi.LINK_IN.pack(node) + name + b"\0")
        made.host.ask(abi.UNLINK, abi.ROOT_ID, b"file\0")
        (tmp_path / "file").touch()
        made.host.open(made.host.lookup(abi.ROOT_ID, b"file"), os.O_RDONLY)
    assert not removed(made, b"file")
