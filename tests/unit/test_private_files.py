"""The files of a job's own directories, into an image and back: what is refused, and what a damaged list may not do."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from checkpoint.execute.preflight import ipc
from remoteio.errors import RexecError
from shim.execute.init import private_files
from shim.execute.init.private_files import INDEX, MOST_BYTES, Place, Row, obstacle, restore, save
from shim.execute.init.removed_names import RemovedNames


def place(path: Path) -> Place:
    path.mkdir()
    return Place(str(path))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def test_more_than_an_image_takes_is_refused_with_a_sentence(tmp_path: Path, images: Path) -> None:
    own = place(tmp_path / "own")
    assert obstacle([own]) == ""
    with (tmp_path / "own/sparse").open("wb") as file:
        file.truncate(MOST_BYTES * 100)
    assert obstacle([own]) == ""  # what is not there takes no room
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(private_files, "MOST_BYTES", 1 << 20)
        (tmp_path / "own/large").write_bytes(b"x" * ((1 << 20) + 1))
        assert "and 0 GiB is the most that goes along: remove some" in obstacle([own])
        with pytest.raises(RexecError, match="is the most that goes along"):
            save([own], os.open(images, os.O_RDONLY), [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(private_files, "MOST_FILES", 2)
        assert "the job has 3 files in /dev/shm and --scratch directories, and 2 is the most" in obstacle([own])


def test_what_every_host_has_is_passed_over(tmp_path: Path, images: Path) -> None:
    """/dev has links and devices of its own at each host."""
    own, there = tmp_path / "own", tmp_path / "there"
    for path in (own, there):
        path.mkdir()
        (path / "stdin").symlink_to("/proc/self/fd/0")
        (path / "null").touch()
    at, other = Place(str(own)), Place(str(there))
    (own / "log").write_text("the job's")
    (own / "other").write_text("another")
    (own / "other").rename(own / "stdin")
    fd = os.open(images, os.O_RDONLY)
    save([at], fd, [(0, "a")])
    assert restore([other], fd) == [[0, "a"]]
    assert (there / "log").read_text() == "the job's" and (there / "stdin").read_text() == "another"
    os.close(fd)


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out", "a//b", "link/out"])
def test_a_list_leads_nowhere_else(name: str, tmp_path: Path, images: Path) -> None:
    """An image comes from another host: it may not have this one write where the job's own directories are not."""
    own, other = place(tmp_path / "own"), place(tmp_path / "other")
    (tmp_path / "own/link").symlink_to("..")
    (tmp_path / "own/x").write_text("x")
    fd = os.open(images, os.O_RDONLY)
    save([own], fd, [])
    said = json.loads((images / INDEX).read_text())
    said[0][0][-1][0] = name
    (images / INDEX).write_text(json.dumps(said))
    with pytest.raises((RexecError, OSError)):
        restore([other], fd)
    assert not (tmp_path / "out").exists()
    os.close(fd)


def test_a_list_of_another_shape_is_damaged(tmp_path: Path) -> None:
    """Where these run there are no asserts: shim/execute/stage.py compiles without them."""
    row = ["f", 0o100600, 0, 0, 0, 0, 4, "", False, [[0, 0, 4]], []]
    assert Row.of(list(row)).plain()[-2] == [(0, 0, 4)]
    for number in (9, 10):
        with pytest.raises(RexecError, match="the list of its own files is damaged"):
            Row.of([*row[:number], "text", *row[number + 1 :]])
    with pytest.raises(RexecError, match="the image's list of names is damaged"):
        RemovedNames([place(tmp_path / "own")], str(tmp_path)).adopt("text")


def test_a_device_is_named(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        own = place(tmp_path / "own")
        os.mknod(tmp_path / "own/device", 0o20600, os.makedev(1, 3))
        assert obstacle([own]) == f"the job has made the device {tmp_path}/own/device, which is not saved"


@pytest.mark.parametrize(
    ("kinds", "release", "said"),
    [
        ([], "5.10.0-30-amd64", ""),
        (["sem"], "6.12.48+deb13-amd64", ""),
        (["sem", "msg"], "6.8.0-45-generic", "semaphores or message queues, which CRIU can save only as root before"),
        (["shm", "sem"], "6.18.5", "shared memory (`ipcs -m` lists it), which CRIU can save only as root"),
    ],
)
def test_system_v_ipc_that_only_root_can_save(kinds: list[str], release: str, said: str) -> None:
    assert bool(ipc(kinds, True, release)) == bool(said)
    assert not said or said in ipc(kinds, True, release)[0]
    assert not ipc(kinds, False, release)
