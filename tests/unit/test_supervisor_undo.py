"""A supervised job whose host is lost: its files are as its image saw them, and what others did to them stays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from remoteio.submit.export.dispatch import Export
from remoteio.submit.undo import journal
from shim.cli.images import images_command
from shim.submit.job import events, submission
from shim.submit.job.home import MoveError
from shim.submit.job.undo_files import Undoing
from shim.submit.job.undo_plan import Entry
from tests.hostile import Host
from tests.supervised import Run
from tests.undo_play import Job, other
from tests.until import until


class Reached(Job):
    """The job's side of the export that serves an agent; names are beneath `top`."""

    def __init__(self, run: Run, number: int, top: Path) -> None:
        generation = run.supervisor._visits.get(number)
        assert generation is not None
        export = generation._session.export
        assert isinstance(export, Export)
        self.host = Host(export)
        self.top = top

    def place(self, name: str) -> tuple[int, bytes]:
        return super().place(f"{self.top}/{name}")

    def at(self, name: str) -> str:
        return f"{self.top}/{name}"


@pytest.fixture
def top(tmp_path: Path) -> Path:
    made = tmp_path / "files"
    made.mkdir()
    for name in ("numbers", "log", "index", "old"):
        (made / name).write_text("as the image saw it\n")
    return made


def changes(job: Reached) -> None:
    """What the job does after its image."""
    job.write(job.at("numbers"), b"more\n")
    job.write(job.at("index"), b"overwritten", 3)
    job.write(job.at("log"), b"of the job\n")
    job.create("new", b"new")
    job.rename("old", "moved")


def as_seen(top: Path) -> None:
    seen = "as the image saw it\n"
    assert {path.name: path.read_text() for path in top.iterdir()} == {
        "numbers": seen, "index": seen, "old": seen, "log": f"{seen}other 7\n",
    }  # fmt: skip


def test_a_lost_host_takes_files_and_memory_back_to_one_moment(run: Run, top: Path) -> None:
    alpha = run.country.running(0)
    assert run.ask("checkpoint") == "True: image 1 is committed"
    changes(Reached(run, 1, top))
    other(top, (4, 0, 0, 7))  # to the log
    alpha.die()
    again = run.country.running(1)
    as_seen(top)
    changes(Reached(run, 2, top))
    again.end(0)
    run.end()
    assert (top / "moved").exists() and (top / "log").read_text().endswith("other 7\nof the job\n")


def test_any_image_that_is_kept_is_gone_back_to(run: Run, top: Path) -> None:
    """The supervisor is another one by then, and has made one more image as it ended."""
    run.country.running(0)
    run.ask("checkpoint")
    changes(Reached(run, 1, top))
    other(top, (4, 0, 0, 7))
    assert run.ask("checkpoint") == "True: image 2 is committed"
    Reached(run, 1, top).write(f"{top}/moved", b"later", 0)
    run.supervisor.quit()
    run.thread.join(60)
    run.job.unlock()
    resumed = submission.resume(run.job, 2, None, detach=True, force=False)
    assert resumed.image.number == 2 and not resumed.unsure
    assert (top / "moved").read_text().startswith("later")
    run.begin(None)
    again = run.country.running(1)
    assert {path.name for path in top.iterdir()} == {"numbers", "log", "index", "moved", "new"}
    assert (top / "moved").read_text() == "as the image saw it\n"
    assert (top / "log").read_text() == "as the image saw it\nof the job\nother 7\n"
    again.end(0)
    run.end()


def test_a_journal_that_is_full_has_an_image_made(run: Run, top: Path) -> None:
    run.country.running(0)
    run.ask("checkpoint")
    undo = run.supervisor.home.undo._journal
    assert undo is not None and undo.limit == journal.LIMIT
    undo.limit = 1 << 16
    (top / "index").write_bytes(bytes(1 << 20))
    job = Reached(run, 1, top)
    job.write(job.at("index"), bytes(80000), 0)
    until(lambda: run.supervisor.state.images.newest >= 2, "an image by itself")
    job.write(job.at("index"), bytes(500000), 100000)
    until(lambda: "cannot be kept" in str(events.read_events(run.job.log)[0]), "what is more is lost, and said")
    assert undo.since(2) is None


def test_a_journal_of_which_a_part_is_gone_is_told(run: Run) -> None:
    run.country.running(0)
    run.ask("checkpoint")
    home, directory = run.supervisor.home, run.job.path / "undo"
    image = home.store.latest(str(run.job.id))
    assert image is not None
    next(directory.glob("*.undo")).unlink()
    for goes_on in (lambda: home.check(image), lambda: home.rewind(image, 1)):
        with pytest.raises(MoveError, match=r"the undo journal of job \S+ cannot be read: No such file"):
            goes_on()


def test_the_list_of_images_says_whether_files_go_back_with_them(run: Run, top: Path) -> None:
    run.country.running(0)
    run.ask("checkpoint")
    shown = CliRunner().invoke(images_command, [str(run.job.id)]).output.splitlines()
    assert shown[0].split()[4] == "FILES" and "go back" in shown[1]
    (run.job.path / "undo" / "moments").unlink()
    assert " stay " in CliRunner().invoke(images_command, [str(run.job.id)]).output.splitlines()[1]
    (row,) = json.loads(CliRunner().invoke(images_command, ["list", "--json", str(run.job.id)]).output)
    assert row["files"] is False


def test_files_that_are_to_be_kept_stay_as_they_are(tmp_path: Path, job_place: None, top: Path) -> None:
    run = Run(tmp_path)
    try:
        run.country.running(0)
        run.supervisor.quit()
        run.thread.join(60)
        run.job.unlock()
        run.job.write(replace(run.job.read(), files="keep"))
        assert run.job.lock()
        run.begin(None)
        again = run.country.running(1)
        run.ask("checkpoint")
        job = Reached(run, run.supervisor.state.place.generation, top)
        changes(job)
        other(top, (4, 0, 0, 7))
        before = {path.name: path.read_text() for path in top.iterdir()}
        again.die()
        run.country.running(2).end(0)
        run.end()
        assert {path.name: path.read_text() for path in top.iterdir()} == before
    finally:
        run.close()


def told(run: Run, what: str) -> None:
    """Wait until that is in the job's log."""
    until(lambda: any(what in str(event) for event in events.read_events(run.job.log)[0]), what)


@pytest.fixture
def kept_run(tmp_path: Path, job_place: None) -> Iterator[Run]:
    """Three images of it are kept: it makes one more as it is left."""
    made = Run(tmp_path, keep=3)
    yield made
    made.close()


def two_images(run: Run, top: Path) -> None:
    """Two images, and changes after each."""
    run.country.running(0)
    assert run.ask("checkpoint") == "True: image 1 is committed"
    job = Reached(run, 1, top)
    job.write(job.at("numbers"), b"of the first\n")
    job.create("between", b"between")
    assert run.ask("checkpoint") == "True: image 2 is committed"
    changes(job)


def cut_short(run: Run, image: int, steps: int) -> None:
    """Restart from that image, and have the undoing end after so many steps."""
    leave(run)
    undo, left = Undoing._undo, [steps]

    def fails(self: Undoing, entry: Entry) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(5, "Input/output error")
        undo(self, entry)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Undoing, "_undo", fails)
        submission.resume(run.job, image, None, detach=True, force=False)
        run.begin(None)
        told(run, f"since image {image} cannot be put back")
        leave(run)


def leave(run: Run) -> None:
    run.supervisor.quit()
    run.thread.join(10)
    run.job.unlock()


def shown(top: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in top.iterdir()}


SEEN = dict.fromkeys(("numbers", "index", "log", "old"), "as the image saw it\n")


@pytest.mark.parametrize("steps", (1, 5))
def test_from_an_older_image_than_it_was_going_back_to(kept_run: Run, top: Path, steps: int) -> None:
    run = kept_run
    two_images(run, top)
    cut_short(run, 2, steps)
    submission.resume(run.job, 1, None, detach=True, force=False)
    run.begin(None)
    until(lambda: len(run.country.agents) > 1 and run.supervisor.state.place.live, "the job is on a host")
    assert shown(top) == SEEN


def test_from_a_newer_one_it_goes_on_only_if_it_is_forced(kept_run: Run, top: Path) -> None:
    """What was done between the two is undone, in part, and nobody knows how to do it again."""
    run = kept_run
    two_images(run, top)
    cut_short(run, 1, 7)
    submission.resume(run.job, 2, None, detach=True, force=False)
    run.begin(None)
    told(run, "its files have begun to go back to image 1, which is older")
    leave(run)
    submission.resume(run.job, 2, None, detach=True, force=True)
    run.begin(None, force=True)
    until(lambda: run.supervisor.state.place.live, "the job is on a host")
    assert shown(top) == SEEN
