"""One job whose hosts are cut off and come back, or do not: it goes on where it is, or from its image."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remoteio.wire import frames
from shim.cli.listed import as_data, table
from shim.submit.api.job_handle import job as api_job
from shim.submit.hosts import dialler
from shim.submit.job import agent_file, events, placement_touch
from shim.submit.job.events import Kind
from shim.submit.job.phase import Phase
from shim.submit.job.placement_actions import Result
from shim.wire import lease
from tests.agents import Agent
from tests.lasting_agents import LastingAgent, LastingCountry
from tests.supervised import Run
from tests.until import until


@pytest.fixture
def lasting(tmp_path: Path, job_place: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Run]]:
    """Makes a run whose hosts may be joined again, of which it is soon said that they are away."""
    monkeypatch.setattr(dialler, "_SOON", 0.05)
    made: list[Run] = []

    def make(**more: object) -> Run:
        made.append(Run(tmp_path, country=LastingCountry, **more))  # type: ignore[arg-type]
        return made[0]

    yield make
    for each in made:
        each.country.down.clear()
        each.close()


def country(run: Run) -> LastingCountry:
    assert isinstance(run.country, LastingCountry)
    return run.country


def alpha_of(run: Run) -> LastingAgent:
    agent = run.country.running(0)
    assert isinstance(agent, LastingAgent)
    return agent


def cut(run: Run, agent: Agent) -> None:
    country(run).cut(agent)
    until(lambda: away(run) and api_job(1).report().away, "it is known to be away")


def away(run: Run) -> bool:
    return run.supervisor.state.place.away < float("inf")


def test_a_cut_is_no_loss_and_each_byte_and_order_comes_once(lasting: Callable[..., Run]) -> None:
    run = lasting()
    alpha = alpha_of(run)
    for number in range(3):
        alpha.say()
        cut(run, alpha)
        alpha.say()
        report = api_job(1).report()
        assert (report.state, report.host) == ("running", "alpha")
        assert "out of touch with alpha since " in report.why and "up to 5 min" in report.why
        assert abs(report.away - time.time()) < 3600, "it is a time of day"
        row = as_data(report, 0.0)
        assert row["out_of_touch"] and "out of touch with alpha since " in table([row])
        country(run).heal(alpha)
        until(lambda: not (away(run) or api_job(1).report().away), "it is in touch again")
        assert run.ask("checkpoint") == f"True: image {number + 1} is committed"
    assert api_job(1).report().why == "" and as_data(api_job(1).report(), 0.0)["out_of_touch"] is None
    alpha.say()
    alpha.end(0)
    assert run.end() == Result(0)
    assert run.out.read_text() == "".join(f"{k}\n" for k in range(1, 8))
    assert len(run.country.agents) == 1 and not alpha.ended
    kinds = [kind for kind in run.kinds() if kind in (Kind.DISCONNECT, Kind.RECONNECT, Kind.LOST)]
    assert kinds == [Kind.DISCONNECT, Kind.RECONNECT] * 3
    assert agent_file.noted(run.job.path) == []


def test_what_is_under_way_at_a_cut_is_done_when_it_is_back_and_nothing_is_begun(lasting: Callable[..., Run]) -> None:
    run = lasting()
    alpha = alpha_of(run)
    alpha.deaf = True
    said: list[str] = []
    asks = _aside(lambda: said.append(run.ask("checkpoint")))
    until(lambda: run.supervisor.state.images.dump is not None, "it is ordered")
    alpha.wait(lambda: any(kind == frames.ORDER for kind, _ in alpha.heard))
    cut(run, alpha)
    assert run.ask("vacate").startswith("False: alpha is out of touch: ")
    alpha.deaf = False
    alpha.dump(1, False)
    assert said == []
    country(run).heal(alpha)
    asks.join(60)
    assert said == ["True: image 1 is committed"]
    alpha.end(0)
    assert run.end() == Result(0)


def test_a_host_whose_agent_is_no_more_is_not_waited_for(
    lasting: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LOST", 300.0)
    run = lasting()
    alpha = alpha_of(run)
    alpha.say()
    run.ask("checkpoint")
    alpha.say()
    until(lambda: run.out.read_text() == "1\n2\n", "the output")
    alpha.vanish()
    again = run.country.running(1)
    assert again.count == 1
    again.say()
    again.end(0)
    assert run.end() == Result(0)
    assert run.out.read_text() == "1\n2\n"
    assert [kind for kind in run.kinds() if kind in (Kind.DISCONNECT, Kind.LOST)] == [Kind.DISCONNECT, Kind.LOST]


def test_after_its_lease_it_goes_on_elsewhere_and_what_comes_back_is_not_heard(lasting: Callable[..., Run]) -> None:
    run = lasting(lease=1)
    alpha = alpha_of(run)
    alpha.say()
    run.ask("checkpoint")
    country(run).cut(alpha)  # that it is away passes with the lease: it may never be seen
    again = run.country.running(1)
    assert again.name == "alpha" if not run.country.down else again.name == "beta"
    country(run).heal(alpha)
    alpha.say()  # an old copy that should have ended
    again.say()
    again.end(0)
    assert run.end() == Result(0)
    assert run.out.read_text() == "1\n2\n" and country(run).joins == 0


def test_what_stands_still_on_a_host_that_was_given_up_is_ended_when_it_is_back(lasting: Callable[..., Run]) -> None:
    run = lasting(lease=1)
    alpha = alpha_of(run)
    alpha.say()
    run.ask("checkpoint")
    country(run).cut(alpha)
    again = run.country.running(1)
    assert not alpha.ended
    country(run).heal(alpha)
    until(lambda: alpha.ended, "it is told to end")
    again.say()
    again.end(0)
    assert run.end() == Result(0)
    assert run.out.read_text() == "1\n2\n" and country(run).joins == 0


def test_a_host_that_is_the_only_one_is_waited_for_beyond_the_lease_and_the_job_goes_on_there(
    lasting: Callable[..., Run],
) -> None:
    run = lasting(hosts=("alpha",), lease=1)
    alpha = alpha_of(run)
    alpha.say()
    run.ask("checkpoint")
    country(run).cut(alpha)
    until(lambda: "stands still there" in api_job(1).report().why, "its lease is over")
    assert "`rexec restart 1 --on HOST` go on from its last image" in api_job(1).report().why
    country(run).heal(alpha)
    alpha.say()
    until(lambda: not api_job(1).report().away, "it is in touch again")
    alpha.end(0)
    assert run.end() == Result(0)
    assert run.out.read_text() == "1\n2\n" and len(run.country.agents) == 1
    assert Kind.LOST not in run.kinds()


def test_kill_ends_a_job_out_of_touch_at_once(lasting: Callable[..., Run]) -> None:
    run = lasting()
    alpha = alpha_of(run)
    cut(run, alpha)
    assert run.ask("kill") == "True: the job has ended here; nobody can tell alpha, which stops it by its lease"
    assert run.end(5) == Result(9)
    (noted,) = agent_file.noted(run.job.path)
    assert (noted.generation, noted.host) == (1, "alpha"), "a restart asks after it first"


def test_a_vacate_goes_on_though_the_host_that_it_leaves_is_cut_off(
    lasting: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = lasting()
    alpha = alpha_of(run)
    alpha.say()

    def prepare(agent: Agent) -> None:
        if agent.name == "beta":
            country(run).cut(alpha)

    run.country.prepare = prepare
    assert run.ask("vacate") == "True: the job goes on on beta"
    beta = run.country.running(1)
    assert alpha.held, "it has heard nothing of it"
    country(run).heal(alpha)
    until(lambda: alpha.gone, "it is told to end")
    assert not alpha.ended, "by its order, over the same link"
    beta.say()
    beta.end(0)
    assert run.end() == Result(0)
    assert run.out.read_text() == "1\n2\n"


def test_a_host_cut_off_while_it_restores_the_job_is_passed_over(
    lasting: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement_touch, "RESTORING", 0.1)
    monkeypatch.setattr(placement_touch.steps, "DOUBT", 0.1)
    run = lasting(hosts=("alpha", "beta", "gamma"))
    alpha = alpha_of(run)
    alpha.say()

    def prepare(agent: Agent) -> None:
        if agent.name == "beta":
            agent.greets = lambda agent: (agent.hello(), country(run).cut(agent))[0]

    run.country.prepare = prepare
    assert run.ask("vacate") == "True: the job goes on on gamma"
    notes = [event.reason for event in events.read_events(run.job.log)[0] if event.kind == Kind.NOTE]
    assert notes[-1] == "passed over: beta went out of touch before the job could go on there"
    run.country.running(2).end(0)
    assert run.end() == Result(0)


def test_where_none_can_go_on_what_is_out_of_touch_is_told_to_go_on_when_it_is_back(
    lasting: Callable[..., Run],
) -> None:
    run = lasting()
    alpha = alpha_of(run)

    def prepare(agent: Agent) -> None:
        if agent.name == "beta":
            agent.refuse = "criu restore failed there"
            country(run).cut(alpha)

    run.country.prepare = prepare
    said: list[str] = []
    asks = _aside(lambda: said.append(run.ask("vacate")))
    until(lambda: run.supervisor.state.images.dump is not None and run.supervisor.state.images.dump.returns, "THAW")
    until(lambda: away(run), "it is known to be away")
    assert alpha.held and not said
    country(run).heal(alpha)
    assert alpha.running.wait(60)
    asks.join(60)
    assert said[0].startswith("False: no host could go on with the job (beta: criu restore failed there")
    alpha.say()
    alpha.end(0)
    assert run.end() == Result(0)
    assert run.out.read_text() == "1\n"


def test_a_supervisor_that_comes_after_one_has_the_old_agent_ended_before_it_goes_on(
    lasting: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LOST", 300.0)
    run = lasting()
    alpha = alpha_of(run)
    alpha.say()
    run.ask("checkpoint")
    alpha.say()
    until(lambda: run.out.read_text() == "1\n2\n", "the output")
    cut(run, alpha)
    run.supervisor.fail(RuntimeError("as by kill -9"))
    run.thread.join(60)
    assert alpha.running.is_set()
    run.begin(len("1\n2\n"))
    until(lambda: run.supervisor.state.phase == Phase.LOST, "it waits")
    country(run).heal(alpha)
    again = run.country.running(1)
    assert alpha.ended
    again.say()
    again.say()
    again.end(0)
    assert run.end() == Result(0)
    assert run.out.read_text() == "1\n2\n3\n"


def _aside(run: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
