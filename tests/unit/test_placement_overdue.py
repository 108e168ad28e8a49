"""shim/submit/job/placement.py where what is asked may never come: a job told to end, a host that does nothing."""

from __future__ import annotations

import math

import pytest

from shim.submit.job import placement, placement_steps
from shim.submit.job.phase import Phase
from shim.submit.job.placement_actions import Action, Choose, Close, Finish, Leave, Order, Reply, Result
from shim.submit.job.placement_events import (
    Ask,
    Began,
    Chosen,
    Closed,
    Committed,
    Connected,
    Event,
    News,
    Quit,
    Stirs,
    Tick,
)
from shim.submit.job.placement_steps import NEVER
from shim.wire import job_messages
from tests.placement_play import Play, saved

# told to end


def test_told_to_end_it_saves_the_job_and_parks_it() -> None:
    play = Play().run()
    assert play.feed(Quit()) == [Order(1, job_messages.VACATE, 1)]
    play.feed(Committed(1, 1, 1), News(1, job_messages.MOVED, 1))
    assert not play.of(Leave), "the last words of the old host are awaited"
    play.feed(Closed(1, "done"))
    assert (play.state.phase, play.state.images.newest, len(play.of(Leave))) == (Phase.PARKED, 1, 1)


def test_told_to_end_in_the_middle_of_a_checkpoint() -> None:
    play = Play().run()
    play.feed(Ask("checkpoint", 7))
    assert play.feed(Quit()) == []
    play.feed(Committed(1, 1, 1))
    assert play.of(Order) == [Order(1, job_messages.VACATE, 2)]


@pytest.mark.parametrize("news", [Committed(1, 1, 1), News(1, job_messages.REFUSED, 1, "it holds an io_uring")])
def test_the_death_of_a_job_is_awaited_though_the_dump_before_it_is_over(news: Event) -> None:
    play = Play().run()
    play.feed(Ask("checkpoint", 7), Ask("kill", 8), news)
    assert play.tick() == []  # the host has had its time, and is given a little more
    play.tick()
    assert play.of(Close) == [Close(1)]


@pytest.mark.parametrize("how", ["refused", "silent"])
def test_told_to_end_but_the_job_cannot_be_saved(how: str) -> None:
    play = Play().run()
    play.feed(Quit())
    if how == "refused":
        play.feed(News(1, job_messages.REFUSED, 1, "it holds an io_uring"))
    else:
        play.tick()
        assert play.now == placement_steps.GRACE
    assert "before the job could be saved" in play.of(Leave)[0].why


@pytest.mark.parametrize("image", [0, 3])
def test_told_to_end_while_nothing_runs(image: int) -> None:
    play = Play(image=image)
    assert len([a for a in play.feed(Quit()) if isinstance(a, Leave)]) == 1
    play = Play(image=image)
    play.feed(Chosen(1, "alpha"))
    play.feed(Quit())
    assert isinstance(play.did[0], Close) and isinstance(play.did[-1], Leave)


def test_told_to_end_before_a_fresh_job_has_said_that_it_runs() -> None:
    play = Play()
    play.feed(Chosen(1, "alpha"), Connected(1))
    assert play.feed(Quit()) == []
    play.feed(Began(1))
    assert play.of(Order) == [Order(1, job_messages.VACATE, 1)]


def test_told_to_end_when_its_host_has_just_been_lost() -> None:
    play = Play().run()
    play.tick()
    play.feed(Committed(1, 1, 1), Closed(1, "its power went"))
    assert play.feed(Quit()) == [], "the old copy may be acting"
    play.tick()
    assert play.state.phase == Phase.PARKED and len(play.of(Leave)) == 1


# a host that gives signs of life and does nothing


def overdue(play: Play) -> list[Action]:
    """Nothing comes until the host is given up."""
    play.tick()
    assert play.did == [], "doubted first: this process may have stood still"
    return play.tick()


def test_a_checkpoint_that_is_never_begun_is_reported_and_the_job_goes_on() -> None:
    play = saved()
    play.feed(Ask("checkpoint", 7))
    did = overdue(play)
    assert did == [Reply(7, False, "alpha gives signs of life, but does not do what it was told")]
    assert (play.state.phase, play.state.images.dump, play.state.place.by) == (Phase.RUNNING, None, math.inf)
    assert play.feed(Committed(1, 2, 2)), "it was only late: the image counts"
    assert play.state.images.newest == 2


def test_a_host_that_does_not_let_go_is_cut_off_and_the_job_goes_on_from_its_image() -> None:
    play = saved()
    play.feed(Ask("vacate", 7))
    began = play.now
    did = overdue(play)
    assert play.now - began == placement_steps.ANSWER + placement_steps.DOUBT
    assert did[0] == Close(1) and Reply(7, False, f"alpha was lost: {play.state.why}") in did
    assert play.state.phase == Phase.LOST and play.state.place.live
    play.tick()
    assert (play.state.phase, play.state.images.newest) == (Phase.CHOOSING, 1)


def test_without_an_image_it_is_not_cut_off() -> None:
    play = Play(every=NEVER).run()
    play.feed(Ask("vacate", 7))
    assert [type(action) for action in overdue(play)] == [Reply]
    assert play.state.phase == Phase.RUNNING


def test_a_dump_may_take_long_as_long_as_something_stirs() -> None:
    play = saved()
    play.feed(Ask("vacate", 7), News(1, job_messages.DUMPING, 2))
    for event in (News(1, job_messages.DUMPED, 2), *[Stirs(1)] * 5):
        play.now += placement_steps.STALL - 1
        play.feed(Tick(), event)
    assert play.state.images.dump is not None
    play.feed(Committed(1, 2, 2))
    assert play.state.place.by == play.now + placement_steps.ANSWER, "to kill the tree takes no time"
    assert overdue(play)[0] == Close(1)
    assert play.state.images.newest == 2


def test_a_job_that_does_not_die() -> None:
    play = Play().run()
    play.feed(Ask("kill", 7), Stirs(1))
    assert overdue(play)[0] == Close(1)
    play.tick()
    assert play.of(Finish) == [Finish(Result(placement_steps.KILLED))]


def test_a_restored_job_that_does_not_go() -> None:
    play = Play(image=1)
    play.feed(Chosen(1, "alpha"), Connected(1), News(1, job_messages.RESTORED))
    assert overdue(play)[0] == Close(1)
    play = Play(image=1)
    play.feed(Chosen(1, "alpha"), Connected(1), News(1, job_messages.RESTORED), Began(1))
    assert placement.deadline(play.state) is None


def test_a_host_that_never_restores_is_passed_over() -> None:
    play = Play(image=1)
    play.feed(Chosen(1, "alpha"), Connected(1))
    did = overdue(play)
    assert did[0] == Close(1) and isinstance(did[-1], Choose)
    assert dict(play.state.search.avoid).keys() == {"alpha"}
