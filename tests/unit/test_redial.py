"""When a host is dialled again whose stream was cut, and when it is given up."""

from __future__ import annotations

from math import inf

import pytest

from shim.submit.hosts import redial
from shim.submit.hosts.redial import Dial, Lost, Outage
from shim.wire import lease, rendezvous


def dialled(outage: Outage, now: float, chance: float = 0.5) -> Dial:
    step = redial.decide(outage, now, chance)
    assert isinstance(step, Dial)
    return step


def test_the_first_try_comes_at_once_and_a_job_of_many_has_its_own_moment() -> None:
    afters = [dialled(Outage(100.0, 60.0), 100.0, k / 10).after for k in range(11)]
    assert afters == sorted(afters) and afters[0] == 0 and afters[-1] <= redial.FIRST and len(set(afters)) == 11


@pytest.mark.parametrize("age, least, most", [(0, 0.15, 0.25), (30, 0.35, 0.6), (300, 3.5, 6), (36000, 22, 38)])
def test_pauses_grow_with_the_time_away(age: float, least: float, most: float) -> None:
    """So a cut of 30 s costs about half a second more than it lasts, and the login."""
    outage = Outage(0.0, 1e6, tries=1)
    assert least <= dialled(outage, age, 0.0).after < dialled(outage, age, 1.0).after <= most


def test_a_host_has_little_time_to_answer_at_first_and_later_as_long_as_ever() -> None:
    assert [dialled(Outage(0.0, 1e6), age).patience for age in (0, 20, 59, 61)] == [3, 5, 15, 0]


def test_it_is_given_up_when_the_lease_is_over_and_the_agent_has_noticed() -> None:
    outage = redial.failed(Outage(0.0, 60.0), "no route")
    assert dialled(outage, 60.0 + lease.LOST)
    lost = redial.decide(outage, 60.1 + lease.LOST, 0.5)
    assert isinstance(lost, Lost) and lost.gone and lost.left and "lease of 60 s" in lost.why
    assert isinstance(redial.decide(Outage(0.0, inf), 1e9, 0.5), Dial), "it is waited for"


def test_a_host_that_says_so_ends_it_at_once_and_one_whose_agent_is_stopped_has_the_lease_anew() -> None:
    outage = Outage(0.0, 60.0)
    assert redial.answered(outage, rendezvous.GONE, "booted anew", 1.0) == Lost("booted anew", True)
    for said, last in ((rendezvous.WAITS, 1000.0), (rendezvous.ELSEWHERE, 0.0), (rendezvous.REFUSED, 0.0)):
        seen = redial.answered(outage, said, "so", 1000.0)
        assert isinstance(seen, Outage)
        assert isinstance(redial.decide(seen, last + 60.0, 0.5), Dial)
        assert isinstance(redial.decide(seen, last + 61.0 + lease.LOST, 0.5), Lost)
