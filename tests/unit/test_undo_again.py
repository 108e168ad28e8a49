"""Undoing that was cut short, and begun again: others have gone on, or the power was cut."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from remoteio.submit.undo.records import First, Gone, Known, Made, Moved, Record
from shim.submit.job.undo_plan import Entry
from shim.submit.job.undo_window import Window
from tests.undo_play import Job, Play

KNOWN = Known(1, 2, 0o100644, 0, 0, 0, 0, 0)


class CutShortError(OSError):
    """The disk fails in the middle."""


@pytest.mark.parametrize("later", (b"other 2\n", b"other 2, which is longer than all that the job has written\n"))
@pytest.mark.parametrize("when", ("before", "amid", "after"))
def test_what_others_add_to_a_log_until_undoing_is_begun_again_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, later: bytes
) -> None:
    """Whether what the job had added was taken out by then, or in part, or not yet."""
    play = Play(tmp_path)
    log = play.top / "log"
    log.write_bytes(b"seen\n")
    image = play.moment()

    def others(line: bytes) -> None:
        with log.open("ab") as file:
            file.write(line)

    play.job.write("log", b"of the job, and longer than a line of others\n")
    others(b"other 0\n")
    play.job.write("log", b"job\n")
    others(b"other 1\n")

    truncate = os.ftruncate

    def cut_short(fd: int, size: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}") != str(log):
            truncate(fd, size)
            return
        if when == "before":
            os.pwrite(fd, b"seen\nof the job", 0)  # as if nothing had been put there yet
        if when == "after":
            truncate(fd, size)
        raise CutShortError

    with monkeypatch.context() as patched:
        patched.setattr(os, "ftruncate", cut_short)
        with pytest.raises(CutShortError):
            play.undo(image)
    others(later)
    play.job = Job(play.top, play.journal)
    play.undo(image)
    play.journal.close()
    assert log.read_bytes() == b"seen\nother 0\nother 1\n" + later


def entry(record: Record, story: int = 0) -> Entry:
    return Entry(1, record, story)


def gone(path: bytes) -> Gone:
    return Gone(path, KNOWN, "link", b"1", 0, 1)


def moved(old: bytes, new: bytes, directory: bool = False) -> Moved:
    return Moved(old, new, 1, 2, 0, directory, 1)


def test_steps_that_would_meet_what_later_ones_have_left_are_not_done_before_all_is_on_the_disk() -> None:
    window = Window()
    for number in range(9):  # a file that is replaced time and again
        for record in (moved(b"new%d" % number, b"file"), Made(0, b"new%d" % number, True)):
            assert window.bears(entry(record, number)) and window.add(entry(record, number))
    assert not window.bears(entry(gone(b"file"), 20))  # the one that was there at first
    window.clear()
    assert window.add(entry(gone(b"file"), 20))
    assert not window.bears(entry(moved(b"other", b"file"), 20))
    assert not window.bears(entry(Made(0, b"file", False), 20))
    assert window.bears(entry(Made(0, b"elsewhere", False), 20))
    assert window.add(entry(First(0, b"a", KNOWN), 5)) and not window.bears(entry(moved(b"b", b"a"), 5))
    assert not window.bears(entry(moved(b"d", b"e", directory=True), 6))
    window.clear()
    assert window.bears(entry(moved(b"d", b"e", directory=True), 6))
    assert not window.add(entry(moved(b"d", b"e", directory=True), 6))
