"""The life of a job with --checkpoint, as its log tells it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from shim.submit import lives
from shim.submit.job.events import Event, Kind
from shim.submit.lives import Cost, Life, Teller


def life(name: str, events: Iterable[Event], now: float) -> Life:
    """Tell the life of a job of that name from its log, up to `now`."""
    teller = Teller(name)
    saved = False  # it has an image to go on from
    for event in events:
        if event.cpu or event.waited or event.carried:
            teller.cost(Cost(event.cpu, event.waited, event.carried))
        saved = saved or event.kind == Kind.CHECKPOINT
        _take(teller, event, saved)
    return teller.told(now)


def _take(teller: Teller, event: Event, saved: bool) -> None:
    kind, at = event.kind, event.at
    if kind == Kind.SUBMIT:
        teller.becomes(lives.WAITING, at)
    elif kind == Kind.EXECUTE or (kind == Kind.RECONNECT and teller.state not in lives.ON_HOST):
        teller.becomes(lives.RUNNING, at, event.host)
    elif kind == Kind.SUSPEND and teller.state == lives.RUNNING:
        teller.becomes(lives.FROZEN, at, event.host)
    elif kind == Kind.RESUME and teller.state == lives.FROZEN:
        teller.becomes(lives.RUNNING, at, event.host)
    elif kind == Kind.CHECKPOINT:
        teller.saved(at, event.size)
    elif kind in (Kind.EVICT, Kind.LOST):
        teller.leaves(at, saved=kind == Kind.EVICT and bool(event.image))
    elif kind == Kind.HOLD:
        teller.leaves(at, saved=False, state=lives.HELD)
    elif kind == Kind.RELEASE and teller.state == lives.HELD:
        teller.becomes(lives.MOVING if saved else lives.WAITING, at)
    elif kind == Kind.END:
        how = f"signal {event.signal}" if event.signal is not None else f"status {event.status}"
        teller.ends(at, how, lost=False)
    elif kind == Kind.ABORT:
        teller.ends(at, "failed", lost=True)
