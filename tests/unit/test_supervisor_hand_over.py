"""One job that leaves: what it leaves stands still until another host has restored it, and goes on if none can."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from checkpoint.submit.store import Store
from checkpoint.wire.manifest import Manifest
from remoteio.errors import RexecError
from remoteio.wire import frames
from shim.cli.images import prune_command
from shim.submit.hosts import survey
from shim.submit.job import events, placement_steps
from shim.submit.job.events import Kind
from shim.submit.job.home import JobHome, MoveError
from shim.submit.job.placement_actions import Result
from shim.wire import job_messages
from tests.agents import Agent
from tests.supervised import Run
from tests.until import until

BROKEN = "criu restore failed there"


def orders(agent: Agent) -> list[str]:
    """What it was ordered, in order."""
    return [json.loads(payload)["order"] for kind, payload in list(agent.heard) if kind == frames.ORDER]


def notes(run: Run) -> list[str]:
    return [event.reason for event in events.read_events(run.job.log)[0] if event.kind == Kind.NOTE]


def _no_such_host(*_: object, **__: object) -> None:
    raise RexecError("no real host is asked")


def breaks(*names: str) -> Callable[[Agent], None]:
    def prepare(agent: Agent) -> None:
        agent.refuse = BROKEN if agent.name in names else ""

    return prepare


@pytest.fixture
def three(tmp_path: Path, job_place: None) -> Iterator[Run]:
    made = Run(tmp_path, hosts=("alpha", "beta", "gamma"))
    yield made
    made.close()


def test_it_stands_still_until_another_has_restored_it(run: Run) -> None:
    seen: list[list[str]] = []
    alpha = run.country.running(0)
    alpha.say()

    def prepare(agent: Agent) -> None:
        restores = agent._image

        def restore(payload: bytes) -> None:
            seen.append(orders(alpha))  # it has not gone on, so nobody was told GO
            restores(payload)

        agent._image = restore  # type: ignore[method-assign]

    run.country.prepare = prepare
    assert run.ask("vacate") == "True: the job goes on on beta"
    assert seen and all(told == [job_messages.VACATE] for told in seen), seen
    alpha.wait(lambda: orders(alpha) == [job_messages.VACATE, job_messages.END])
    run.country.running(1).say()
    run.country.agents[1].end(0)
    assert run.end() == Result(0)
    assert run.out.read_text() == "1\n2\n"
    kinds = run.kinds()
    assert kinds[kinds.index(Kind.CHECKPOINT) :] == [Kind.CHECKPOINT, Kind.EVICT, Kind.EXECUTE, Kind.END]


def test_a_restore_that_fails_is_followed_by_the_next_host(three: Run) -> None:
    alpha = three.country.running(0)
    alpha.say()
    three.country.prepare = breaks("beta")
    assert three.ask("vacate") == "True: the job goes on on gamma"
    three.country.running(2).say()
    three.country.agents[2].end(0)
    assert three.end() == Result(0)
    assert three.out.read_text() == "1\n2\n"


def test_where_none_can_it_goes_on_where_it_was(three: Run) -> None:
    alpha = three.country.running(0)
    alpha.say()
    three.country.prepare = breaks("beta", "gamma")
    why = f"no host could go on with the job (beta: {BROKEN}; gamma: {BROKEN}): it goes on on alpha"
    assert three.ask("vacate") == f"False: {why}"
    until(lambda: notes(three) == [why], "its log says so, too")
    assert alpha.running.wait(60)
    alpha.say()
    three.country.prepare = breaks("beta")
    assert three.ask("vacate") == "True: the job goes on on gamma", "nothing is held against a host the next time"
    again = three.country.running(4)
    again.say()
    again.end(0)
    assert three.end() == Result(0)
    assert three.out.read_text() == "1\n2\n3\n"
    specs = [agent.spec.checkpoint for agent in three.country.agents if agent.spec is not None]
    assert [spec.generation for spec in specs if spec is not None] == [1, 2, 3, 4, 5], "no number is given twice"


def test_driven_out_it_waits_for_its_owner_to_go_where_none_can(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "connect", _no_such_host)  # there may be a real alpha: that of the tests' own desk
    alpha = run.country.running(0)
    alpha.news("frozen", why="input seen by terminals: /dev/pts/3", source="terminals", at=1.0)
    until(lambda: run.supervisor.state.phase == "frozen", "frozen")
    run.country.prepare = breaks("beta")
    alpha.news("leaving", why="further input seen", serial=1 << 20)
    alpha.dump(1 << 20, True)
    until(lambda: "it stands still on alpha" in run.job.read().why, "the reason is on record")
    assert run.job.read().phase == "frozen"
    alpha.news("thawed", why="no further input for 10 s")
    until(lambda: run.supervisor.state.phase == "running", "it goes on")
    alpha.end(0)
    assert run.end() == Result(0)


def test_an_owner_who_wants_the_memory_at_once_has_it_at_once(run: Run) -> None:
    alpha = run.country.running(0)
    seen: list[list[str]] = []
    run.country.prepare = lambda agent: seen.append(orders(alpha))
    alpha.news("leaving", why="further input seen", serial=1 << 20, at_once=True)
    alpha.dump(1 << 20, True)
    beta = run.country.running(1)
    assert seen == [[job_messages.END]]
    beta.end(0)
    assert run.end() == Result(0)


def test_what_stood_still_may_be_lost_on_the_way(run: Run) -> None:
    alpha = run.country.running(0)
    alpha.say()

    def prepare(agent: Agent) -> None:
        restores = agent._image

        def restore(payload: bytes) -> None:
            if alpha.held:
                alpha.die()
                until(lambda: run.supervisor.state.source is None, "that is known")
            restores(payload)

        agent._image = restore  # type: ignore[method-assign]

    run.country.prepare = prepare
    assert run.ask("vacate") == "True: the job goes on on beta"
    beta = run.country.running(1)
    beta.say()
    beta.end(0)
    assert run.end() == Result(0)
    assert run.out.read_text() == "1\n2\n"


def test_a_file_that_others_change_just_then_leaves_it_where_it_was(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    alpha = run.country.running(0)

    def check(home: JobHome, image: Manifest) -> None:
        raise MoveError("data has been changed")

    monkeypatch.setattr(JobHome, "check", check)
    why = "no host could go on with the job (data has been changed): it goes on on alpha"
    assert run.ask("vacate") == f"False: {why}"
    alpha.say()
    alpha.end(0)
    assert run.end() == Result(0)


def images(run: Run) -> list[int]:
    return [image.number for image in Store().images(str(run.job.id))]


def test_an_image_stays_until_a_newer_one_has_been_restored(tmp_path: Path, job_place: None) -> None:
    run = Run(tmp_path, keep=1)
    alpha = run.country.running(0)
    for number in (1, 2, 3):
        assert run.ask("checkpoint") == f"True: image {number} is committed"
    until(lambda: images(run) == [2, 3], "none was restored: the newest is not alone")
    run.country.prepare = breaks("beta")
    assert run.ask("vacate").startswith("False: no host could go on")
    until(lambda: images(run) == [3, 4], "nor was that")
    run.country.prepare = lambda agent: None
    assert run.ask("vacate") == "True: the job goes on on beta"
    until(lambda: images(run) == [4, 5] and run.job.read().restored == 5, "this one was")
    for number in (6, 7):
        assert run.ask("checkpoint") == f"True: image {number} is committed"
    until(lambda: images(run) == [5, 7], "the one that was restored stays beside those that were not")
    prune = ["--keep", "1", str(run.job.id)]
    until(lambda: CliRunner().invoke(prune_command, prune).exit_code == 0, "what is pruned by itself is pruned")
    assert images(run) == [5, 7]
    run.country.running(2).end(0)
    assert run.end() == Result(0)
    assert CliRunner().invoke(prune_command, prune).exit_code == 0
    assert images(run) == [7], "the job has ended"
    assert alpha.broken.wait(60)


def test_a_job_that_is_told_to_die_meanwhile_dies(run: Run) -> None:
    alpha = run.country.running(0)
    run.country.prepare = lambda agent: setattr(agent, "greets", lambda _: None)  # it never restores anything
    answers: list[str] = []
    asking = threading.Thread(target=lambda: answers.append(run.ask("vacate")))
    asking.start()
    until(lambda: alpha.held and run.supervisor.state.phase == "starting", "it stands still")
    assert run.ask("kill") == "True: the job is gone"
    assert run.end() == Result(9)
    asking.join(60)
    assert answers == ["False: the job has ended"]
    assert alpha.broken.wait(60)


def test_a_host_that_does_not_get_on_is_left_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    alpha = run.country.running(0)
    alpha.say()
    monkeypatch.setattr(placement_steps, "STALL", 0.5)
    monkeypatch.setattr(placement_steps, "DOUBT", 0.1)
    run.country.prepare = lambda agent: setattr(agent, "greets", lambda _: None)
    why = "beta gives signs of life, but does not do what it was told"
    assert run.ask("vacate") == f"False: no host could go on with the job (beta: {why}): it goes on on alpha"
    alpha.say()
    alpha.end(0)
    assert run.end() == Result(0)
    assert run.out.read_text() == "1\n2\n"
