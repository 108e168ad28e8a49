"""Jobs of each kind, with --checkpoint, whose places each engine takes in each way: their output once, status right."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import pool
from tests.pool import Access
from tests.pool_kinds import Kinds
from tests.pool_ways import WAYS, Way

pytestmark = pytest.mark.longest


@pytest.fixture(scope="module")
def alice(request: pytest.FixtureRequest) -> Iterator[Access]:
    with pool.submitting(request.param, pool.NUMPY_AND_GCC) as access:
        yield access


@pytest.mark.timeout(900)  # of what is lost with its host, the lease is waited for, and the engine takes its time
@pytest.mark.parametrize(
    ("alice", "way"),
    [pytest.param(engine, way, id=f"{engine}-{way.__name__}") for engine, ways in WAYS.items() for way in ways],
    indirect=["alice"],
)
def test_jobs_of_each_kind_go_on_in_other_places(alice: Access, way: Way) -> None:
    alice.settled()
    jobs = Kinds(alice, way.__name__)
    try:
        way(alice, jobs)
        jobs.end()
    finally:
        alice.sh(f"rexec kill {jobs.name} || :")
