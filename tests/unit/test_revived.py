"""A job that has lost its supervisor: it has another one, or is ended without."""

from __future__ import annotations

import os
import queue
from dataclasses import replace
from math import inf

import pytest

from remoteio.errors import RexecError
from shim.submit.job import accounting, agent_file, end_stopped, taking_up
from shim.submit.job.agent_file import Noted
from shim.submit.job.phase import Phase
from shim.submit.job.placement_events import Ask, Event, Heavy, Quit, State, Taken
from shim.submit.job.record import JobError
from shim.submit.job.taken_up import Offer
from shim.wire.rendezvous import SECRET, Whereabouts
from tests.supervised import Run
from tests.supervised import job_place as job_place
from tests.supervised import run as run
from tests.until import until


def meanwhile(*events: Event) -> tuple[Taken, list[Event], list[tuple[int, bool, str]], Offer]:
    """What comes of an offer while these happen, what is to be done later, and what was answered."""
    happen: queue.SimpleQueue[Event] = queue.SimpleQueue()
    for event in events:
        happen.put(event)
    offer, answers = Offer(), list[tuple[int, bool, str]]()
    taken, early = taking_up.meanwhile(
        offer, happen.get_nowait, lambda token, done, text: answers.append((token, done, text))
    )
    return taken, list(early), answers, offer


def test_what_is_asked_of_a_job_that_is_being_taken_up_is_answered_at_once() -> None:
    heavy = Heavy()
    taken, early, answers, _ = meanwhile(heavy, Ask("checkpoint", 7), Taken(1, 3))
    assert (taken, early, answers) == (Taken(1, 3), [heavy], [(7, False, taking_up.AGAIN)])


@pytest.mark.parametrize("event", [Ask("kill", 8), Quit()])
def test_it_is_given_up_where_the_job_or_this_process_is_to_end(event: Event) -> None:
    taken, early, answers, offer = meanwhile(event)
    assert taken.why and early == [event] and not answers
    with pytest.raises(RexecError, match="given up"):
        offer.take()


def test_what_is_taken_up_is_not_given_up() -> None:
    offer = Offer()
    offer.take()
    assert not offer.give_up() and not offer.over.is_set()


def test_the_time_it_has_run_is_put_down_now_and_then(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    record, home = run.job.read(), run.supervisor.home
    runs = State(phase=Phase.RUNNING)

    def after(before: float, now: float) -> tuple[float, float]:
        new = accounting.account(replace(record, ran=1.0, since=before), home, runs, runs, now, 0.0)
        return new.ran, new.since

    assert after(0.0, 5.0) == (1.0, 5.0)
    assert after(5.0, 5.0 + accounting.KEPT / 2) == (1.0, 5.0)
    assert after(5.0, 5.0 + accounting.KEPT) == (1.0 + accounting.KEPT, 5.0 + accounting.KEPT)
    assert accounting.due(replace(record, since=0.0)) == inf
    monkeypatch.setattr(accounting, "KEPT", 0.05)
    agent = run.country.running(0)
    until(lambda: run.job.read().ran, "some of it is on the disk")
    agent.end(0)
    run.end()


def stopped(run: Run) -> None:
    """Its supervisor has ended before it, and has noted that something of it runs on alpha."""
    run.country.running(0).end(0)
    run.end()
    run.job.write(replace(run.job.read(), phase=Phase.RUNNING, status=None, image=1))
    agent_file.note(run.job.path, Noted(1, "alpha", bytes(SECRET), Whereabouts("/p", "n", "b", 1, 1)))
    run.job.unlock()


def test_a_job_without_a_supervisor_is_ended_though_its_host_does_not_answer(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(run)
    monkeypatch.setattr(end_stopped, "_PATIENCE", 0.2)

    def reach(*_: object, **__: object) -> None:
        raise RexecError("it is off")

    said = end_stopped.end(run.job, reach)  # type: ignore[arg-type]
    assert said == "the job has ended here; alpha does not answer: its lease stops it there, and 3 days more end it"
    assert run.job.read().phase == Phase.ENDED and run.job.read().status == 9
    assert not run.job.supervised() and len(agent_file.noted(run.job.path)) == 1, "a restart asks that host again"
    assert run.job.lock()


def test_a_job_that_has_a_supervisor_after_all_is_left_alone(run: Run) -> None:
    stopped(run)
    other = type(run.job)(run.job.path)
    assert other.lock()
    with pytest.raises(JobError, match="another supervisor"):
        end_stopped.end(run.job)
    os.close(other.lock_fd)
    assert run.job.lock() and run.job.read().phase == Phase.RUNNING
