"""shim/submit/job/placement.py, event by event: what its property test does not say in words."""

from __future__ import annotations

import pytest

from shim.submit.job import placement, placement_steps
from shim.submit.job.events import Kind
from shim.submit.job.phase import Phase
from shim.submit.job.placement_actions import Choose, Connect, Finish, Log, Order, Reply, Result, Start
from shim.submit.job.placement_events import (
    Ask,
    Began,
    Chosen,
    Closed,
    Committed,
    Connected,
    Exited,
    Failed,
    Heavy,
    Images,
    News,
    NoHost,
    Place,
    State,
    Unreached,
)
from shim.submit.job.placement_steps import FIRST, NEVER
from shim.wire import job_messages, lease
from tests.placement_play import Play, saved

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
    play = Play(
        State(phase=Phase.LOST, began=True, images=Images(newest=1), place=Place(generation=3, host="alpha"), last=3)
    )
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
