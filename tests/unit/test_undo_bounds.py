"""A journal takes no more memory or disk than it may, and what it says is done is on the disk."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import pytest

from remoteio.submit.undo import segment
from remoteio.submit.undo.journal import Journal
from remoteio.submit.undo.records import First, Known
from shim.submit.job import undo_contents, undo_plan
from shim.submit.job.undo_files import Undoing
from tests.undo_play import Play

LARGE = 16 << 20


def peak(what: object) -> int:
    """How many bytes it takes at once."""
    tracemalloc.start()
    try:
        what()  # type: ignore[operator]
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_what_was_kept_is_not_read_to_plan(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(LARGE))
    journal = Journal(str(tmp_path / "undo"))
    journal.mark(1)
    journal.bind(1, 1)
    with file.open("rb") as opened:
        slot = journal.slot()
        journal.append(First(slot, os.fsencode(file), Known.of(file.stat())))
        journal.save(slot, opened.fileno(), [(at, at + 65536) for at in range(0, LARGE, 65536)])
    assert segment.size(journal.directory, 1) > LARGE
    assert peak(lambda: undo_plan.plan(journal, 1)) < LARGE // 4
    journal.close()


def test_what_others_have_added_is_not_read_to_take_out_what_the_job_has(tmp_path: Path) -> None:
    play = Play(tmp_path)
    image = play.moment()
    was, log = (play.top / "log").read_bytes(), play.top / "log"
    play.job.write("log", b"of the job")
    with log.open("ab") as file:
        file.write(b"of others" + bytes(LARGE))
    play.job.write("log", b"of the job")
    assert peak(lambda: play.undo(image)) < LARGE // 4
    assert log.read_bytes() == was + b"of others" + bytes(LARGE)
    play.journal.close()


def test_what_there_is_no_room_for_is_not_copied_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that empties a file of 100 GB would fill the disk before anybody looked."""
    copied = []
    monkeypatch.setattr(segment, "copied", lambda *what: copied.append(what))
    why: list[str] = []
    with (tmp_path / "file").open("wb+") as file:
        file.truncate(LARGE)
        for kept in ("overwritten", "removed"):
            journal = Journal(str(tmp_path / kept), LARGE // 4, lost=why.append)
            journal.mark(1)
            if kept == "overwritten":
                file.write(bytes(LARGE))
                file.flush()
                journal.save(journal.slot(), file.fileno(), [(0, LARGE)])
            else:
                os.posix_fallocate(file.fileno(), 0, LARGE)
                at = os.open(tmp_path, os.O_PATH)
                journal.keep(at, b"file", os.fstat(file.fileno()), copy=True)
                os.close(at)
    assert len(why) == 2 and not copied


def test_what_is_noted_as_done_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the power may be cut between the two."""
    play = Play(tmp_path)
    names = [f"e/file{number}" for number in range(140)]
    for name in names:
        (play.top / name).write_bytes(b"before")
    image = play.moment()
    for name in names:
        play.job.write(name, b"after!", 0)
    plan = undo_plan.plan(play.journal, image)
    assert plan is not None and len(plan.entries) > 256
    on_disk: set[int] = set()
    noted: list[int] = []
    fsync, rename = os.fsync, os.rename

    def synced(fd: int) -> None:
        fsync(fd)
        on_disk.add(os.fstat(fd).st_ino)

    def renamed(old: str, new: str) -> None:
        if os.fspath(new).endswith("/undoing"):
            steps = json.loads(Path(old).read_bytes())["steps"]
            done = {plan.stories[each.story].key[1] for each in plan.entries[len(plan.entries) - steps :]}
            assert done <= on_disk
            noted.append(steps)
        rename(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    Undoing(play.journal, plan, image, "mark", play.kept).run()
    assert noted == [0, 256]
    assert {(play.top / name).read_bytes() for name in names} == {b"before"}
    play.journal.close()


def test_what_stays_of_others_has_its_name_once_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is then written over the file: a power cut would leave neither."""
    on_disk: set[int] = set()
    fsync, rename = os.fsync, os.rename

    def synced(fd: int) -> None:
        fsync(fd)
        on_disk.add(os.fstat(fd).st_ino)

    def renamed(old: str, new: str) -> None:
        assert os.stat(old).st_ino in on_disk
        rename(old, new)

    play = Play(tmp_path)
    image = play.moment()
    play.job.write("log", b"of the job")
    with (play.top / "log").open("ab") as file:
        file.write(b"of others")
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(undo_contents.os, "rename", renamed)
    play.undo(image)
    assert (play.top / "log").read_bytes().endswith(b"of others")
    play.journal.close()
