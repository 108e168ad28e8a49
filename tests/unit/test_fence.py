"""What a job that stands still asks for meanwhile: nothing of it changes a file before it is known where the job is."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from remoteio.submit.export import fence
from remoteio.wire import frames
from remoteio.wire import fuse_abi as abi
from tests.export_tree import Tree
from tests.unit.test_dispatch import CHANGING

UNIQUE = 77


def request(made: Tree, op: int, handle: int) -> abi.Request:
    node, arguments = made.request(op, handle)
    return abi.Request(abi.request(op, node, arguments, UNIQUE))


def looks(top: Path) -> dict[str, tuple[int, int]]:
    return {name: ((top / name).lstat().st_ctime_ns, (top / name).lstat().st_size) for name in os.listdir(top)}


@pytest.mark.parametrize("op", CHANGING, ids=lambda op: abi.OPERATIONS[op][0])
def test_what_changes_is_kept_and_refused_once_the_job_is_elsewhere(
    tree: Callable[..., Tree], tmp_path: Path, op: int
) -> None:
    made = tree()
    handle = made.host.open(made.node, os.O_RDWR)
    export, before = made.host.export, looks(tmp_path)
    export.fence.keep()
    assert export.answer(request(made, op, handle)) is None
    export.fence.end()
    stale = frames.FUSE, abi.failure(UNIQUE, errno.ESTALE)
    assert export.answer(request(made, op, handle)) == stale
    export.fence.open()
    assert export.answer(request(made, op, handle)) == stale, "it is never lifted again"
    assert looks(tmp_path) == before and export.fence.kept() == []


def test_what_was_kept_is_done_once_if_the_job_goes_on_there(tree: Callable[..., Tree], tmp_path: Path) -> None:
    made = tree()
    handle = made.host.open(made.node, os.O_RDWR)
    export = made.host.export
    export.fence.keep()
    assert export.answer(request(made, abi.WRITE, handle)) is None
    assert (tmp_path / "file").read_bytes() == b"x" * 100
    assert made.host.ask(abi.GETATTR, made.node, bytes(abi.GETATTR_IN.size)), "what changes nothing is answered"
    export.fence.open()
    assert export.fence.opened
    kept = export.fence.kept()
    assert not export.fence.opened
    assert [export.answer(abi.Request(payload)) is not None for payload in kept] == [True]
    assert (tmp_path / "file").read_bytes() == b"ab" + b"x" * 98
    assert export.fence.kept() == []


def test_no_more_is_kept_than_a_kernel_has_under_way(
    tree: Callable[..., Tree], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tree()
    handle = made.host.open(made.node, os.O_RDWR)
    monkeypatch.setattr(fence, "MOST", 2)
    made.host.export.fence.keep()
    for _ in range(2):
        assert made.host.export.answer(request(made, abi.WRITE, handle)) is None
    with pytest.raises(abi.FuseError, match="a job that stands still changes files"):
        made.host.export.answer(request(made, abi.WRITE, handle))
