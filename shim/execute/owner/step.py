"""When a job stays, is frozen, goes on or leaves its host. Pure: no clock, no I/O.

Shipped: the agent steps it on the execute host, so this runs on a bare python3 >= 3.9.

The rules, design of the owner policy:
    owner input                        → FREEZE, at once
    further input within `linger`      → VACATE
    no further input for `linger`      → THAW, in place
    a condition broken for `linger`    → VACATE (load, hours, battery, memory: nobody waits at the keyboard)
    a job has come that is preferred   → VACATE, at once
    it left, but could go on nowhere   → it stands still until there was no input for `linger`; no VACATE for AGAIN
"""

from __future__ import annotations

from shim.wire.owner_policy import OwnerPolicy

TYPE_CHECKING = False

FREEZE = "freeze"
THAW = "thaw"
VACATE = "vacate"

RUNNING = "running"
FROZEN = "frozen"
LEAVING = "leaving"

# One touch is many events: a bumped mouse reports for some tenths of a second, a key repeats. What comes this long
# (seconds) after the first event is the same touch, not "further input".
TOUCH = 0.5
AGAIN = 300.0  # seconds until a job is sent away again that no host could go on with: each time costs a whole dump


class Action:
    """What is to be done now: kind (FREEZE, THAW or VACATE) and the reason, for the log."""

    __slots__ = ("kind", "why")

    def __init__(self, kind: str, why: str) -> None:
        self.kind = kind
        self.why = why

    def __repr__(self) -> str:
        return f"Action({self.kind}, {self.why!r})"


class Input:
    """The owner touched the machine: `at` is the monotonic time, `source` what noticed, for the log.

    May come late, twice or out of order: only input newer than the newest known is news.
    """

    __slots__ = ("at", "source")

    def __init__(self, at: float, source: str) -> None:
        self.at = at
        self.source = source


class Conditions:
    """A look at load, hours, battery and memory: `broken` is the first that does not hold, as text, or None."""

    __slots__ = ("broken",)

    def __init__(self, broken: str | None) -> None:
        self.broken = broken


class Wanted:
    """A job has come that the owner prefers, and wants this one's slot: `why`, for the log."""

    __slots__ = ("why",)

    def __init__(self, why: str) -> None:
        self.why = why


class Tick:
    """Time went on, and every event before now has been handed in."""

    __slots__ = ()


if TYPE_CHECKING:
    from typing import Union

    Event = Union[Input, Conditions, Wanted, Tick]


class State:
    """Where one job stands on one host. Never changed: step() returns a new one.

    phase         RUNNING, FROZEN or LEAVING (once LEAVING, always: what comes after is another State)
    clock         the latest monotonic time seen; time never goes back here
    seen          time of the newest input known; what is not newer has been dealt with
    touched       FROZEN: when the touch that froze the job began
    broken_since  since when a condition has not held, or None
    broken        that condition
    excused       the user chose this host as it was: a condition counts only after it has held here once
    stays         until then it is not sent away: no host could go on with it
    """

    __slots__ = ("broken", "broken_since", "clock", "excused", "phase", "seen", "stays", "touched")

    def __init__(
        self,
        phase: str,
        clock: float,
        seen: float,
        touched: float = 0.0,
        broken_since: float | None = None,
        broken: str | None = None,
        excused: bool = False,
        stays: float = 0.0,
    ) -> None:
        self.stays = stays
        self.excused = excused
        self.phase = phase
        self.clock = clock
        self.seen = seen
        self.touched = touched
        self.broken_since = broken_since
        self.broken = broken


def start(now: float, named: bool = False) -> State:
    """Return a job that starts, or goes on, on this host now; `named`: since the user named the host with --on.

    Input before now is not held against it.
    """
    return State(RUNNING, now, now, excused=named)


def nowhere(now: float, frozen: bool) -> State:
    """Return a job that was to leave, and could go on nowhere else; `frozen`: it stands still for the owner."""
    return State(FROZEN if frozen else RUNNING, now, now, now, stays=now + AGAIN)


def step(policy: OwnerPolicy, state: State, event: Event, now: float) -> tuple[State, tuple[Action, ...]]:
    """Return the next state and what to do, in order. `now`: monotonic seconds; one that jumps back stands still."""
    now = max(now, state.clock)
    following = State(
        state.phase, now, state.seen, state.touched, state.broken_since, state.broken, state.excused, state.stays
    )
    if state.phase == LEAVING:
        return following, ()
    if isinstance(event, Input):
        return _on_input(policy, following, event)
    if isinstance(event, Wanted):
        if now < state.stays:
            return following, ()
        following.phase = LEAVING
        return following, (Action(VACATE, event.why),)
    if isinstance(event, Conditions):
        if event.broken is None:
            following.broken_since, following.broken, following.excused = None, None, False
        elif not state.excused:
            following.broken = event.broken
            if state.broken_since is None:
                following.broken_since = now
    return _on_time(policy, following)


def _on_input(policy: OwnerPolicy, state: State, event: Input) -> tuple[State, tuple[Action, ...]]:
    at = min(event.at, state.clock)
    if not policy.watched or at <= state.seen:
        return state, ()
    state.seen = at
    if state.phase == RUNNING:
        state.phase, state.touched = FROZEN, at
        freeze = Action(FREEZE, f"input seen by {event.source}")
        if policy.linger > 0 or at < state.stays:
            return state, (freeze,)
        state.phase = LEAVING
        return state, (freeze, Action(VACATE, f"input seen by {event.source}"))
    if at - state.touched > TOUCH and at >= state.stays:
        state.phase = LEAVING
        return state, (Action(VACATE, f"further input seen by {event.source}"),)
    return state, ()


def _on_time(policy: OwnerPolicy, state: State) -> tuple[State, tuple[Action, ...]]:
    if state.broken_since is not None and state.clock >= max(state.broken_since + policy.linger, state.stays):
        state.phase = LEAVING
        return state, (Action(VACATE, str(state.broken)),)
    if state.phase == FROZEN and state.clock - state.seen >= policy.linger:
        state.phase = RUNNING
        return state, (Action(THAW, f"no further input for {policy.linger:g} s"),)
    return state, ()


def deadline(policy: OwnerPolicy, state: State) -> float | None:
    """Return the monotonic time at which a Tick is due even if nothing happens, or None."""
    due = []
    if state.phase == FROZEN:
        due.append(state.seen + policy.linger)
    if state.phase != LEAVING and state.broken_since is not None:
        due.append(max(state.broken_since + policy.linger, state.stays))
    return min(due, default=None)
