"""Which file a journal means: by whatever names, and whoever has its number by now; and what it need not keep."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from remoteio.submit.undo import segment
from remoteio.submit.undo.births import Which, which
from remoteio.submit.undo.cover import Cover
from remoteio.submit.undo.records import SYMLINK, Gone, Known, Made
from remoteio.wire import fuse_abi as abi
from tests.undo_play import JOB, NAMES, Play, tree

DAY = 86400 * 10**9
HOLE = 1 << 30


@pytest.fixture
def play(tmp_path: Path) -> Play:
    made = Play(tmp_path)
    made.moment()
    return made


def does(play: Play, what: str, name: str) -> None:
    """The job does one of JOB."""
    play.job.do((JOB.index(what), NAMES.index(name), 0, 0))


def as_at_the_moment(play: Play) -> list[str]:
    """Undo it all; what was said."""
    said = play.undo(1).said
    assert tree(play.top) == tree(play.models / "1")
    play.journal.close()
    return said


def test_a_number_given_again_is_another_file() -> None:
    assert Which(5, 7).is_it(Which(5, 7)) and Which(5, 7).is_it(Which(5)) and Which(5).is_it(Which(5, 7))
    assert not Which(5, 7).is_it(Which(5, 8)) and not Which(5).is_it(Which(6)) and not Which(0).is_it(Which(0))


def made_by_others(play: Play) -> tuple[bytes, Known]:
    """Others have made a file; and what had its number until a day ago."""
    path = play.top / "again"
    path.write_bytes(b"others'")
    born = which(os.fsencode(path)).born
    assert born
    return os.fsencode(path), Known.of(path.stat(), born - DAY)


def test_what_others_made_is_not_taken_for_what_the_job_removed(play: Play) -> None:
    path, known = made_by_others(play)
    known = known._replace(mode=stat.S_IFLNK | 0o777)
    play.journal.append(Gone(path, known, SYMLINK, b"somewhere", 0, play.journal.number()))
    (said,) = play.undo(1).said
    assert "has been made by others: theirs stays" in said
    assert Path(os.fsdecode(path)).read_bytes() == b"others'"
    assert os.readlink(path + b".job1-image1") == b"somewhere"
    play.journal.close()


def test_what_others_made_is_not_taken_for_what_the_job_made(play: Play) -> None:
    path, known = made_by_others(play)
    slot = play.journal.slot()
    play.job.watch.put(slot, (known.dev, known.ino), Cover(0, (known.size, known.mtime_ns)), known.born)
    play.journal.append(Made(slot, path, True))
    (said,) = play.undo(1).said
    assert "is another's by now, and stays" in said
    assert Path(os.fsdecode(path)).read_bytes() == b"others'"
    play.journal.close()


def test_a_file_is_found_by_another_name_than_it_was_opened_by(tmp_path: Path) -> None:
    """The kernel says "c (deleted)" of it."""
    play = Play(tmp_path)
    play.job.host.walk("a")
    handle = play.job.host.open(play.job.host.walk("c"), os.O_RDWR)
    play.job.unlink("c")
    play.moment()
    play.job.host.ask(abi.WRITE, 1, abi.WRITE_IN.pack(handle, 7, 3, 0, 0, 0, 0) + b"job")
    assert not as_at_the_moment(play)


def test_a_file_that_is_open_and_loses_one_name_is_the_same_again(play: Play) -> None:
    """A copy would be another: it has the other name still, which the job has not asked for."""
    does(play, "hold", "c")
    play.job.unlink("c")
    assert not as_at_the_moment(play)


def test_a_file_of_several_names_is_found_by_each(play: Play) -> None:
    play.job.write("a", b"of the job")
    play.job.rename("a", "e/a")
    play.job.write("e/a", b"of the job", 7)
    play.job.link("e/a", "a")
    does(play, "attribute", "a")
    assert not as_at_the_moment(play)


def test_a_symbolic_link_of_several_names_is_one_again(play: Play) -> None:
    play.job.link("b", "n")
    play.job.rename("n", "e/b")
    play.job.unlink("b")
    play.job.unlink("e/b")
    before = (play.models / "1" / "b").readlink()
    assert not as_at_the_moment(play)
    assert (play.top / "b").readlink() == before


def test_holes_take_no_room_and_are_holes_again(tmp_path: Path) -> None:
    play = Play(tmp_path)
    sparse = play.top / "a"
    with sparse.open("r+b") as file:
        file.truncate(HOLE)
        file.seek(HOLE // 2)
        file.write(b"in the middle" * 1000)
    play.journal.limit = 1 << 20  # to be twice that would lose it
    play.moments += 1
    play.journal.mark(1)
    play.journal.bind(1, 1)
    before, blocks = middle(sparse), sparse.stat().st_blocks
    play.job.write("a", b"of the job" * 2000, HOLE // 4)
    play.job.write("a", b"of the job" * 2000, HOLE // 2)
    play.job.setattr("a", abi.FATTR_SIZE, size=0)
    assert segment.size(play.journal.directory, 1) < 1 << 20
    assert play.undo(1).said == []
    assert (sparse.stat().st_size, middle(sparse), sparse.stat().st_blocks) == (HOLE, before, blocks)
    play.journal.close()


def test_a_removed_file_that_is_open_is_kept_with_its_holes(play: Play) -> None:
    sparse = play.top / "e" / "b"
    os.truncate(sparse, HOLE)
    before, blocks = middle(sparse), sparse.stat().st_blocks
    does(play, "hold", "e/b")
    play.job.unlink("e/b")
    play.undo(1)
    assert (sparse.stat().st_size, middle(sparse), sparse.stat().st_blocks) == (HOLE, before, blocks)
    play.journal.close()


def middle(path: Path) -> list[bytes]:
    """What is at its beginning and where it may have been written to."""
    with path.open("rb") as file:
        return [os.pread(file.fileno(), 65536, at) for at in (0, HOLE // 4, HOLE // 2)]


def test_a_file_is_found_though_the_name_it_was_last_seen_by_goes_first(play: Play) -> None:
    play.job.write("a", b"of the job", 7)
    play.job.link("a", "n")
    fd = os.open(play.top / "n", os.O_PATH)
    play.job.watch.attributes(fd, b"user.k")
    os.close(fd)
    os.setxattr(play.top / "n", "user.k", b"of the job")
    play.job.symlink("x", "e/a")
    play.job.rename("e/a", "a", 2)
    assert not as_at_the_moment(play)


def test_a_renaming_was_done_though_what_was_renamed_is_gone(play: Play) -> None:
    """What the job has made is not kept as it removes it, so nothing tells of that."""
    play.job.create("n", b"of the job")
    play.job.rename("n", "a", 2)
    play.job.unlink("a")
    assert not as_at_the_moment(play)
