"""A real supervisor, real agents and a real criu: what a job leaves stands still until another host has restored it.

No job is lost or doubled, each line is said once, the status is right, and its locks are never free meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from checkpoint.submit import obtain_criu
from shim.submit.job.control_socket import ControlError
from tests.fault.supervised_here import Supervised
from tests.mover_as_user import Make, Run
from tests.until import until

pytestmark = [
    pytest.mark.where(lambda **params: params["uid"] != 0),
    pytest.mark.long(lambda point="", who="", **params: (point, who) not in (("", ""), ("post-restore", "agent"))),
]
Started = Callable[..., None]
BROKEN = "arrived:error:1"  # its criu is not even begun


@pytest.fixture
def started(run: Run, kept: obtain_criu.Bundle) -> Started:
    """started(body, hosts, alpha=strike, …): body(job) once it runs on the first of them."""

    def start(body: Callable[[Supervised], None], hosts: tuple[str, ...] = ("alpha", "beta"), **strikes: str) -> None:
        def inside(make: Make, home: Path) -> None:
            job = Supervised(home, kept, hosts)
            job.begin(**strikes)
            job.more()
            assert job.held() == [True, True]
            body(job)

        run(inside)

    return start


def test_where_no_host_can_restore_it_it_goes_on_where_it_was(started: Started) -> None:
    def body(job: Supervised) -> None:
        said = job.ask("vacate")
        assert said.startswith("False: no host could go on with the job (beta: ") and said.endswith(
            "): it goes on on alpha"
        ), said
        assert (job.home / "struck").exists()
        job.more()
        assert job.held() == [True, True]
        assert job.ask("vacate") == "True: the job goes on on beta"
        job.more()
        assert job.held() == [True, True]
        job.end()

    started(body, beta=BROKEN)


POINTS = [("arrived", "agent"), ("post-restore", "agent"), ("post-restore", "keeper"), ("post-restore", "init")]


@pytest.mark.parametrize(("point", "who"), POINTS)
def test_whoever_restores_it_is_killed_and_the_next_host_has_it(started: Started, point: str, who: str) -> None:
    def body(job: Supervised) -> None:
        assert job.ask("vacate") == "True: the job goes on on gamma"
        assert (job.home / "struck").exists()
        job.more()
        assert job.held() == [True, True]
        job.end()

    started(body, ("alpha", "beta", "gamma"), beta=f"{point}:{who}:1")


@pytest.mark.parametrize("who", ["criu", "agent", "keeper"])
@pytest.mark.parametrize("point", ["held"])
def test_whoever_holds_it_is_killed(started: Started, point: str, who: str) -> None:
    def body(job: Supervised) -> None:
        assert job.ask("vacate").startswith("True: the job goes on on ")
        assert (job.home / "struck").exists()
        job.more()
        assert job.held() == [True, True]
        job.end()

    started(body, alpha=f"{point}:{who}:1")


def asks(job: Supervised) -> None:
    with suppress(ControlError, AssertionError, ValueError):  # it is killed before it can answer
        job.ask("vacate")


@pytest.mark.parametrize("point", ["held", "arrived", "post-restore"])
@pytest.mark.parametrize("who", ["stands"])
def test_the_supervisor_is_killed_between_commit_and_go(started: Started, point: str, who: str) -> None:
    def body(job: Supervised) -> None:
        threading.Thread(target=asks, args=(job,), daemon=True).start()
        until(lambda: (job.home / "struck").exists(), "it is committed")
        job.kill()
        job.begin()
        job.more()
        assert job.held() == [True, True]
        job.end()

    started(body, **{"alpha" if point == "held" else "beta": f"{point}:{who}:1"})
