"""What an engine is told of the places that jobs with --checkpoint leave, and when a supervisor ends with its place."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from remoteio.errors import RexecError
from shim.submit.batch import departures, moving
from shim.submit.batch.departures import Departures
from shim.submit.batch.moving import MovingRun
from shim.submit.batch.places import Places
from shim.submit.batch.record import Batch
from shim.submit.batch.runs import Ended
from shim.submit.batch.story import HELD, HOLD, KILLED, RELEASE, RUNNING, VACATE, WAITING
from shim.submit.job import agent_file
from shim.submit.job import record as jobs
from shim.submit.job.agent_file import Noted
from shim.submit.job.phase import Phase
from shim.submit.job.record import Job, Record
from shim.wire.rendezvous import SECRET, Whereabouts

BATCH = Batch(("true",), 9, (), "condor", "any", (), "out", "err", "/", (), 0o22, 0.0, True)


class Engine:
    """Gives job K the place "K"; what it was told is in `asked`, in order."""

    moves = True
    apart = False

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[int] | None]] = []
        self.refuses = ""
        self.again = ""  # with what the name of a place begins

    def place(self, job: int) -> str:
        return f"{self.again}{job}"

    def act(self, verb: str, jobs: Iterable[int] | None) -> None:
        if self.refuses:
            raise RexecError(self.refuses)
        self.asked.append((verb, None if jobs is None else list(jobs)))


class Run(MovingRun):
    """One that is on a host, and does what it is asked."""

    def __init__(self, job: int) -> None:
        self.job, self.place, self.fate, self.news = job, str(job), "", ""
        self.about, self.was = False, RUNNING
        self._seen = None

    def takes(self, verb: str) -> bool:
        return True

    def reached(self) -> bool:
        return not self.about

    def leave(self, fate: str) -> None:
        self.fate = fate

    def ask(self, verb: str) -> None:
        assert verb == RELEASE

    def stands_about(self) -> bool:
        return self.about

    def state(self) -> str:
        return self.was


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def leaves(engine: Engine) -> Departures:
    return Departures(cast(Places, engine))


def test_a_release_that_comes_before_all_are_held_is_refused_and_not_forgotten(engine: Engine) -> None:
    asks, runs = Departures(cast(Places, engine)), {job: Run(job) for job in range(3)}
    asks.ask(runs, HOLD, [0, 1])
    runs[0].was = HELD
    with pytest.raises(RexecError, match="again in a moment"):
        asks.ask(runs, RELEASE, [0, 1, 2])
    asks.ask(runs, RELEASE, [0, 2])
    runs[1].was = HELD
    asks.ask(runs, RELEASE, [0, 1, 2])


def test_a_place_is_taken_back_once_its_job_is_saved(engine: Engine, leaves: Departures) -> None:
    runs = {job: Run(job) for job in range(3)}
    leaving = leaves.ask(runs, VACATE, [1])
    leaves.after(VACATE, [1], leaving)
    leaves.look(runs, lambda: [0, 1, 2])
    assert runs[1].fate == WAITING and not engine.asked
    del runs[1]
    leaves.look(runs, lambda: [0, 1, 2])
    assert engine.asked == [(VACATE, [1])]
    assert leaves.leaves(1) and not leaves.leaves(0)  # it does not begin there again
    engine.again = "another "
    assert not leaves.leaves(1)


def test_a_job_that_cannot_be_saved_keeps_its_place_and_the_others_leave_theirs(
    engine: Engine, leaves: Departures
) -> None:
    runs = {job: Run(job) for job in range(2)}
    leaves.after(HOLD, None, leaves.ask(runs, HOLD, range(3)))
    assert [run.fate for run in runs.values()] == [HELD, HELD]
    runs[0].fate = ""  # it was refused
    leaves.look(runs, lambda: [0, 1, 2])
    del runs[1]
    leaves.look(runs, lambda: [0, 1, 2])
    assert engine.asked == [(HOLD, [1, 2])]
    assert not leaves.leaves(0)


def test_what_nobody_has_to_be_saved_for_is_done_at_once(engine: Engine, leaves: Departures) -> None:
    leaves.after(HOLD, None, leaves.ask({}, HOLD, range(3)))
    assert engine.asked == [(HOLD, None)]
    with pytest.raises(RexecError, match="it is on no host"):
        leaves.ask({}, VACATE, [1])


def test_where_the_engine_does_not_do_so_the_job_may_begin_in_its_place_again(
    engine: Engine, leaves: Departures
) -> None:
    runs = {1: Run(1)}
    leaves.after(VACATE, [1], leaves.ask(runs, VACATE, [1]))
    engine.refuses = "the schedd does not answer"
    leaves.look({}, lambda: [1])
    assert not engine.asked and not leaves.leaves(1)


def test_a_place_in_which_its_job_stands_about_is_given_back_and_at_the_third_it_is_held(
    engine: Engine, leaves: Departures, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(1)
    leaves.look({1: run}, list)
    run.about = True
    leaves.look({1: run}, list)
    assert not engine.asked and 0 < leaves.due() <= departures.USELESS
    monkeypatch.setattr(departures, "USELESS", -1.0)
    for _ in range(departures.TRIES):
        leaves.look({1: run}, list)
    assert engine.asked == [(VACATE, [1])] * (departures.TRIES - 1) + [(HOLD, [1])]
    assert run.fate == HELD


class Placed:
    """A run of a job on record, whose supervisor lives until it has been told to end; `told`: by which signals."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(directory))
        self.record = Record(
            id=0, command=("true",), cwd="/", created=0.0, hosts=("condor:1.0",), owner="none", every=0.0, keep=2,
            detached=True, tty=False, spec="", phase=Phase.RUNNING, generation=3, image=2, host="condor:1.0",
        )  # fmt: skip
        self.job = jobs.create(self.record)
        self.record = self.job.read()
        where = Whereabouts.unpack([b"/tmp/door", b"p2", b"boot", b"1", b"2"])
        agent_file.note(self.job.path, Noted(3, "condor:1.0", bytes(SECRET), where))
        self.told: list[int] = []
        monkeypatch.setattr(Job, "supervised", lambda job: not self.told)
        monkeypatch.setattr(moving, "_end", lambda job, number: self.told.append(number))
        self.run = MovingRun(BATCH, "b1.0", 0, ["--on", "condor:1.0"], "1", self.job, lambda path: None)

    def becomes(self, **values: object) -> Ended | None:
        self.record = replace(self.record, **values)  # type: ignore[arg-type]
        self.job.write(self.record)
        return self.run.ended()


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Placed:
    return Placed(monkeypatch, tmp_path)


def test_a_supervisor_is_not_ended_while_something_of_a_lost_place_may_be_heard(placed: Placed) -> None:
    placed.run.lose(WAITING, known=False)
    assert placed.becomes() is None and not placed.told
    assert placed.becomes(phase=Phase.LEFT) is None
    assert placed.told == [signal.SIGTERM]
    ended = placed.becomes(phase=Phase.PARKED)
    assert ended == Ended(None, "") and placed.run.fate == WAITING and placed.run.goes_on()
    assert agent_file.noted(placed.job.path)  # whoever resumes it looks after that


def test_a_supervisor_that_has_not_heard_that_it_is_to_end_is_told_again(
    placed: Placed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Job, "supervised", lambda job: len(placed.told) < 2)
    placed.run.fate = WAITING
    assert placed.becomes(phase=Phase.PARKED, held=True) is None and placed.run.ended() is None
    assert placed.told == [signal.SIGTERM]
    monkeypatch.setattr(moving, "_HEARS", -1.0)
    assert placed.run.ended() is None and placed.run.soon()
    assert placed.told == [signal.SIGTERM] * 2
    assert placed.run.ended() == Ended(None, "")


@pytest.mark.parametrize("known", [False, True])
def test_what_was_not_saved_goes_on_from_its_last_image(placed: Placed, known: bool) -> None:
    placed.run.lose(WAITING, known=known)
    assert placed.becomes(away=5.0) is None
    assert placed.told == [signal.SIGKILL]
    ended = placed.becomes()
    assert ended == Ended(None, "its place was lost before it could be saved: it goes on from image 2")
    assert bool(agent_file.noted(placed.job.path)) is not known  # else its lease is waited for


def test_what_has_ended_has_ended_though_its_place_was_lost_too(placed: Placed) -> None:
    placed.run.lose(WAITING, known=False)
    placed.told.append(0)
    assert placed.becomes(phase=Phase.ENDED, status=os.waitstatus_to_exitcode(0) + (7 << 8)) == Ended(7, "")


def test_a_run_keeps_the_place_that_it_has_after_all(placed: Placed) -> None:
    placed.run.lose(WAITING, known=False)
    placed.run.has("1")
    assert placed.becomes(away=5.0) is None and not placed.told and not placed.run.fate
    placed.run.has("2")
    assert placed.run.ended() is None and placed.told == [signal.SIGKILL]
    placed.run.fate = KILLED
    placed.run.lose(WAITING, known=False)
    assert placed.run.fate == KILLED


def test_a_job_that_has_gone_to_its_next_place_by_itself_is_saved_there(placed: Placed) -> None:
    placed.run.lose(WAITING, known=True)
    placed.run.has("2")
    assert placed.becomes(generation=4) is None and placed.told == [signal.SIGTERM]
    where = Whereabouts.unpack([b"/tmp/door", b"p3", b"boot", b"1", b"2"])
    agent_file.note(placed.job.path, Noted(4, "condor:1.0", bytes(SECRET), where))
    assert placed.becomes() is not None  # it could not be saved: it is taken up, as it may run on
    assert [each.generation for each in agent_file.noted(placed.job.path)] == [4]
