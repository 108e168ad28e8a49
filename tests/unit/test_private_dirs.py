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


def scratch(place: Path, kind: str = "scratch") -> Scratch:
    return Scratch(os.geteuid(), os.getegid(), kind, str(place))


def named(place: Path) -> Path:
    return place / f"rexec-{os.geteuid()}"


def lock_of(made: Path) -> Path:
    return made.with_name(made.name + ".lock")


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
    assert set(named(place).iterdir()) == {made[2], lock_of(made[2])}
    other.remove()
    assert list(place.iterdir()) == []


def test_what_is_not_ours_is_not_removed(place: Path) -> None:
    named(place).mkdir(0o700)
    number = "0123456789abcdef"
    others = ("Documents", f"spool-{number[1:]}", f"other-{number}")
    for name in others:
        (named(place) / name / "work").mkdir(parents=True)
        lock_of(named(place) / name).touch()
    left, held, file = (named(place) / f"{kind}-{number}" for kind in ("spool", "scratch", "door"))
    for made in (left, held):
        made.mkdir()
        lock_of(made).touch()
        (made / "out").symlink_to(named(place) / "Documents")
    file.symlink_to(named(place) / "Documents")
    lock_of(file).symlink_to(lock_of(left))
    with lock_of(held).open("r+") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        mine = scratch(place)
        mine.make()
        mine.remove()
    assert not left.exists() and not lock_of(left).exists()
    assert held.exists() and lock_of(held).exists() and file.is_symlink()
    assert all((named(place) / name / "work").is_dir() for name in others)


@pytest.mark.parametrize("how", ["link", "file", "open to all", "dangling", "another's"])
def test_a_name_that_is_taken_is_left_alone(place: Path, tmp_path: Path, how: str) -> None:
    """A link there led to a directory of the victim's, and all in it that nobody had locked was removed."""
    victim = tmp_path / "victim"
    ours = "door-0123456789abcdef"
    (victim / ours).mkdir(parents=True)
    (victim / f"{ours}.lock").touch()
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
    assert sorted(path.name for path in victim.iterdir()) == ["Documents", ours, f"{ours}.lock"]


def test_many_at_once(place: Path) -> None:
    """The last of one job's takes the directory above along while another makes its first."""
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(60):
                mine = scratch(place, "spool" if number else "scratch")
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
    for kind, words in (("scratch", "no room for --scratch in"), ("spool", "no room for the job's image in")):
        with pytest.raises(RexecError, match=words):
            scratch(place / "file", kind).make()


def test_who_was_swept_before_it_had_locked_its_own_makes_another(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, swept = fcntl.flock, []

    def late(fd: int, how: int) -> None:
        if not swept:
            swept.extend(named(place).iterdir())
            swept[0].unlink()
        taken(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    made = Path(scratch(place).make())
    assert made.is_dir() and lock_of(made).exists() and lock_of(made) != swept[0]
