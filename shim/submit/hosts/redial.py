"""When to dial a host again whose stream was cut, for how long to try, and when to give up. Pure.

From one try to the next there is a sixty-fourth of the time that the host has been away: so a short cut costs little
more than it lasts, and a long one few tries. By chance it is a quarter more or less, lest all jobs that one router cut
off come at once; how many connect to one host at a time is limited in turns.py.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from shim.wire import lease, rendezvous

FIRST, LONGEST = 0.2, 30.0  # seconds from one try to the next
_SHARE = 64
_SHORT = 3  # seconds for a host to answer at all
_AS_EVER = 60.0  # seconds after which it has as long as at first: CONNECT_SECONDS, or what its user says


class Outage(NamedTuple):
    """One time without a stream.

    since  when it was missed (monotonic seconds)
    lease  seconds that the agent waits for another, or that it is dialled for
    tries  made so far
    seen   when the host last said that the agent is there, stopped or frozen: its lease stands still too
    why    what kept the last try from joining
    """

    since: float
    lease: float
    tries: int = 0
    seen: float = -inf
    why: str = ""


class Dial(NamedTuple):
    """Try again `after` seconds from when the last try began; the host has `patience` seconds to answer, 0: as ever."""

    after: float
    patience: int


class Lost(NamedTuple):
    """The job is not to be reached any more. `gone`: nothing of it runs there; `left`: it may stand still there."""

    why: str
    gone: bool
    left: bool = False


def failed(outage: Outage, why: str) -> Outage:
    """Take note of a try that did not reach the host."""
    return outage._replace(tries=outage.tries + 1, why=why)


def answered(outage: Outage, said: str, why: str, now: float) -> Outage | Lost:
    """Take note of what the host said; all but JOINED."""
    if said == rendezvous.GONE:
        return Lost(why, True)
    seen = now if said == rendezvous.WAITS else outage.seen
    return outage._replace(tries=outage.tries + 1, seen=seen, why=why)


def decide(outage: Outage, now: float, chance: float) -> Dial | Lost:
    """Say what is next; `chance` from 0 to 1."""
    if now - max(outage.since, outage.seen) > outage.lease + lease.LOST:
        why = f"it has been out of touch for its lease of {told(outage.lease)}, and does not run there any more"
        return Lost(why, True, True)
    age = now - outage.since
    between = min(max(age / _SHARE, FIRST), LONGEST) * (0.75 + chance / 2)
    patience = max(round(age / 4), _SHORT) if age < _AS_EVER else 0
    return Dial(between if outage.tries else chance * FIRST, patience)


def told(seconds: float) -> str:
    """Say a time as a person would: in whole seconds or minutes."""
    return f"{seconds:.0f} s" if seconds < 120 or seconds % 60 else f"{seconds / 60:.0f} min"
