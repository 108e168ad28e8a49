"""One job over many hosts, where a host is lost, does not do what it is told or is not there, or all is told to end."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint.submit.store import Store
from shim.submit.api.errors import RequestRefused
from shim.submit.api.job_handle import job as api_job
from shim.submit.job import events, placement_steps, supervisor
from shim.submit.job.events import Kind
from shim.submit.job.phase import Phase
from shim.submit.job.placement_actions import Result
from shim.submit.job.submission import SubmitError
from shim.wire import lease
from tests.supervised import Run
from tests.until import until


def test_a_checkpoint_leaves_it_running_and_a_lost_host_goes_back_to_it(run: Run) -> None:
    alpha = run.country.running(0)
    alpha.say()
    assert run.ask("checkpoint") == "True: image 1 is committed"
    assert alpha.running.is_set()
    alpha.say()
    alpha.say()
    until(lambda: run.out.read_text() == "1\n2\n3\n", "the output")
    alpha.die()
    again = run.country.running(1)
    assert again.count == 1
    for _ in range(3):
        again.say()  # 2 and 3 for the second time
    again.end(0)
    assert run.end() == Result(0)
    assert run.out.read_text() == "1\n2\n3\n4\n"
    assert Kind.DISCONNECT in run.kinds() and Kind.LOST in run.kinds()


def test_nothing_starts_before_the_lease_of_a_lost_host_is_over(run: Run) -> None:
    alpha = run.country.running(0)
    run.ask("checkpoint")
    lost = time.monotonic()
    alpha.die()
    run.country.running(1)
    assert time.monotonic() - lost >= 0.3


def test_a_host_lost_after_the_commit_but_before_it_said_so(run: Run) -> None:
    alpha = run.country.running(0)
    alpha.say()
    alpha.mute = True
    assert run.ask("vacate") == "True: the job goes on on alpha"
    again = run.country.running(1)
    assert again.count == 1
    again.end(0)
    run.end()
    assert run.out.read_text() == "1\n"


def test_lost_without_an_image(run: Run) -> None:
    run.country.running(0).die()
    result = run.end()
    assert result.code == 125 and "no checkpoint yet" in result.reason


def test_a_host_lost_before_anybody_asked_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))
    monkeypatch.setattr(lease, "LOST", 0.3)
    monkeypatch.setattr(placement_steps, "FIRST", 0.2)
    run = Run(tmp_path)
    alpha = run.country.running(0)
    until(lambda: run.supervisor.state.images.newest == 1, "the first image")
    alpha.say()
    until(lambda: run.out.read_text() == "1\n", "the output")
    alpha.die()
    again = run.country.running(1)
    again.say()  # for the second time
    again.say()
    again.end(0)
    assert run.end() == Result(0)
    assert run.out.read_text() == "1\n2\n"
    assert Store().jobs() == [], "nobody had asked for an image"


def test_told_to_end_it_leaves_a_saved_job(run: Run) -> None:
    run.country.running(0).say()
    run.supervisor.quit()
    result = run.end()
    assert result.status is None and "the job is saved" in result.reason
    assert (run.job.read().phase, run.job.read().image) == ("parked", 1)
    assert "the job is saved" in events.read_events(run.job.log)[0][-1].reason
    run.begin(len("1\n"))
    again = run.country.running(1)
    again.say()
    again.end(0)
    assert run.end() == Result(0)
    assert run.out.read_text() == "1\n2\n"


def test_a_host_that_does_nothing_it_is_told_is_cut_off(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    alpha = run.country.running(0)
    alpha.say()
    run.ask("checkpoint")
    patient = placement_steps.ANSWER
    monkeypatch.setattr(placement_steps, "ANSWER", 0.2)
    monkeypatch.setattr(placement_steps, "DOUBT", 0.1)
    run.country.prepare = lambda _: monkeypatch.setattr(placement_steps, "ANSWER", patient)  # the next one may be slow
    alpha.deaf = True
    alpha.say()
    why = "alpha gives signs of life, but does not do what it was told"
    assert run.ask("checkpoint") == f"False: {why}"
    alpha.say()
    assert run.ask("vacate") == f"False: alpha was lost: {why}"
    assert alpha.broken.wait(60)
    again = run.country.running(1)
    assert again.count == 1
    for _ in range(3):
        again.say()
    again.end(0)
    assert run.end() == Result(0)
    assert run.out.read_text() == "1\n2\n3\n4\n"


def test_sent_to_a_host_that_is_down(run: Run) -> None:
    """It has left all the same, and who sent it hears where it went instead, and why."""
    run.country.running(0)
    run.country.down.add("gamma")
    said = run.ask("vacate", host="gamma")
    assert said == "False: the job goes on on beta and not on gamma: cannot reach gamma: it is down"
    run.country.running(1).end(0)
    run.end()
    notes = [event for event in events.read_events(run.job.log)[0] if event.kind == Kind.NOTE]
    assert [(note.host, note.reason) for note in notes] == [("gamma", "passed over: cannot reach gamma: it is down")]


def test_sent_to_a_host_that_nobody_knows_and_that_is_not_there(run: Run) -> None:
    """A slip of the pen moves nothing: the job has not even been stopped."""
    run.country.running(0)
    with pytest.raises(RequestRefused, match=r"^job 1 stays where it is: cannot reach nohost\.invalid"):
        api_job(1).vacate(to="nohost.invalid")
    assert run.supervisor.state.place.host == "alpha" and run.supervisor.state.images.serial == 0
    assert api_job(1).vacate(to="beta") == "the job goes on on beta"  # its own list has it: it is not asked
    run.country.running(1).end(0)
    run.end()


@pytest.mark.parametrize("taken", [True, False])
def test_told_to_end_it_writes_what_the_job_has_said(run: Run, monkeypatch: pytest.MonkeyPatch, taken: bool) -> None:
    """The image counts it: what is not written by then will never be."""
    monkeypatch.setattr(supervisor, "_LAST_WORDS", 30.0 if taken else 0.1)
    reads, write = threading.Event(), run.output._file.write

    def once_it_is_read(data: bytes | memoryview, end: int) -> None:
        assert reads.wait(60)
        write(data, end)

    monkeypatch.setattr(run.output._file, "write", once_it_is_read)
    run.country.running(0).say()
    run.supervisor.quit()
    until(lambda: run.job.read().phase == "parked", "it is parked")
    if taken:
        run.thread.join(0.3)
        assert run.thread.is_alive(), "it has ended with its job's words"
        reads.set()
    assert run.end().status is None
    said = [event.reason for event in events.read_events(run.job.log)[0]]
    assert ("what it has said last is lost: its output could not be written" in said) != taken
    assert run.out.read_text() == ("1\n" if taken else "")
    reads.set()


@pytest.mark.parametrize("ran", [False, True])
def test_told_to_end_without_an_image_it_says_what_is_left(run: Run, ran: bool) -> None:
    if ran:
        run.country.running(0).refuse = "it holds an io_uring"
    else:
        run.country.running(0)
        run.ask("kill")
        run.end()
        run.country.down |= {"alpha", "beta"}
        fresh = replace(run.job.read(), phase=Phase.CHOOSING, status=None, ran=0.0, since=0.0, generation=0)
        run.job.write(fresh)
        run.begin(None)
        until(lambda: run.supervisor.state.phase == Phase.PARKED, "it is parked")
    run.supervisor.quit()
    left = "it had no checkpoint" if ran else "it never ran: submit it again"
    why = run.end().reason
    assert why == f"its supervisor was told to end before the job could be saved: {left}"
    os.close(run.job._lock)  # as the end of its process does
    run.job._lock = -1
    with pytest.raises(SubmitError, match=f"^job 1 has no image to go on from: {left}$"):
        api_job(1).restart()
    assert api_job(1).report().why.endswith(left)
