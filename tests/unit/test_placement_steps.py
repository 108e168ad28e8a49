"""shim/submit/job/placement.py, event by event: what its property test does not say in words."""

from __future__ import annotations

import math
from typing import Any

import pytest

from shim.submit.job import placement, placement_steps
from shim.submit.job.events import Kind
from shim.submit.job.placement_events import (  # fmt: skip
    Action,
    Ask,
    Began,
    Choose,
    Chosen,
    Close,
    Closed,
    Committed,
    Connect,
    Connected,
    Event,
    Exited,
    Failed,
    Finish,
    Heavy,
    Images,
    Leave,
    Log,
    News,
    NoHost,
    Order,
    Phase,
    Place,
    Quit,
    Reply,
    Result,
    Start,
    State,
    Stirs,
    Tick,
    Unreached,
    Wants,
)
from shim.submit.job.placement_steps import FIRST, NEVER
from shim.wire import job_messages, lease


class Play:
    """A state machine and its clock; `did` are the actions of the last event."""

    def __init__(self, state: State | None = None, *, every: float = 0.0, image: int = 0, images: bool = False) -> None:
        self.now = 0.0
        self.did: list[Action] = []
        before = State(began=image > 0, wants=Wants(every=every, images=images), images=Images(newest=image))
        self.state, _ = placement.begin(state or before, self.now)

    def feed(self, *events: Event) -> list[Action]:
        for event in events:
            self.state, self.did = placement.step(self.state, event, self.now)
            placement.check(self.state)
        return self.did

    def run(self) -> Play:
        """To a job that runs on alpha, for the first time."""
        self.feed(Chosen(self.state.search.turn, "alpha"), Connected(1), Began(1))
        assert self.state.phase == Phase.RUNNING
        return self

    def tick(self) -> list[Action]:
        """Time goes on until something is due, and the Tick is given."""
        due = placement.deadline(self.state)
        assert due is not None
        self.now = max(self.now, due)
        return self.feed(Tick())

    def of(self, kind: type[Any]) -> list[Any]:
        return [action for action in self.did if isinstance(action, kind)]


# a host where no image can be made


def test_a_host_that_can_make_images_is_better() -> None:
    play = Play()
    play.feed(Chosen(1, "alpha"), Connected(1), News(1, job_messages.UNABLE, 0, "alpha has no criu"))
    assert play.did == [Choose(2, 0, "", (("alpha", "alpha has no criu"),), frozenset())]
    play.feed(Chosen(2, "beta"), Connected(2))
    assert play.did == [Start(2, 0)] and not play.state.place.anyway
    play.feed(Began(2), Closed(2, "its power went"))
    play.tick()
    assert play.state.result is not None and play.state.result.code == 125  # it is not begun twice


def test_where_none_can_the_job_runs_without() -> None:
    play = Play()
    play.feed(Chosen(1, "alpha"), Connected(1), News(1, job_messages.UNABLE, 0, "alpha has no criu"))
    play.feed(Chosen(2, "beta"), Connected(2), News(2, job_messages.UNABLE, 0, "beta has none either"))
    play.feed(NoHost(3, "no host will do", hopeless=True))
    assert play.did == [Connect(3, "alpha")]
    play.feed(Connected(3))
    assert play.did == [Start(3, 0)] and play.state.place.anyway
    play.feed(News(3, job_messages.UNABLE, 0, "alpha has no criu"))
    assert [log.fields["reason"] for log in play.of(Log)] == ["the job runs without checkpoints: alpha has no criu"]
    play.feed(Began(3))
    logged = [(log.kind, log.fields["host"]) for log in play.of(Log)]
    assert logged == [(Kind.NOTE, "beta"), (Kind.EXECUTE, "alpha")], "alpha was not passed over in the end"
    play.feed(Exited(3, 3 << 8))
    assert play.state.result == Result(3 << 8)


def test_one_that_is_gone_by_then_is_not_tried_for_ever() -> None:
    play = Play()
    play.feed(Chosen(1, "alpha"), Connected(1), News(1, job_messages.UNABLE, 0, "alpha has no criu"))
    play.feed(NoHost(2, "no host will do", hopeless=True), Unreached(2, "it is down"))
    play.feed(NoHost(3, "it is down", hopeless=True))
    assert play.state.result == Result(None, 125, "it is down")


# the first image


def test_the_first_image_is_made_by_itself_and_no_other() -> None:
    play = Play().run()
    assert play.tick() == [Order(1, job_messages.CHECKPOINT, 1)]
    assert play.now == FIRST
    play.feed(Committed(1, 1, 1))
    assert placement.deadline(play.state) is None


def test_a_job_that_ends_before_has_paid_nothing() -> None:
    play = Play().run()
    assert play.feed(Exited(1, 0))[-1] == Finish(Result(0), forget=True)
    assert not play.of(Order)


def test_a_first_image_that_cannot_be_made_is_tried_less_and_less() -> None:
    play = Play().run()
    at = []
    for serial in (1, 2, 3):
        play.tick()
        at.append(play.now)
        play.feed(News(1, job_messages.REFUSED, serial, "it holds an io_uring"))
    assert at == [FIRST, 3 * FIRST, 7 * FIRST]


@pytest.mark.parametrize(("every", "when"), [(3.0, 3.0), (600.0, FIRST), (NEVER, None)])
def test_the_users_own_interval(every: float, when: float | None) -> None:
    play = Play(every=every).run()
    assert placement.deadline(play.state) == when


def test_a_host_lost_after_the_first_image_is_no_end() -> None:
    play = Play().run()
    play.tick()
    play.feed(Committed(1, 1, 1), Closed(1, "its power went"))
    play.tick()
    assert (play.state.phase, play.state.images.newest) == (Phase.CHOOSING, 1)


def test_images_that_nobody_asked_for_go_with_a_job_that_ends_by_itself() -> None:
    play = Play().run()
    play.tick()
    play.feed(Committed(1, 1, 1))
    assert play.feed(Exited(1, 3 << 8))[-1] == Finish(Result(3 << 8), forget=True)
    assert play.state.images.newest == 0


@pytest.mark.parametrize("how", ["asked", "killed", "restarted", "every"])
def test_other_images_stay(how: str) -> None:
    play = Play(every=60.0 if how == "every" else 0.0, image=1 if how == "restarted" else 0, images=how == "restarted")
    if how == "restarted":
        play.feed(Chosen(1, "alpha"), Connected(1), News(1, job_messages.RESTORED))
    else:
        play.run().tick()
        play.feed(Committed(1, 1, 1))
    if how == "asked":
        play.feed(Ask("checkpoint", 7), Committed(1, 2, 2))
    elif how == "killed":
        play.feed(Ask("kill", 7))
    play.feed(Exited(1, 9))
    assert play.of(Finish) == [Finish(Result(9))]
    assert play.state.images.newest > 0


def test_much_kept_input_asks_for_an_image() -> None:
    play = Play().run()
    play.tick()
    play.feed(Committed(1, 1, 1))
    play.now += 1
    play.feed(Heavy())
    assert play.tick() == [Order(1, job_messages.CHECKPOINT, 2)]


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


def saved() -> Play:
    """A job that runs, and has an image."""
    play = Play().run()
    play.tick()
    play.feed(Committed(1, 1, 1))
    return play


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


# killed on its host


def test_a_job_killed_on_its_host_goes_on_from_its_image_elsewhere_first() -> None:
    play = saved()
    play.feed(Ask("checkpoint", 7))
    assert Reply(7, False, "no memory") in play.feed(News(1, job_messages.DEAD, 0, "no memory"))
    play.feed(Closed(1, "done"))
    assert play.did == [Choose(play.state.search.turn, 1, "", (("alpha", "no memory"),), frozenset())]


def test_a_job_killed_on_its_host_without_an_image() -> None:
    play = Play().run()
    assert play.feed(News(1, job_messages.DEAD, 0, "no memory"))[-1] == Finish(Result(None, 125, "no memory"))
    play = Play()
    play.feed(Chosen(1, "alpha"), Connected(1))
    assert play.feed(News(1, job_messages.DEAD, 0, "no memory"))[-1] == Finish(Result(None, 125, "no memory"))


def test_killed_while_it_is_restored_another_host_is_tried() -> None:
    play = Play(image=1)
    play.feed(Chosen(1, "alpha"), Connected(1), News(1, job_messages.DEAD, 0, "no memory"))
    assert play.state.phase == Phase.CHOOSING


def test_what_fails_everywhere_is_tried_less_and_less_often_until_it_gets_on() -> None:
    play = Play(image=1)
    waits = []
    for generation in range(1, 8):
        play.feed(Chosen(play.state.search.turn, "alpha"), Connected(generation))
        if generation % 2:
            play.feed(Failed(generation, 125, "a file is gone"))
        else:  # it goes on there, and is killed again
            play.feed(
                News(generation, job_messages.RESTORED),
                Began(generation),
                News(generation, job_messages.DEAD, 0, "no memory"),
            )
            play.feed(Closed(generation, "done"))
        play.feed(NoHost(play.state.search.turn, "none"))
        waits.append(play.state.until - play.now)
        play.tick()
    assert waits == [placement_steps.RETRY * n for n in (1, 2, 4, 8, 16, 16, 16)]
    play.feed(Chosen(play.state.search.turn, "alpha"), Connected(8), News(8, job_messages.RESTORED), Began(8))
    play.feed(Ask("vacate", 7), Committed(8, 1, 2), News(8, job_messages.MOVED, 1), Closed(8, "done"))
    play.feed(NoHost(play.state.search.turn, "alpha: it was told to leave it"))
    assert play.state.until - play.now == placement_steps.RETRY


def test_a_parked_job_may_go_back_to_a_host_that_the_user_names() -> None:
    play = saved()
    play.feed(Ask("vacate", 7), Committed(1, 2, 2), News(1, job_messages.MOVED, 2), Closed(1, "done"))
    assert [name for name, _ in play.state.search.avoid] == ["alpha"]
    play.feed(NoHost(play.state.search.turn, "alpha: it was told to leave it"))
    assert play.state.phase == Phase.PARKED
    play.feed(Ask("vacate", 8, "alpha"))
    assert play.of(Choose) == [Choose(play.state.search.turn, 2, "alpha", (), frozenset())]


def test_what_a_killed_supervisor_left_is_over_before_the_next_generation_begins() -> None:
    play = Play(State(phase=Phase.LOST, began=True, images=Images(newest=1), place=Place(generation=3, host="alpha")))
    assert play.state.place.live
    play.tick()
    assert play.now == lease.LOST
    assert play.of(Choose) and not play.state.place.live


# the table


def test_no_phase_ignores_its_user_but_the_last() -> None:
    asks = {row for phase in placement.PHASES.values() for row in phase if row[0] is Ask}
    assert len(asks) == 5
    for phase, rows in placement.PHASES.items():
        assert all(rows.get(row) is not None for row in asks), phase


def test_what_no_agent_says_is_refused_and_changes_nothing() -> None:
    play = Play().run()
    with pytest.raises(placement.UnexpectedEvent, match="Connected while the job is running"):
        play.feed(Connected(1))
    with pytest.raises(placement.UnexpectedEvent, match="News sung while the job is running"):
        play.feed(News(1, "sung"))
    assert play.feed(News(0, "sung")) == [], "of an older generation: late"
