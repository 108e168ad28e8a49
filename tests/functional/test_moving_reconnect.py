"""The link of a job with images breaks, and it goes on where it is; what its supervisor leaves behind is ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import ModuleType

import pytest

from tests.job_commands import COUNT, USER, Mover, counted, kill_ssh, supervisors
from tests.until import until

Check = Callable[[str], AbstractContextManager[object]]


@pytest.fixture(autouse=True)
def nothing_is_left(mover: Mover, nothing_left: Check) -> Iterator[None]:
    with nothing_left(mover.hosts[0]), nothing_left(mover.hosts[1]):
        yield


def more(mover: Mover, job: str) -> None:
    out = mover.path(job, "stdout")
    size = out.stat().st_size
    until(lambda: out.stat().st_size > size + 20, "it says more")


@USER
def test_a_job_goes_on_through_cuts_in_the_same_generation(mover: Mover) -> None:
    """While it runs, while it is saved, and while it leaves."""
    job = mover.submit("sh", "-c", COUNT)
    for _ in range(3):
        kill_ssh(mover, job)
        more(mover, job)
    for verb in ("checkpoint", "checkpoint", "vacate"):
        asked = mover.rexec.start([verb, job], as_user=mover.user, env=mover.env, cwd=mover.dir)
        with asked:
            kill_ssh(mover, job)
            assert asked.wait(60) == 0
        more(mover, job)
    assert mover.job(job)["generation"] == 2
    counted(mover, job)


@USER
def test_a_restart_ends_what_a_killed_supervisor_has_left_at_once(mover: Mover) -> None:
    job = mover.submit("sh", "-c", COUNT)
    mover.verb("checkpoint", job)
    more(mover, job)
    for pid in supervisors(mover, job):
        os.kill(pid, signal.SIGKILL)
    until(lambda: mover.job(job)["state"] == "stopped", "it is stopped")
    mover.verb("restart", job)
    until(lambda: mover.job(job)["generation"] == 2, "it goes on")
    counted(mover, job)


@pytest.mark.long(lambda **_: True)
@USER
def test_a_host_away_for_30_seconds_costs_no_more_than_those(mover: Mover, desk_alone: ModuleType) -> None:
    job = mover.submit("sh", "-c", COUNT)
    more(mover, job)
    host = str(mover.job(job)["host"]).partition("-")[0]
    desk_alone.cut(host)
    kill_ssh(mover, job)
    until(lambda: mover.job(job)["out_of_touch"], "it is missed")
    assert "out of touch with" in str(mover.job(job)["why"])
    time.sleep(30)
    desk_alone.heal(host)
    began = time.monotonic()
    size = mover.path(job, "stdout").stat().st_size
    until(lambda: mover.path(job, "stdout").stat().st_size > size, "it is in touch again")
    assert time.monotonic() - began < 10, "what it costs is in docs/reliability.md: this is for a busy machine"
    assert mover.job(job)["generation"] == 1
    mover.verb("kill", job)
