"""What follows from a link that is cut and joined again, and from a host that is known to be left: handlers. Pure.

Each is given the state, the event, and `now` in monotonic seconds, and returns the next state and what to do.

While the link is cut the job goes on where it is, and the supervisor's orders wait in the link
(remoteio/wire/session.py): so nothing changes but that the host has time for as long as that lasts. Where a job is only
being restored, nothing is lost by trying another host.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

from shim.submit.job import placement_steps as steps
from shim.submit.job.events import Kind
from shim.submit.job.placement_actions import Action, Close, Log, Reply, Result
from shim.submit.job.placement_events import Ask, Place, Source, State, Steps, Touch

RESTORING = 30.0  # seconds that a host may be out of touch to which the job is on its way


def away(state: State, event: Touch, now: float) -> Steps:
    """Log that its host is out of touch: the job goes on there, and waits where it needs what is here."""
    if state.place.away < inf:
        return state, []
    place = replace(state.place, away=now)
    if not place.live:
        place = replace(place, by=min(place.by, now + RESTORING))
    return replace(state, place=place), [_log(Kind.DISCONNECT, place, event.why)]


def joined(state: State, event: Touch, now: float) -> Steps:
    """Log that its host is in touch again: what it was told to do it is given as much more time for."""
    away = state.place.away
    if away == inf:
        return state, []
    by = now + steps.STALL if not state.place.live else state.place.by + (now - away)
    place = replace(state.place, away=inf, by=by)
    return replace(state, place=place), [_log(Kind.RECONNECT, place, "")]


def source_away(state: State, event: Touch, now: float) -> Steps:
    """What stands still where the job was hears nothing for now: it stands still all the same."""
    return replace(state, source=replace(_source(state), away=now)), []


def source_joined(state: State, event: Touch, now: float) -> Steps:
    """It hears again."""
    return replace(state, source=replace(_source(state), away=inf)), []


def gone(state: State, event: Touch, now: float) -> Steps:
    """Nothing of it is left there: its lease need not be awaited."""
    return replace(state, until=now), []


def refuse(state: State, event: Ask) -> Steps:
    """It cannot be told now, and who asks is not to wait for as long as that lasts."""
    back = "ask again when it is back, or when the job goes on elsewhere"
    return state, [Reply(event.token, False, f"{state.place.host} is out of touch: {back}")]


def kill(state: State, event: Ask, now: float) -> Steps:
    """The job has ended here. Its host, which cannot be told, stops it by its lease; nothing it asks for is done."""
    host = state.place.host
    ended, actions = steps.finish(state, Result(steps.KILLED))
    text = f"the job has ended here; nobody can tell {host}, which stops it by its lease"
    told: list[Action] = [*actions, Reply(event.token, True, text)]
    return ended, [*told, Close(state.place.generation)]


def _log(kind: Kind, place: Place, reason: str) -> Log:
    return Log(kind, {"host": place.host, "reason": reason})


def _source(state: State) -> Source:
    assert state.source is not None
    return state.source
