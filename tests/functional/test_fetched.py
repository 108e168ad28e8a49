"""A job that reads the files of a directory, which are opened before it comes to them, reads what is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import mounted

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts as root")
COUNT = 120


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A directory of COUNT files, and where it is mounted."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    for k in range(COUNT):
        (here / f"{k:03}").write_text(f"file {k}")
    with mounted(here, there):
        yield here, there


def asks_home(there: Path) -> None:
    """Have home asked for what nobody but it knows: what has changed there comes ahead of the answer."""
    assert os.statvfs(there).f_blocks


@pytest.mark.parametrize("order", ["name", "listed", "inode"])
def test_a_directory_is_read_as_it_is(served: tuple[Path, Path], order: str) -> None:
    here, there = served
    found = list(os.scandir(there))
    if order != "listed":
        found.sort(key=lambda each: each.name if order == "name" else f"{each.inode():020}")
    assert [Path(each.path).read_bytes() for each in found] == [(here / each.name).read_bytes() for each in found]


@pytest.mark.parametrize("how", ["written", "appended", "replaced", "removed"])
def test_a_change_of_others_is_seen_by_who_has_heard_of_it(served: tuple[Path, Path], how: str) -> None:
    here, there = served
    for k, name in enumerate(sorted(os.listdir(there))):
        at = f"{k + 2:03}"
        if k % 10 == 7:  # the one after the next: it has been fetched
            if how == "replaced":
                (here / "new").write_text(f"{how} {k}")
                (here / "new").rename(here / at)
            elif how == "removed":
                (here / at).unlink()
            else:
                with open(here / at, "a" if how == "appended" else "w") as file:
                    file.write(f"{how} {k}")
            asks_home(there)
        if how == "removed" and k % 10 == 9:
            continue  # a name that is gone is seen within the TTL, as all names are
        assert (there / name).read_text() == (here / name).read_text()


def test_a_change_of_the_job_s_own_is_seen(served: tuple[Path, Path]) -> None:
    _, there = served
    for k, name in enumerate(sorted(os.listdir(there))):
        after = there / f"{k + 2:03}"
        if k % 10 == 7:
            after.write_text(f"of its own {k}")
        elif k % 10 == 4:
            with after.open("a") as file:
                file.write(", and more")
        elif k % 10 == 1:
            os.truncate(after, 3)
        told = {9: f"of its own {k - 2}", 6: f"file {k}, and more", 3: "fil"}.get(k % 10, f"file {k}")
        assert (there / name).read_text() == told


def test_files_that_are_kept_open_are_read_to_their_end(served: tuple[Path, Path]) -> None:
    here, there = served
    files = [(there / name).open("rb", buffering=0) for name in sorted(os.listdir(there))]
    for k, file in enumerate(files):
        (here / f"{k:03}").unlink()
        assert file.read(4) == b"file" and file.read() == b" %d" % k
        file.close()
