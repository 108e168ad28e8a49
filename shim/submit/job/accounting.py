"""Tell what a job's record says of where it stands. Pure."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from shim.submit.job.home import JobHome
from shim.submit.job.phase import ACTING, Phase
from shim.submit.job.placement_events import State
from shim.submit.job.record import Record

KEPT = 60.0  # seconds of its run time that are lost at most with a supervisor that is killed
_ON_HOST = (Phase.RUNNING, Phase.FROZEN)


def due(record: Record) -> float:
    """Tell when its run time is to be put down again (monotonic seconds)."""
    return record.since + KEPT if record.since else inf


def account(record: Record, home: JobHome, before: State, after: State, now: float, clock: float) -> Record:
    """Return the record of the state `after`; `now`: monotonic seconds; `clock`: seconds since 1970."""
    new = replace(
        record, phase=str(after.phase), why=after.why, host=after.place.host,
        generation=after.last, image=after.images.newest,
        restored=after.images.restored, held=after.wants.held,
        movable=after.images.movable, obstacle=after.images.obstacle,
        saved=home.saved[0], saved_size=home.saved[1],
        made=home.remembered(record.made), added=home.added.rows(),
        after=() if after.phase in ACTING else home.changes.rows(),
    )  # fmt: skip
    runs = after.phase in _ON_HOST
    if record.since and (not runs or now >= due(record)):
        new = replace(new, since=now if runs else 0.0, ran=record.ran + max(now - record.since, 0.0))
    elif runs and not record.since:
        new = replace(new, since=now)
    if (after.place.away < inf) != (record.away > 0):
        new = replace(new, away=0.0 if record.away else clock)
    if before.phase == Phase.STARTING and after.phase == Phase.RUNNING and before.images.newest:
        new = replace(new, moves=record.moves + 1)
    if after.result is not None:
        new = replace(new, status=after.result.status, code=after.result.code, reason=after.result.reason)
    return new
