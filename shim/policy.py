"""When a job stays, is frozen, goes on or leaves, and which host it goes to. Pure: no clock, no I/O.

Shipped: the agent steps it on the execute host, so this runs on a bare python3 >= 3.9.

The rules, design of the owner policy:
    owner input                        → FREEZE, at once
    further input within `linger`      → VACATE
    no further input for `linger`      → THAW, in place
    a condition broken for `linger`    → VACATE (load, hours, battery, memory: nobody waits at the keyboard)
"""

from __future__ import annotations

from .owner_policy import OwnerPolicy, show_hours, within_hours

FREEZE = "freeze"
THAW = "thaw"
VACATE = "vacate"

RUNNING = "running"
FROZEN = "frozen"
LEAVING = "leaving"

# One touch is many events: a bumped mouse reports for some tenths of a second, a key repeats. What comes this long
# (seconds) after the first event is the same touch, not "further input".
TOUCH = 0.5


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


class Tick:
    """Time went on, and every event before now has been handed in."""

    __slots__ = ()


class State:
    """Where one job stands on one host. Never changed: step() returns a new one.

    phase         RUNNING, FROZEN or LEAVING (once LEAVING, always: what comes after is another State)
    clock         the latest monotonic time seen; time never goes back here
    seen          time of the newest input known; what is not newer has been dealt with
    touched       FROZEN: when the touch that froze the job began
    broken_since  since when a condition has not held, or None
    broken        that condition
    excused       the user chose this host as it was: a condition counts only after it has held here once
    """

    __slots__ = ("broken", "broken_since", "clock", "excused", "phase", "seen", "touched")

    def __init__(
        self,
        phase: str,
        clock: float,
        seen: float,
        touched: float = 0.0,
        broken_since: float | None = None,
        broken: str | None = None,
        excused: bool = False,
    ) -> None:
        self.excused = excused
        self.phase = phase
        self.clock = clock
        self.seen = seen
        self.touched = touched
        self.broken_since = broken_since
        self.broken = broken


def start(now: float, named: bool = False) -> State:
    """A job that starts, or goes on, on this host now; `named`: since the user named the host with --on.

    Input before now is not held against it.
    """
    return State(RUNNING, now, now, excused=named)


def step(
    policy: OwnerPolicy, state: State, event: Input | Conditions | Tick, now: float
) -> tuple[State, tuple[Action, ...]]:
    """The next state, and what to do, in order. `now` is monotonic seconds; a clock that jumps back stands still."""
    now = max(now, state.clock)
    following = State(state.phase, now, state.seen, state.touched, state.broken_since, state.broken, state.excused)
    if state.phase == LEAVING:
        return following, ()
    if isinstance(event, Input):
        return _on_input(policy, following, event)
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
        if policy.linger > 0:
            return state, (freeze,)
        state.phase = LEAVING
        return state, (freeze, Action(VACATE, f"input seen by {event.source}"))
    if at - state.touched > TOUCH:
        state.phase = LEAVING
        return state, (Action(VACATE, f"further input seen by {event.source}"),)
    return state, ()


def _on_time(policy: OwnerPolicy, state: State) -> tuple[State, tuple[Action, ...]]:
    if state.broken_since is not None and state.clock - state.broken_since >= policy.linger:
        state.phase = LEAVING
        return state, (Action(VACATE, str(state.broken)),)
    if state.phase == FROZEN and state.clock - state.seen >= policy.linger:
        state.phase = RUNNING
        return state, (Action(THAW, f"no further input for {policy.linger:g} s"),)
    return state, ()


def deadline(policy: OwnerPolicy, state: State) -> float | None:
    """The monotonic time at which a Tick is due even if nothing happens, or None."""
    due = []
    if state.phase == FROZEN:
        due.append(state.seen + policy.linger)
    if state.phase != LEAVING and state.broken_since is not None:
        due.append(state.broken_since + policy.linger)
    return min(due, default=None)


class Surroundings:
    """What the conditions of a policy are held against, as measured on a host.

    load          cores busy with other work than ours; None: not known
    minute        minute of the day there, 0 to 1439
    on_battery    is it running on battery; a machine without one is not
    free_memory   bytes available (MemAvailable)
    """

    __slots__ = ("free_memory", "load", "minute", "on_battery")

    def __init__(self, load: float | None, minute: int, on_battery: bool, free_memory: int) -> None:
        self.load = load
        self.minute = minute
        self.on_battery = on_battery
        self.free_memory = free_memory


def broken_condition(policy: OwnerPolicy, around: Surroundings) -> str | None:
    """The first condition of the policy that does not hold, as text to follow a host's name, or None."""
    if not within_hours(policy.hours, around.minute):
        clock = f"{around.minute // 60:02d}:{around.minute % 60:02d}"
        return f"it is {clock} there, and {policy.name} allows {show_hours(policy.hours)}"
    if around.on_battery and not policy.battery:
        return "it runs on battery"
    if around.free_memory < policy.min_free_memory:
        free, kept = _mib(around.free_memory), _mib(policy.min_free_memory)
        return f"{free} of memory are free there, and {policy.name} keeps {kept}"
    if policy.max_load is not None:
        if around.load is None:
            return f"its load is not known, and {policy.name} allows {policy.max_load:g}"
        if around.load > policy.max_load:
            return f"others keep {around.load:.1f} cores busy there, and {policy.name} allows {policy.max_load:g}"
    return None


def _mib(count: int) -> str:
    return f"{count >> 20} MiB"


class Candidate:
    """A host as a place to go.

    name          as in hosts.toml or on the command line
    policy        its owner policy
    named         the user asked for this very host with --on: its owner's idle time is not waited for
    unusable      why nothing can run there (unreachable, no python3, …), or None
    incompatible  reasons why this image cannot go on there; () if it can, or there is no image
    idle          seconds since its owner's last input; None: nothing tells
    unknown       if idle is None: why nothing tells
    around        Surroundings, or None where unusable
    cores         number of processors
    """

    __slots__ = ("around", "cores", "idle", "incompatible", "name", "named", "policy", "unknown", "unusable")

    def __init__(
        self,
        name: str,
        policy: OwnerPolicy,
        *,
        named: bool = False,
        unusable: str | None = None,
        incompatible: tuple[str, ...] = (),
        idle: float | None = None,
        unknown: str = "no source tells whether its owner is there",
        around: Surroundings | None = None,
        cores: int = 1,
    ) -> None:
        self.name = name
        self.policy = policy
        self.named = named
        self.unusable = unusable
        self.incompatible = incompatible
        self.idle = idle
        self.unknown = unknown
        self.around = around
        self.cores = cores


class Choice:
    """Where to go: `order`, names, best first, and `refused`, name → why not, as a clause that follows the name."""

    __slots__ = ("order", "refused")

    def __init__(self, order: tuple[str, ...], refused: dict[str, str]) -> None:
        self.order = order
        self.refused = refused


def choose(candidates: list[Candidate], memory: int = 0) -> Choice:
    """Which hosts a job may go to, best first, and of each other one the reason.

    Hosts that the user named come first, in the user's order; then the ones with the least busy share of their cores,
    then the longest idle. `memory` is the bytes the job needs free there.
    """
    fit: list[tuple[tuple[float, ...], str]] = []
    refused: dict[str, str] = {}
    for position, candidate in enumerate(candidates):
        reason = refusal(candidate, memory)
        if reason is not None:
            refused[candidate.name] = reason
            continue
        if candidate.named:
            rank: tuple[float, ...] = (0.0, float(position))
        else:
            load = candidate.around.load if candidate.around is not None else None
            rank = (1.0, (load or 0.0) / max(candidate.cores, 1), -(candidate.idle or 0.0), float(position))
        fit.append((rank, candidate.name))
    return Choice(tuple(name for _, name in sorted(fit)), refused)


def refusal(candidate: Candidate, memory: int = 0) -> str | None:
    """Why a job of this many bytes may not go to this host now, or None."""
    if candidate.unusable is not None:
        return candidate.unusable
    if candidate.incompatible:
        return "; ".join(candidate.incompatible)
    around = candidate.around
    if around is not None and around.free_memory < memory:
        return f"{_mib(around.free_memory)} of memory are free there, and the job needs {_mib(memory)}"
    if candidate.named:
        return None
    policy, idle = candidate.policy, candidate.idle
    if policy.watched:
        if idle is None:
            return f'{candidate.unknown}: set owner = "none" for it if it has no owner'
        if idle < policy.start_idle:
            return f"its owner was there {idle:.0f} s ago, and {policy.name} waits {policy.start_idle:.0f} s"
    return broken_condition(policy, around) if around is not None else None
