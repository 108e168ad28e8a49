"""A job that walks a tree, whose directories are listed before it comes there, sees what is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from remoteio.wire.coherence import TTL
from tests.mounted import mounted
from tests.until import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts as root")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A tree of 4 x 4 x 4 directories with a file in each, and where it is mounted."""
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    for name in (f"{a}/{b}/{c}" for a in "abcd" for b in "efgh" for c in "ijkl"):
        (here / name).mkdir(parents=True)
        (here / name / "file").write_text(name)
    with mounted(here, there):
        yield here, there


def seen(top: Path) -> list[tuple[str, list[str], list[str]]]:
    return [(os.path.relpath(where, top), directories, sorted(files)) for where, directories, files in os.walk(top)]


def test_a_tree_is_walked_as_it_is(served: tuple[Path, Path]) -> None:
    here, there = served
    assert sorted(seen(there)) == sorted(seen(here))
    assert all((there / name / "file").read_text() == name for name in ("a/e/i", "d/h/l"))


def test_a_change_of_the_job_s_own_is_seen_in_what_it_walks_on_to(served: tuple[Path, Path]) -> None:
    here, there = served
    found = []
    for where, directories, files in os.walk(there):
        directories.sort()
        name = os.path.relpath(where, there)
        found += [f"{name}/{file}" for file in files]
        if name == "a/e/i":
            (there / "d/h/l/new").write_text("longer than it was")
            (there / "b/e/i/file").unlink()
            (there / "c/g").rename(there / "c/z")
            with (there / "b/e/j/file").open("a") as f:
                f.write(", and more")
        if name == "b/e/j":
            assert os.stat(f"{where}/file").st_size == len("b/e/j, and more")
    assert "d/h/l/new" in found and "b/e/i/file" not in found
    assert "c/z/i/file" in found and "c/g/i/file" not in found
    assert sorted(seen(there)) == sorted(seen(here))


def test_a_change_of_others_is_seen_within_the_ttl(served: tuple[Path, Path]) -> None:
    here, there = served
    walk = os.walk(there)
    for where, directories, _ in walk:
        directories.sort()
        if where.endswith("a/e/i"):
            break
    (here / "a/e/j/new").write_text("of others")
    until(lambda: "new" in os.listdir(there / "a/e/j"), "the new name is listed", within=10 * TTL)


def _read_again(fd: int) -> list[str]:
    os.lseek(fd, 0, os.SEEK_SET)
    return os.listdir(fd)


def test_a_directory_that_was_listed_ahead_is_read_again_and_synced(served: tuple[Path, Path]) -> None:
    """It tells what the job itself has made at once, and what others have within the TTL."""
    here, there = served
    for where, directories, _ in os.walk(there):
        directories.sort()
        fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY)
        try:
            first = sorted(os.listdir(fd))
            Path(where, "own").touch()
            assert sorted(_read_again(fd)) == sorted([*first, "own"])
            if where.endswith(("/a", "/a/e", "/d/h/l")):
                (here / os.path.relpath(where, there) / "late").touch()
                until(lambda: "late" in _read_again(fd), "the new name is listed", within=10 * TTL)  # noqa: B023
            os.fsync(fd)
        finally:
            os.close(fd)


def test_names_that_are_looked_up_directory_by_directory_are_as_they_are(served: tuple[Path, Path]) -> None:
    """What has come ahead of the lookups is told as long as the job has not changed it."""
    here, there = served
    for number, name in enumerate(f"{a}/{b}/{c}" for a in "abcd" for b in "efgh" for c in "ijkl"):
        within = there / name
        assert not (within / "absent").exists() and not (within / "none").exists()
        assert os.lstat(within / "file").st_size == os.lstat(here / name / "file").st_size
        assert (within / "new").exists() == (here / name / "new").exists() == (number == 42)
        if number == 40:
            after, behind = there / "c/g/k", there / "c/g/l"
            (after / "new").write_text("of the job's own")
            with (after / "file").open("a") as f:
                f.write(", and more")
            (behind / "file").write_text("longer than it was")
