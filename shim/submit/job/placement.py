"""Decides where a job is placed, and what is to be done next. Pure: no clock, no I/O; it alone decides.

A job is placed on one host after the other, each time as a new *generation*. The rules that all of this file serves:

1. **Never two.** A generation may act from the moment it is started (a fresh job: by START; one restored from an image:
   by GO) until it is known to be over: it ended, or moved and said so, or its link has been closed for longer than the
   agent's lease, or its host has said that it is no more. While the link is only cut it is joined again, and the
   generation goes on (`Place.away`). `Place.live` says that it may act. Only when it is over is the next one connected
   to (`_choose`), and a generation's number is on the disk before it is used. tests/property/test_placement.py plays
   the hosts and the network, whose truth this machine cannot see, and asserts that never two of them act.
2. **Never none.** In every phase either something is under way whose answer is an event, or a Tick is due
   (`deadline`), or the user has the job held. A host that is told something must show within a time that it does it
   (`Place.by`); it is given a little more once (`DOUBT`), because what stood still may have been this process.
3. **Nothing committed is lost.** From the commit of an image with which the job leaves (`Dump.committed`) the old copy
   counts as frozen: whatever becomes of it, the job goes on from the image, never beside it. When its host has said
   that it stands still until it is told otherwise (HELD), it is kept as `State.source` while the next host is looked
   for, given the image and heard to have restored it; it is told END before that one is told GO. Only if none can go on
   with the job is it told THAW, and is the newest generation again, when no other is there any more.
4. **Every question is answered once.** Who asks for something gives a token. It is kept where its answer will be known:
   in the dump (`Dump.tokens`), in what waits for the job to run again (`Wants.waiting`), or in what could not be done
   yet (`Wants.later`).

How it is written: `PHASES` says for each phase and each event what handles it, or that it is ignored; what is in
neither raises UnexpectedEvent. docs/placement.md is made from that table. What holds in every phase stands in `step`:
an answer to an older look for a host, and an event of an older generation, are late and change nothing; what the user
asked for while it could not be done is done as soon as it can; and where this process is to end, each step is followed
by a look at whether it can (`placement_user.leave`). The handlers are in placement_host.py, placement_touch.py and
placement_user.py, what several of them do in placement_steps.py.

It would be nicer if STARTING were two phases: a fresh job may act there, one from an image may not before GO. As it is
`Place.live` tells them apart, and the handlers of STARTING ask it. But who looks at a job sees one phase there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from math import inf
from typing import Any

from shim.submit.job import placement_host as host
from shim.submit.job import placement_steps as steps
from shim.submit.job import placement_touch as touch
from shim.submit.job import placement_user as user
from shim.submit.job.phase import ACTING, Phase
from shim.submit.job.placement_actions import Action
from shim.submit.job.placement_events import (
    AWAY,
    GONE,
    JOINED,
    Ask,
    Began,
    Chosen,
    Closed,
    Committed,
    Connected,
    Event,
    Exited,
    Failed,
    Fault,
    Heavy,
    News,
    NoHost,
    Quit,
    Rehearsed,
    SlotFree,
    State,
    Steps,
    Stirs,
    Tick,
    Touch,
    Unreached,
)
from shim.wire import job_messages, lease

Key = tuple[type[Event], str]  # of the table: the event's class; of Ask, News and Touch also their word
Handler = Callable[[State, Any, float], Steps]  # (state, event, now) -> next state, what to do
Phases = dict[Key, Handler | None]  # what handles each event

_WATCHED = (Phase.STARTING, Phase.RUNNING, Phase.FROZEN)  # a host has something of the job, and by may be due


class UnexpectedEvent(Exception):
    """An event that cannot happen in this phase: a defect here, or a host that says what no agent of ours says."""


def begin(state: State, now: float, stays: float = 0.0) -> Steps:
    """Take the first step. In phase LOST where another supervisor of the job may have left its generation acting, for
    `stays` seconds without any."""
    if state.phase == Phase.LOST:
        return replace(state, place=replace(state.place, live=True), until=now + stays + lease.LOST), []
    return steps.choose(state)


def step(state: State, event: Event, now: float) -> Steps:
    """Return the next state and what to do, in order. `now`: monotonic seconds.

    Raises UnexpectedEvent for an event that PHASES does not have in this phase; the state is as if it had not happened.
    """
    actions: list[Action] = []
    if state.source is not None and getattr(event, "generation", 0) == state.source.generation:
        state, actions = _handle(state, event, now, SOURCE)
    elif not _late(state, event):
        state, actions = _handle(state, event, now)
        if _can_ask(state):
            asked, state = state.wants.later, replace(state, wants=replace(state.wants, later=()))
            for ask in asked:
                state, more = _handle(state, ask, now)
                actions = actions + more
    if state.wants.leave_by == inf or state.phase == Phase.ENDED:
        return state, actions
    state, more = user.leave(state, now)
    return state, actions + more


def _handle(state: State, event: Event, now: float, phase: Phases | None = None) -> Steps:
    phase = phase if phase is not None else PHASES[state.phase]
    if key(event) not in phase:
        raise UnexpectedEvent(f"{name(key(event))} while the job is {state.phase}")
    handler = phase[key(event)]
    return (state, []) if handler is None else handler(state, event, now)


def _can_ask(state: State) -> bool:
    """Can what was put off be done now?"""
    runs = state.phase in (Phase.RUNNING, Phase.FROZEN)
    return state.phase == Phase.PARKED or (runs and state.images.dump is None and not state.wants.killing)


def deadline(state: State) -> float | None:
    """Return when a Tick is due even if nothing happens (monotonic seconds), or None."""
    due = min(_due(state), state.wants.leave_by)
    return due if due < inf and state.phase != Phase.ENDED else None


def _due(state: State) -> float:
    if state.phase in (Phase.LOST, Phase.LEFT) or (state.phase == Phase.PARKED and not state.wants.held):
        return state.until
    if host.clock_wants(state):
        return min(state.images.due, state.place.by)
    return steps.due_by(state.place) if state.phase in _WATCHED else inf


def key(event: Event) -> Key:
    """Return the event's row in PHASES."""
    return (type(event), event.what if isinstance(event, (Ask, News, Touch)) else "")


def name(row: Key) -> str:
    """Return a row's name for people: `News restored`."""
    return " ".join(filter(None, (row[0].__name__, row[1])))


def _late(state: State, event: Event) -> bool:
    """Is it about a look or a generation before the present one?"""
    if isinstance(event, (Chosen, NoHost)):
        return event.turn != state.search.turn
    of_none = (Tick, Ask, Heavy, Fault, Quit, SlotFree)
    return not isinstance(event, of_none) and event.generation != state.place.generation


def check(state: State) -> None:
    """Assert what holds of every state between two steps."""
    phase, wants, place, images = state.phase, state.wants, state.place, state.images
    placed = phase in (*_WATCHED, Phase.LOST, Phase.LEFT)
    assert (state.result is not None) == (phase == Phase.ENDED)
    assert phase in ACTING or not place.live, "what may act is never forgotten"
    assert place.live or phase not in (Phase.RUNNING, Phase.FROZEN, Phase.LOST), "what runs may act"
    assert bool(place.host) == placed or phase == Phase.ENDED
    assert place.away == inf or phase in _WATCHED, "who is missed is placed"
    assert place.by == inf or phase in _WATCHED, "a host is waited for where something of the job is"
    assert images.dump is None or phase in (Phase.RUNNING, Phase.FROZEN), "only what runs is dumped"
    assert not (images.dump is not None and images.dump.committed and not images.dump.leaves), "what stays is saved"
    assert not images.newest or state.began or phase == Phase.ENDED
    assert not wants.killing or phase not in (Phase.CHOOSING, Phase.PARKED), "it is dead there already"
    assert not wants.waiting or phase not in (Phase.PARKED, Phase.ENDED), "those who wait for it have their answer"
    assert not wants.later or phase not in (Phase.PARKED, Phase.ENDED), "what was put off is done"
    assert state.source is None or phase in (Phase.CHOOSING, Phase.STARTING), "it stands still for no longer"
    assert state.source is None or not place.live, "of two one stands still"
    assert state.last >= place.generation, "a number is given once"
    tokens = [*wants.waiting, *(ask.token for ask in wants.later), *(images.dump.tokens if images.dump else ())]
    assert len(tokens) == len(set(tokens)), "a question waits in one place"


# The table. None: the event is ignored there.


def _news(*words: str) -> list[Key]:
    return [(News, word) for word in words]


def _all(keys: Iterable[Key], handler: Handler | None = None) -> dict[Key, Handler | None]:
    return dict.fromkeys(keys, handler)


_TICK, _QUIT_KEY, _HEAVY, _FAULT, _SLOT = (Tick, ""), (Quit, ""), (Heavy, ""), (Fault, ""), (SlotFree, "")
_ASKS: list[Key] = [(Ask, what) for what in ("checkpoint", "vacate", "hold", "release", "kill")]
_SEARCHED: list[Key] = [(Chosen, ""), (NoHost, "")]
_NEWS = _news(
    job_messages.FROZEN, job_messages.THAWED, job_messages.LEAVING, job_messages.DUMPING, job_messages.DUMPED,
    job_messages.CLOSES, job_messages.REFUSED, job_messages.MOVED, job_messages.DEAD, job_messages.RESTORED,
    job_messages.CRIU, job_messages.UNABLE, job_messages.HELD,
)  # fmt: skip
_FROM_HOST: list[Key] = [
    *[(kind, "") for kind in (Connected, Unreached, Began, Exited, Failed, Closed, Committed, Stirs, Rehearsed)],
    *_NEWS, *[(Touch, what) for what in (AWAY, JOINED, GONE)],
]  # fmt: skip
# Where the newest generation is over, what it said before comes late.
_OVER = _all(_FROM_HOST)
# Of the generation that the job leaves, while it stands still.
SOURCE: Phases = {
    **_OVER,
    (Closed, ""): host.source_gone,
    (Exited, ""): host.source_gone,
    (Failed, ""): host.source_gone,
    **_all(_news(job_messages.DEAD, job_messages.MOVED), host.source_gone),
    (Touch, AWAY): touch.source_away,
    (Touch, JOINED): touch.source_joined,
}
# What is said of a dump, and of what becomes of the job there, whatever it is just doing.
_PLACED: dict[Key, Handler | None] = {
    (Stirs, ""): host.stirs,
    (Committed, ""): host.committed,
    (Rehearsed, ""): host.rehearsed,
    (Touch, AWAY): touch.away,
    (Touch, JOINED): touch.joined,
    **_all(_news(job_messages.DUMPING, job_messages.DUMPED), host.dumping),
    **_all(_news(job_messages.REFUSED), host.refused),
    **_all(_news(job_messages.HELD), host.held),
    **_all(_news(job_messages.CLOSES), host.closes),
    **_all(_news(job_messages.CRIU)),  # the generation's own affair
    _SLOT: None,  # it has gone elsewhere meanwhile
    _HEAVY: user.heavy,
    _FAULT: host.fault,
}
_ACTS: dict[Key, Handler | None] = {
    **_PLACED,
    (Began, ""): host.began,
    (Exited, ""): host.exited,
    (Failed, ""): host.failed,
    (Closed, ""): steps.closed,
    **_all(_news(job_messages.LEAVING), host.leaving),
    **_all(_news(job_messages.MOVED), steps.moved),
    **_all(_news(job_messages.DEAD), host.dead),
    **_all(_news(job_messages.UNABLE), host.unable),
    **_all(_news(job_messages.RESTORED)),
    (Ask, "checkpoint"): user.ask_checkpoint,
    (Ask, "vacate"): user.ask_leave,
    (Ask, "hold"): user.ask_leave,
    (Ask, "release"): user.not_parked,
    (Ask, "kill"): user.kill_there,
    _QUIT_KEY: user.quit,
}
_ON_ITS_WAY: dict[Key, Handler | None] = {
    **_all(_ASKS, user.put_off),
    (Ask, "release"): user.not_parked,
    (Ask, "kill"): user.kill_unseen,
    _SLOT: None,
    _HEAVY: user.heavy,
    _FAULT: host.fault,
    _QUIT_KEY: user.quit,
}
PHASES: dict[Phase, dict[Key, Handler | None]] = {
    Phase.CHOOSING: {
        **_OVER,
        **_ON_ITS_WAY,
        (Chosen, ""): host.chosen,
        (NoHost, ""): host.no_host,
        (Ask, "kill"): user.kill_nowhere,
        _QUIT_KEY: user.quit_nowhere,
        _TICK: None,
    },
    Phase.STARTING: {
        **_PLACED,
        **_ON_ITS_WAY,
        (Connected, ""): host.connected,
        (Unreached, ""): host.unreached,
        (Began, ""): host.began_starting,
        (Exited, ""): host.exited_starting,
        (Failed, ""): host.failed_starting,
        (Closed, ""): host.closed_starting,
        **_all(_news(job_messages.RESTORED), host.restored),
        **_all(_news(job_messages.DEAD), host.dead_starting),
        **_all(_news(job_messages.UNABLE), host.unable_starting),
        # A fresh job that has not been heard to run: its link says so before anything else.
        **_all(_news(job_messages.FROZEN, job_messages.THAWED, job_messages.LEAVING, job_messages.MOVED)),
        (Ask, "kill"): user.kill_starting,
        _QUIT_KEY: user.quit_starting,
        _TICK: host.over_by,
    },
    Phase.RUNNING: {
        **_ACTS,
        **_all(_news(job_messages.FROZEN), host.frozen),
        **_all(_news(job_messages.THAWED)),
        _TICK: host.clock,
    },
    Phase.FROZEN: {
        **_ACTS,
        **_all(_news(job_messages.THAWED), host.thawed),
        **_all(_news(job_messages.FROZEN)),
        _TICK: host.over_by,
    },
    Phase.LEFT: {**_OVER, **_ON_ITS_WAY, (Closed, ""): host.gone, _TICK: host.gone_by},
    Phase.LOST: {
        **_OVER,
        **_ON_ITS_WAY,
        (Touch, GONE): touch.gone,
        (Ask, "kill"): touch.kill,
        _TICK: host.lost_by,
    },
    Phase.PARKED: {
        **_OVER,
        **_all(_SEARCHED),  # this process was told to end while a host was looked for
        (Ask, "checkpoint"): user.ask_parked,
        (Ask, "vacate"): user.vacate_parked,
        (Ask, "hold"): user.hold_parked,
        (Ask, "release"): user.release,
        (Ask, "kill"): user.kill_nowhere,
        _HEAVY: user.heavy,
    _FAULT: host.fault,
        _QUIT_KEY: user.quit,
        _TICK: host.look_again,
        _SLOT: host.slot_free,
    },
    Phase.ENDED: {
        **_OVER,
        **_all(_SEARCHED),
        **_all(_ASKS, user.ask_ended),
        **_all((_TICK, _QUIT_KEY, _HEAVY, _SLOT)),
        _FAULT: host.fault,
    },
}  # fmt: skip
