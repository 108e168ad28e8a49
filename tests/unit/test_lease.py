"""The figures of liveness rest on one another."""

from __future__ import annotations

from shim.wire import lease


def test_a_silence_of_the_network_is_shorter_than_every_lease_with_what_tcp_adds() -> None:
    assert lease.PULSE + 2 * lease.SILENCE + lease.FIRST_TRY < lease.AGENT


def test_a_job_has_ended_there_before_home_says_so_or_runs_it_elsewhere() -> None:
    assert lease.PULSE * 3 < lease.AGENT, "a sign of life that is late is no silence"
    assert lease.AGENT + lease.PULSE < lease.HOME
    assert lease.AGENT + lease.PULSE <= lease.LOST
