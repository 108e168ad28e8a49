"""What is mounted or unmounted here takes back what leads elsewhere by that, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from remoteio.execute import mount
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.wire import fuse_abi as abi
from remoteio.wire import leases as wire
from remoteio.wire.frames import LEASED, FrameReader
from shim.execute.init import namespaces
from tests.forked import in_a_fork

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts as root")
ALL = (wire.EVERYTHING, b"")


class Told:
    """An export of `top`, in which the names in `dir` and `dir/inner` were told under leases."""

    def __init__(self, top: Path) -> None:
        for name in ("dir/inner/deep", "dir/file", "other/place"):
            (top / name).mkdir(parents=True)
        self.top = top
        self.export = Export(ShownIds(0, 0, frozenset()), str(top))
        assert self.export.leases.begin()
        self.dir = self.look(abi.ROOT_ID, b"dir")
        self.inner = self.look(self.dir, b"inner")
        self.look(self.dir, b"file"), self.look(self.inner, b"deep")
        assert self.broken() == []

    def look(self, node: int, name: bytes) -> int:
        answer = self.export.answer(abi.Request(abi.request(abi.LOOKUP, node, name + b"\0", 1)))
        assert answer is not None and answer[0] == LEASED
        _, what, _, payload = wire.split(answer[1])
        assert what & wire.NAME
        return int(abi.ENTRY.unpack_from(payload, abi.OUT_HEADER.size)[0])

    def broken(self) -> list[tuple[int, bytes]]:
        return [item for _, payload in FrameReader().feed(self.export.leases.due()) for item in wire.broken(payload)]

    def mount(self, name: str, kind: str = "tmpfs") -> None:
        mount.mount("x", str(self.top / name), kind)

    def unmount(self, name: str) -> None:
        mount.unmount(str(self.top / name))


def elsewhere(top: Path, body: Callable[[Told], None]) -> None:
    def alone() -> None:
        namespaces.unshare(namespaces.CLONE_NEWNS)
        mount.make_private()
        told = Told(top)
        body(told)
        told.export.close()

    in_a_fork(alone)


def test_a_mount_elsewhere_takes_nothing_back(tmp_path: Path) -> None:
    def body(told: Told) -> None:
        told.mount("other/place")
        assert told.broken() == []
        (told.top / "other/place/with a space").mkdir()
        told.mount("other/place/with a space")
        assert told.broken() == []
        told.unmount("other/place/with a space")
        assert told.broken() == []
        told.unmount("other/place")
        assert told.broken() == []

    elsewhere(tmp_path, body)


def test_a_mount_takes_the_name_back_that_it_covers(tmp_path: Path) -> None:
    def body(told: Told) -> None:
        for name, node in (("dir/inner", told.dir), ("dir", abi.ROOT_ID), ("dir/inner/deep", told.inner)):
            covered = os.fsencode(name.rpartition("/")[2])
            told.mount(name)
            assert told.broken() == [(node, covered)]
            was = told.look(node, covered)
            told.unmount(name)
            assert (node, covered) in told.broken()
            assert told.look(node, covered) != was

    elsewhere(tmp_path, body)


def test_one_mounted_over_another_takes_the_name_back_too(tmp_path: Path) -> None:
    def body(told: Told) -> None:
        told.mount("dir/inner")
        assert told.broken() == [(told.dir, b"inner")]
        told.look(told.dir, b"inner")
        told.mount("dir/inner")
        assert told.broken() == [(told.dir, b"inner")]
        told.look(told.dir, b"inner")
        told.unmount("dir/inner")
        told.unmount("dir/inner")
        assert (told.dir, b"inner") in told.broken()

    elsewhere(tmp_path, body)


def test_what_nobody_can_tell_takes_everything_back(tmp_path: Path) -> None:
    def body(told: Told) -> None:
        told.mount("other/place")
        told.unmount("other/place")
        assert told.broken() == [ALL], "it has come and gone"
        told.mount("dir/inner")
        told.mount("dir")
        assert told.broken() == [ALL], "one is hidden below another"

    elsewhere(tmp_path, body)


def test_a_mount_in_a_filesystem_that_may_not_answer_takes_everything_back(tmp_path: Path) -> None:
    from remoteio.submit.export import mounted_over

    def body(told: Told) -> None:
        told.mount("other", "ramfs")
        told.broken()
        (told.top / "other/place").mkdir()
        mounted_over._QUICK = mounted_over._QUICK - {"ramfs"}
        told.mount("other/place")
        assert told.broken() == [ALL]

    elsewhere(tmp_path, body)
