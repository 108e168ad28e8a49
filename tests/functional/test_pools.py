"""What each engine does to jobs, in short; test_condor_pool.py, test_slurm_cluster.py: all else, one act a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import pool, pool_jobs
from tests.pool import Access


@pytest.fixture(params=["condor", "slurm"])
def alice(request: pytest.FixtureRequest) -> Iterator[Access]:
    with pool.submitting(request.param) as access:
        yield access


@pytest.mark.long(lambda **_: True)
@pytest.mark.timeout(900)  # a host dies, and the leases of it are waited for
def test_jobs_go_through_what_an_engine_does(alice: Access) -> None:
    pool_jobs.gives_each_status(alice)
    pool_jobs.go_through_what_an_engine_does(alice, ["file"])
