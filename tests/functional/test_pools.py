"""What each engine does to jobs; test_condor_pool.py, test_slurm_cluster.py: what is one engine's alone.

test_pool_moves.py: what becomes of jobs with --checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import pool, pool_jobs
from tests.pool import PLACE, WAITS, Access
from tests.until import until


@pytest.fixture(scope="module", params=["condor", "slurm"])
def made(request: pytest.FixtureRequest) -> Iterator[Access]:
    with pool.submitting(request.param) as access:
        yield access


@pytest.fixture
def alice(made: Access) -> Access:
    made.settled()
    return made


@pytest.mark.longest
def test_a_job_goes_on_when_its_stream_was_cut_and_a_fresh_one_joins(alice: Access) -> None:
    name = alice.submit("--name", "cut", "sh", "-c", WAITS.format(name="cut"))
    until(lambda: alice.lines("cut.begun"), "the job has begun", within=PLACE)
    alice.sh(f"pkill -KILL -x {'ssh' if alice.engine == 'condor' else 'srun'} && touch cut.go")
    until(alice.has(name, status=0), "the job has ended", within=PLACE)
    assert len(alice.lines("cut.begun")) == 1
    assert alice.lines("cut.0.out") == ["end"]


@pytest.mark.longest
def test_a_job_that_is_told_to_leave_runs_on_another_host(alice: Access) -> None:
    name = alice.submit("--name", "left", "sh", "-c", WAITS.format(name="left"))
    until(lambda: len(alice.lines("left.begun")) == 1, "the job has begun", within=PLACE)
    alice("rexec", "vacate", f"{name}.0")
    until(lambda: len(alice.lines("left.begun")) == 2, "the job has begun again", within=PLACE)
    alice.sh("touch left.go")
    until(alice.has(name, status=0), "the job has ended", within=PLACE)
    hosts = [each["host"] for each in alice.has(name, **{"is": "running"})()]
    assert len(hosts) == 2 and hosts[0] != hosts[1]
    assert alice.lines("left.0.out") == ["end"]


@pytest.mark.longest
def test_a_batch_whose_supervisor_was_killed_goes_on(alice: Access) -> None:
    name = alice.submit("-n", "2", "--name", "gone", "sh", "-c", WAITS.format(name="gone{}"))
    until(lambda: alice.lines("gone0.begun") and alice.lines("gone1.begun"), "both have begun", within=PLACE)
    alice.sh("touch gone0.go")
    until(alice.has(name, job=0, status=0), "one has ended", within=PLACE)
    alice.sh("pkill -KILL -f 'batch[.]process import'")
    until(lambda: '"stopped"' in alice("rexec", "jobs", "--json"), "it is stopped")
    assert alice("rexec", "resume") == f"batch {name} goes on\n"
    until(lambda: len(alice.lines("gone1.begun")) == 2, "the other has begun again", within=PLACE)
    alice.sh("touch gone1.go")
    until(alice.has(name, job=1, status=0), "it has ended", within=PLACE)
    assert len(alice.lines("gone0.begun")) == 1


@pytest.mark.long(lambda **_: True)
@pytest.mark.timeout(900)  # a host dies, and the leases of it are waited for
def test_jobs_go_through_what_an_engine_does(alice: Access) -> None:
    pool_jobs.gives_each_status(alice)
    pool_jobs.goes_through_what_an_engine_does(alice)
