"""Private space in a directory that is open to all: nobody's planted name makes it take, or remove, another's files."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest

from remoteio.errors import RexecError
from shim.execute.init.private_dirs import Scratch


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """As /var/tmp is."""
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o1777)
    return open_to_all


def scratch(place: Path, kind: str = "") -> Scratch:
    return Scratch(os.geteuid(), os.getegid(), kind, str(place))


def named(place: Path) -> Path:
    return place / f"rexec-{os.geteuid()}"


def test_made_private_and_removed(place: Path) -> None:
    one, other = scratch(place), scratch(place, "spool")
    made = [Path(one.make()), Path(one.make()), Path(other.make())]
    assert len(set(made)) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in (*made, named(place))} == {0o700}
    (made[0] / "a/b").mkdir(parents=True)
    (made[0] / "a/b/file").touch()
    (made[0] / "a").chmod(0)
    (made[0] / "out").symlink_to(place)
    one.remove()
    assert list(named(place).iterdir()) == [made[2]]
    other.remove()
    assert list(place.iterdir()) == []


def test_what_is_not_ours_is_not_removed(place: Path) -> None:
    named(place).mkdir(0o700)
    for name in ("Documents", "1-2-3", "12-spool", "7-0x"):
        (named(place) / name / "work").mkdir(parents=True)
    left = named(place) / "99-spool0"
    left.mkdir()
    (left / "out").symlink_to(named(place) / "Documents")
    (named(place) / "98-0").symlink_to(named(place) / "Documents")
    held = named(place) / "97-1"
    held.mkdir()
    fd = os.open(held, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    mine = scratch(place)
    mine.make()
    mine.remove()
    os.close(fd)
    assert not left.exists() and held.exists()
    assert (named(place) / "Documents/work").is_dir() and (named(place) / "1-2-3/work").is_dir()


@pytest.mark.parametrize("how", ["link", "file", "open to all", "dangling", "another's"])
def test_a_name_that_is_taken_is_left_alone(place: Path, tmp_path: Path, how: str) -> None:
    """A link there led to a directory of the victim's, and all in it that nobody had locked was removed."""
    victim = tmp_path / "victim"
    (victim / "1-0").mkdir(parents=True)
    (victim / "Documents").mkdir()
    if how == "link":
        named(place).symlink_to(victim)
    elif how == "dangling":
        named(place).symlink_to(tmp_path / "nowhere")
    elif how == "file":
        named(place).touch()
    else:
        named(place).mkdir()
        named(place).chmod(0o777 if how == "open to all" else 0o700)
        if how == "another's":
            os.chown(named(place), 65534, 65534)
    before = named(place).lstat()
    mine = scratch(place)
    made = Path(mine.make())
    assert made.parent.parent == place and made.parent != named(place)
    assert stat.S_IMODE(made.parent.stat().st_mode) == 0o700
    mine.remove()
    assert list(place.iterdir()) == [named(place)]
    assert named(place).lstat() == before
    assert sorted(path.name for path in victim.iterdir()) == ["1-0", "Documents"]


def test_many_at_once(place: Path) -> None:
    """The last of one job's takes the directory above along while another makes its first."""
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(60):
                mine = scratch(place, f"spool{number}" if number else "")
                assert os.path.isdir(mine.make())
                mine.remove()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert list(place.iterdir()) == []


def test_what_cannot_be_made_is_said(place: Path) -> None:
    (place / "file").touch()
    for kind, words in (("", "no room for --scratch in"), ("spool", "no room for the job's image in")):
        with pytest.raises(RexecError, match=words):
            scratch(place / "file", kind).make()


def test_a_name_that_was_swept_and_made_anew_meanwhile_is_left_alone(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = named(place) / "99-0"
    old.mkdir(parents=True)
    named(place).chmod(0o700)
    taken = fcntl.flock

    def late(fd: int, how: int) -> None:
        if how & fcntl.LOCK_NB:
            old.rmdir()  # another swept it
            old.mkdir()  # and its maker, which had not locked it yet, made it again
        taken(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    scratch(place).make()
    assert old.is_dir()
