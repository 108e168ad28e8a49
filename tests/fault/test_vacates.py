"""Vacates in which something is killed, or a restore fails: the job and its files are as if nothing had been."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from checkpoint.submit import obtain_criu
from tests.fault.vacates import COMING, LEAVING, SUPERVISOR, Vacates, plan
from tests.mover_as_user import Make, Run


def test_a_seed_draws_the_same_faults() -> None:
    everything = [*LEAVING, *COMING, *SUPERVISOR]
    assert list(islice(plan(7, everything), 50)) == list(islice(plan(7, everything), 50))
    assert set(islice(plan(7, everything), 500)) == set(everything)


@pytest.mark.where(lambda uid, many, **params: (uid == 0) is many)
@pytest.mark.long(lambda many, **params: many)
@pytest.mark.parametrize("many", [False, True])
def test_a_job_whose_vacates_are_struck_does_what_an_undisturbed_one_does(
    run: Run, kept: obtain_criu.Bundle, many: bool
) -> None:
    def body(make: Make, home: Path) -> None:
        vacates = Vacates(home, kept)
        faults = [("post-dump", "init"), ("held", "stands"), ("arrived", "error")]
        for point, who in faults if many else faults[:1]:
            assert vacates.vacate(point, who), (point, who)
        vacates.end()

    run(body)
