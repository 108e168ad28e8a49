"""Jobs that take slots of the desk while they run: who waits is parked, who moves goes before who has not begun."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from shim.execute import probe
from shim.submit.desk.line import Member
from shim.submit.desk.members import Changes, Members
from shim.submit.hosts.bootstrap import Facts
from shim.submit.hosts.config import Host
from shim.submit.hosts.survey import Report
from shim.submit.job import placement_steps, supervisor
from shim.submit.job.placement_actions import Result
from shim.submit.job.seat import WAITS, Seat
from tests.agents import Agent
from tests.supervised import Run
from tests.until import HANG, until

FACTS = json.loads(json.dumps(probe.facts()))


def ask(hosts: Sequence[Host]) -> list[Report]:
    free = {"load": 0.0, "memory_available": 1 << 40, "memory_total": 1 << 40}
    return [Report(host, "", Facts((3, 11, 2), "have", ""), facts={**FACTS, **free}) for host in hosts]


class Jobs:
    """Jobs on a desk of two hosts with a slot each."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory, self._stack = directory, stack
        self.all: list[Run] = []

    def start(self, priority: int = 0, **more: object) -> Run:
        wants = {"cpus": 1, "memory": 0, "priority": priority, "require": "", "rank": "", "group": "1", **more}
        run = Run(self._directory / str(len(self.all)), hosts=("any",), make=True, desk=wants)
        self._stack.callback(run.close)
        self.all.append(run)
        return run

    def runs(self, job: int, visit: int = 0) -> Agent:
        return self.all[job].country.running(visit)

    def end(self, job: int, visit: int = 0) -> None:
        self.runs(job, visit).end(0)
        assert self.all[job].end() == Result(0)

    def waits(self, job: int) -> None:
        until(lambda: self.all[job].job.read().phase == "parked" and len(Members().all()) == len(self.all), "it waits")
        assert self.all[job].job.read().why == WAITS


@pytest.fixture
def jobs(tmp_path: Path, job_place: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    (tmp_path / "config" / "rexec").mkdir(parents=True)
    (tmp_path / "config" / "rexec" / "hosts.toml").write_text(
        '[host.alpha]\nowner = "none"\nslots = 1\n[host.beta]\nowner = "none"\nslots = 1\n'
    )
    monkeypatch.setattr(supervisor, "Seat", partial(Seat, ask=ask))
    monkeypatch.setattr(placement_steps, "RETRY", 10 * HANG)  # so that nothing but its turn has a job go on
    with ExitStack() as stack:
        yield Jobs(tmp_path, stack)


def line() -> list[tuple[int, str]]:
    return sorted((each.job, each.host) for each in Members().all())


def test_a_job_waits_until_another_has_ended(jobs: Jobs) -> None:
    for _ in range(2):
        jobs.start()
        jobs.runs(len(jobs.all) - 1)
    assert sorted(host for _, host in line()) == ["alpha", "beta"]
    jobs.start()
    jobs.waits(2)
    jobs.start(priority=1)
    jobs.waits(3)
    name = jobs.runs(0).name
    jobs.end(0)
    assert jobs.runs(3).name == name, "its priority is higher"
    for job in (1, 2, 3):
        jobs.end(job)
    assert line() == []


def test_who_moves_goes_before_who_has_not_begun(jobs: Jobs) -> None:
    jobs.start()
    second = jobs.start()
    jobs.runs(0)
    jobs.runs(1)
    jobs.start()
    jobs.waits(2)
    assert second.ask("hold").startswith("True: the job is parked")
    until(lambda: jobs.all[2].job.read().phase == "running", "another has its slot")
    assert len(line()) == 2, "what is held waits for nothing"
    jobs.start()
    until(lambda: jobs.all[3].job.read().why == WAITS, "it waits")
    assert second.ask("release").startswith("True: the job is parked: waiting for a slot")
    jobs.end(0)
    jobs.end(1, 1)
    jobs.end(3)
    jobs.end(2)


def test_a_vacate_waits_in_line_where_no_other_host_has_room(jobs: Jobs) -> None:
    run = jobs.start()
    alpha = jobs.runs(0)
    assert run.ask("vacate") == f"True: the job goes on on {'beta' if alpha.name == 'alpha' else 'alpha'}"
    assert line() == [(1, jobs.runs(0, 1).name)], "one slot, where it is"
    jobs.start()
    assert jobs.runs(1).name == alpha.name
    assert run.ask("vacate").startswith("True: the job is parked: waiting for a slot")
    jobs.end(1)
    assert jobs.runs(0, 2).name == alpha.name
    jobs.end(0, 2)


def test_where_it_is_sent_by_name_it_goes_at_once(jobs: Jobs) -> None:
    run = jobs.start()
    alpha = jobs.runs(0)
    jobs.start()
    beta = jobs.runs(1)
    assert run.ask("vacate", host=beta.name) == f"True: the job goes on on {beta.name}"
    assert line() == [(1, beta.name), (2, beta.name)]
    jobs.start()
    assert jobs.runs(2).name == alpha.name, "its slot there is given back"
    for job, visit in ((0, 1), (1, 0), (2, 0)):
        jobs.end(job, visit)


def test_who_waits_is_killed_and_leaves_the_line(jobs: Jobs) -> None:
    jobs.start(cpus=1)
    jobs.start()
    jobs.runs(0)
    jobs.runs(1)
    third = jobs.start()
    jobs.waits(2)
    assert third.ask("kill") == "True: the job is gone"
    third.end()
    assert len(line()) == 2
    fourth = jobs.start(cpus=2)
    until(lambda: "no host has 2 slots" in fourth.job.read().why, "it is said")
    assert fourth.ask("kill") == "True: the job is gone"
    fourth.end()
    jobs.end(0)
    jobs.end(1)


def test_who_waits_does_not_wake_himself_or_others(job_place: None) -> None:
    members = Members()
    first, second = (members.join(Member(0, "g", 0, 1, ("alpha",))) for _ in range(2))
    changes = Changes(members)
    for each in (first, second):
        each.take({"alpha": 0}, lambda found: {})
    members.all()
    assert not changes.wait(0.2), "nothing has changed"
    second.give_back()
    assert changes.wait(HANG)
    first.leave()
    assert changes.wait(HANG)
    changes.close()
    second.leave()
