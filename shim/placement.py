"""Where a job stands among its hosts, and what is to be done next. Pure: no clock, no I/O; it alone decides.

A job is placed on one host after the other, each time as a new *generation*. A generation may act from the moment it is
started (a fresh job: START; one restored from an image: GO) until it is known to be over: it ended or moved and said
so, or its link has been closed for longer than the agent's lease. Only then is the next one started. Events carry the
generation they are about; those of an older one change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import inf

from shim import orders
from shim.events import Kind
from shim.terms import (
    Action,
    Ask,
    Began,
    Choose,
    Chosen,
    Close,
    Closed,
    Committed,
    Connect,
    Connected,
    Dump,
    Event,
    Exited,
    Failed,
    Fault,
    Finish,
    Heavy,
    Leave,
    Log,
    News,
    NoHost,
    Order,
    Phase,
    Quit,
    Reply,
    Result,
    Start,
    State,
    Steps,
    Stirs,
    Tick,
    Unreached,
)

# An agent that hears nothing ends itself, and its job, after 4 s (shim/serving.py); one more for clocks and scheduling.
LEASE = 5.0
RETRY = 15.0  # seconds between looks for a host
MOST_MISSES = 5  # 4 minutes between them, where it went on nowhere so often in a row, or died where it did
# Seconds that a job runs before its first image, which is made by itself: docs/moving.md, "The first image".
FIRST = 10.0
NEVER = -1.0  # as `every`: no image by the clock, not even a first one
# A host that gives signs of life, but does not do what it was told, is cut off: seconds to begin with it, and between
# further signs that it does it: more than the execute side's own limits, dump.CONVERSE_S and departure.STORE_S.
ANSWER = 60.0
STALL = 660.0
DOUBT = 5.0  # seconds more, as this process itself may have stood still all the time
GRACE = 60.0  # seconds to save the job in, when this process is told to end
KILLED = 9  # wait status of a job that was killed where nobody could ask it


def deadline(state: State) -> float | None:
    """When a Tick is due even if nothing happens, or None."""
    due = min(_due(state), state.leave_by)
    return due if due < inf and state.phase != Phase.ENDED else None


def _due(state: State) -> float:
    if state.phase in (Phase.LOST, Phase.LEFT) or (state.phase == Phase.PARKED and not state.held):
        return state.until
    if state.phase == Phase.RUNNING and state.dump is None and not state.killing:
        return min(state.due, state.by)
    return state.by if state.phase in _WATCHED else inf


def begin(state: State, now: float) -> Steps:
    """The first step. In phase LOST where another supervisor of the job may have left its generation acting."""
    if state.phase == Phase.LOST:
        return replace(state, live=True, until=now + LEASE), []
    return _choose(state)


def step(state: State, event: Event, now: float) -> Steps:
    """The next state, and what to do, in order. `now`: monotonic seconds."""
    state, actions = _step(state, event, now)
    if state.leave_by == inf or state.phase == Phase.ENDED:
        return state, actions
    state, more = _leave(state, now)
    return state, actions + more


def _step(state: State, event: Event, now: float) -> Steps:
    if isinstance(event, Fault):
        return state, [Log(Kind.NOTE, {"host": state.host, "reason": event.text})]
    if state.phase == Phase.ENDED:
        return state, [Reply(event.token, False, "the job has ended")] if isinstance(event, Ask) else []
    if isinstance(event, Tick):
        return _tick(state, now)
    if isinstance(event, Ask):
        return _ask(state, event, now)
    if isinstance(event, Heavy):
        return replace(state, due=min(state.due, now)), []
    if isinstance(event, Quit):
        return _quit(state, now)
    if isinstance(event, (Chosen, NoHost)):
        if state.phase != Phase.CHOOSING or event.turn != state.turn:
            return state, []
        return _chosen(state, event) if isinstance(event, Chosen) else _no_host(state, event, now)
    if event.generation != state.generation or state.phase not in _PLACED:
        return state, []
    return _on_host(state, event, now)


_WATCHED = (Phase.STARTING, Phase.RUNNING, Phase.FROZEN)
_PLACED = (*_WATCHED, Phase.LEFT)


# this process is to end


def _quit(state: State, now: float) -> Steps:
    state = replace(state, leave_by=min(state.leave_by, now + GRACE), held=True)
    if state.phase == Phase.CHOOSING or (state.phase == Phase.STARTING and not state.live):
        close: list[Action] = [Close(state.generation)] if state.phase == Phase.STARTING else []
        state, actions = _park(state, _QUIT, now)
        return state, close + actions
    return state, []


def _leave(state: State, now: float) -> Steps:
    """Whether it can end now, or what that still takes."""
    if state.phase == Phase.PARKED and state.image:
        return state, [Leave("its supervisor was told to end, and the job is saved")]
    if state.phase == Phase.PARKED or now >= state.leave_by:
        return state, [Leave("its supervisor was told to end before the job could be saved")]
    if state.phase in (Phase.RUNNING, Phase.FROZEN) and state.dump is None and not state.killing:
        return _order(state, True, (), now)
    return state, []


# finding a host


def _choose(state: State) -> Steps:
    state = replace(
        state, phase=Phase.CHOOSING, turn=state.turn + 1, host="", live=False, dump=None, leaving="", anyway=False
    )
    return state, [Choose(state.turn, state.image, state.wanted, state.avoid, state.driven)]


def _chosen(state: State, event: Chosen) -> Steps:
    state = replace(state, phase=Phase.STARTING, generation=state.generation + 1, host=event.host, live=False, by=inf)
    return state, [Connect(state.generation, event.host)]


def _no_host(state: State, event: NoHost, now: float) -> Steps:
    if event.hopeless and not state.began and state.unable:
        # better without images than not at all
        return _chosen(replace(state, unable="", anyway=True), Chosen(event.turn, state.unable))
    if event.hopeless and not state.began and not state.patient:
        return _finish(state, Result(None, 125, event.why))
    return _park(state, event.why, now)


def _park(state: State, why: str, now: float) -> Steps:
    said: list[Action] = [Reply(token, True, f"the job is parked: {why}") for token in state.waiting]
    if why not in (state.why, _HELD, _QUIT):
        said.append(Log(Kind.NOTE, {"reason": f"parked: {why}"}))
    misses = min(state.misses + any(reason != _LEFT for _, reason in state.avoid), MOST_MISSES)
    wait = RETRY * 2 ** max(misses - 1, 0)
    parked = replace(
        state, phase=Phase.PARKED, host="", why=why, until=now + wait, live=False, dump=None, leaving="", waiting=(),
        misses=misses,
        avoid=tuple(pair for pair in state.avoid if pair[1] == _LEFT), wanted="",
    )  # fmt: skip
    return _ask_later((parked, said), now)


def _pass_over(state: State, why: str, now: float) -> Steps:
    """This host will not do: the next."""
    if state.killing:
        return _finish(state, Result(KILLED))
    if state.held:
        return _park(state, _QUIT if state.leave_by < inf else _HELD, now)
    return _choose(replace(state, avoid=(*state.avoid, (state.host, why))))


_LEFT = "it was told to leave it: `rexec release` lets it go back"
_HELD = "it is held: `rexec release` lets it go on"
_QUIT = "its supervisor was told to end"


# on a host


def _on_host(
    state: State, event: Connected | Unreached | Began | Exited | Failed | Closed | News | Committed | Stirs, now: float
) -> Steps:
    if state.phase == Phase.LEFT:
        return _after(state, now) if isinstance(event, Closed) else (state, [])
    if isinstance(event, Connected):
        if state.phase != Phase.STARTING:
            return state, []
        return _awaits(replace(state, live=state.image == 0), now, STALL), [Start(state.generation, state.image)]
    if isinstance(event, Unreached):
        return _pass_over(state, event.why, now) if state.phase == Phase.STARTING else (state, [])
    if isinstance(event, Began):
        if state.phase == Phase.STARTING and state.image == 0:
            return _runs(replace(state, by=inf), now)
        return (replace(state, by=inf) if state.dump is None and not state.killing else state), []
    if isinstance(event, Stirs):
        return (_awaits(state, now, STALL) if state.by < inf and not state.killing else state), []
    if isinstance(event, Exited):
        if state.dump is not None and state.dump.leaves and state.dump.committed:
            return _moved(state, now)  # frozen as it was, it can only have been killed for the move
        if state.phase == Phase.STARTING and not state.live:
            return _pass_over(state, "the job ended there before it was let go on", now)
        return _finish(state, Result(event.status))
    if isinstance(event, Failed):
        if state.phase == Phase.STARTING and event.code == 125:
            state, actions = _pass_over(state, event.text, now)
            return state, actions
        return _finish(state, Result(None, event.code, event.text))
    if isinstance(event, Closed):
        return _closed(state, event, now)
    if isinstance(event, Committed):
        return _committed(state, event, now)
    return _news(state, event, now)


def _runs(state: State, now: float) -> Steps:
    missed = [(host, why) for host, why in state.avoid if why != _LEFT]
    actions: list[Action] = [Log(Kind.NOTE, {"host": h, "reason": f"passed over: {why}"}) for h, why in missed]
    actions.append(Log(Kind.EXECUTE, {"host": state.host}))
    text, there = f"the job goes on on {state.host}", True
    if state.wanted not in ("", state.host):
        text, there = f"{text} and not on {state.wanted}: {dict(state.avoid).get(state.wanted, _LEFT)}", False
    actions += [Reply(token, there, text) for token in state.waiting]
    state = replace(
        state,
        phase=Phase.RUNNING,
        live=True,
        began=True,
        why="",
        avoid=(),
        wanted="",
        waiting=(),
        due=_next_image(state, now),
    )
    if state.killing:
        return _awaits(state, now, ANSWER), [*actions, Order(state.generation, orders.KILL, state.serial)]
    if state.held and state.leave_by == inf:
        state, more = _order(state, True, (), now)
        return state, actions + more
    return _ask_later((state, actions), now)


def _next_image(state: State, now: float) -> float:
    """When the clock wants an image."""
    wait = state.every if state.every > 0 else inf
    if not state.image and state.every != NEVER:
        # What does not work now may work later: twice as long each time, lest the log fill.
        wait = min(wait, FIRST * 2**state.failures)
    return now + wait


def _awaits(state: State, now: float, seconds: float) -> State:
    return replace(state, by=now + seconds, doubted=False)


def _order(state: State, leaves: bool, tokens: tuple[int, ...], now: float) -> Steps:
    state = _awaits(replace(state, serial=state.serial + 1), now, ANSWER)
    dump = Dump(state.serial, leaves, tokens)
    what = orders.VACATE if leaves else orders.CHECKPOINT
    return replace(state, dump=dump), [Order(state.generation, what, state.serial)]


def _committed(state: State, event: Committed, now: float) -> Steps:
    dump = state.dump
    logged: list[Action] = [Log(Kind.CHECKPOINT, {"host": state.host, "image": str(event.image), "size": event.size})]
    wanted = dump is None or dump.leaves or dump.tokens != () or state.every > 0
    state = replace(state, image=event.image, asked=state.asked or wanted, misses=0)
    state = replace(state, due=_next_image(state, now))
    if dump is None or dump.serial != event.serial:
        return state, logged
    if dump.leaves:
        return _awaits(replace(state, dump=replace(dump, committed=True)), now, ANSWER), logged
    logged += [Reply(token, True, f"image {event.image} is committed") for token in dump.tokens]
    return _ask_later((replace(state, dump=None, by=inf), logged), now)


def _news(state: State, event: News, now: float) -> Steps:
    what, dump = event.what, state.dump
    if what == orders.RESTORED and state.phase == Phase.STARTING and state.image:
        if state.killing or state.held:
            state, actions = _pass_over(state, "", now)
            return state, [Close(event.generation), *actions]
        state, actions = _runs(_awaits(state, now, ANSWER), now)
        return state, [Order(event.generation, orders.GO, event.generation), *actions]
    if what == orders.FROZEN and state.phase == Phase.RUNNING:
        return replace(state, phase=Phase.FROZEN, why=event.why), [
            Log(Kind.SUSPEND, {"host": state.host, "reason": event.why, "processes": 1})
        ]
    if what == orders.THAWED and state.phase == Phase.FROZEN:
        return replace(state, phase=Phase.RUNNING, why="", due=max(state.due, now)), [
            Log(Kind.RESUME, {"host": state.host, "reason": event.why})
        ]
    if what == orders.LEAVING and state.phase in (Phase.RUNNING, Phase.FROZEN):
        tokens = dump.tokens if dump is not None else ()
        return _awaits(replace(state, dump=Dump(event.serial, True, tokens), leaving=event.why), now, STALL), []
    if what in (orders.DUMPING, orders.DUMPED) and dump is not None and dump.serial == event.serial:
        return _awaits(state, now, STALL), []
    if what == orders.CLOSES:
        return state, [Log(Kind.NOTE, {"host": state.host, "reason": f"leaving closes {event.why}"})]
    if what == orders.REFUSED and dump is not None and dump.serial == event.serial:
        return _refused(state, dump, event.why, now)
    if what == orders.UNABLE:
        return _unable(state, event.why, now)
    if what == orders.DEAD:
        return _dead(state, event.why, now)
    if what == orders.MOVED and state.phase in (Phase.RUNNING, Phase.FROZEN):
        return _moved(state, now)
    return state, []


def _unable(state: State, why: str, now: float) -> Steps:
    """No image can be made there. A host that can is better, but no reason not to start the job."""
    if state.phase == Phase.STARTING and not state.anyway:
        return _pass_over(replace(state, unable=state.unable or state.host), why, now)
    return state, [Log(Kind.NOTE, {"host": state.host, "reason": f"the job runs without checkpoints: {why}"})]


def _refused(state: State, dump: Dump, why: str, now: float) -> Steps:
    actions: list[Action] = [Reply(token, False, why) for token in dump.tokens]
    if not dump.tokens:
        actions.append(Log(Kind.NOTE, {"host": state.host, "reason": f"no checkpoint: {why}"}))
    if state.phase == Phase.FROZEN and dump.leaves:
        actions.append(Log(Kind.RESUME, {"host": state.host, "reason": why}))
        state = replace(state, phase=Phase.RUNNING)
    state = replace(
        state,
        dump=None,
        held=state.held and not dump.leaves,
        leaving="",
        wanted="",
        failures=state.failures + 1,
        by=inf,
    )
    told = state.leave_by < inf
    leave_by = now if told and dump.leaves else state.leave_by  # it cannot be saved: nothing to wait for
    state = replace(state, due=_next_image(state, now), leave_by=leave_by)
    return _ask_later((state, actions), now)


def _moved(state: State, now: float) -> Steps:
    """Nothing of the job is left there but what its mount may still write; the link's end says that this is done."""
    dump = state.dump
    reason = state.leaving or (
        _QUIT if state.leave_by < inf else "it was held" if state.held else "it was told to leave"
    )
    image = str(state.image) if dump is not None and dump.committed else ""
    driven = state.driven | {state.host} if state.leaving else state.driven
    waiting = (*state.waiting, *(dump.tokens if dump is not None else ()))
    # Where an owner drove it out, the owner's idle time says when it may come back.
    avoid = state.avoid if state.leaving else (*state.avoid, (state.host, _LEFT))
    return replace(
        state, phase=Phase.LEFT, live=False, dump=None, why=reason, until=now + LEASE, driven=driven, waiting=waiting,
        avoid=avoid,
    ), [Log(Kind.EVICT, {"host": state.host, "reason": reason, "image": image})]  # fmt: skip


def _dead(state: State, why: str, now: float) -> Steps:
    """The job was killed there, not by itself: as if its host were lost, only that nothing of it can be left there."""
    if state.phase == Phase.STARTING and not state.live:
        return _pass_over(state, why, now)
    if state.killing:
        return _finish(state, Result(KILLED))
    if not state.image:
        return _finish(state, Result(None, 125, why))
    dump, waiting = state.dump, state.waiting
    actions: list[Action] = [Log(Kind.LOST, {"host": state.host, "reason": why})]
    if dump is not None and dump.leaves and dump.committed:
        waiting = (*waiting, *dump.tokens)
    elif dump is not None:
        actions += [Reply(token, False, why) for token in dump.tokens]
    return replace(
        state, phase=Phase.LEFT, live=False, dump=None, why=why, until=now + LEASE, waiting=waiting,
        avoid=(*state.avoid, (state.host, why)),
    ), actions  # fmt: skip


def _after(state: State, now: float) -> Steps:
    """The old generation is over: on to the next."""
    if state.killing:
        return _finish(state, Result(KILLED))
    if state.leave_by < inf:
        return _park(state, _QUIT, now)
    if state.held:
        parked, actions = _park(state, _HELD, now)
        return parked, [Log(Kind.HOLD, {"reason": "held by its user"}), *actions]
    return _choose(state)


def _closed(state: State, event: Closed, now: float) -> Steps:
    if state.phase == Phase.STARTING and not state.live:
        return _pass_over(state, event.why, now)  # it cannot go on without GO
    dump = state.dump
    left = dump is not None and dump.leaves and dump.committed
    actions: list[Action] = [Log(Kind.DISCONNECT, {"host": state.host, "reason": event.why})]
    waiting = state.waiting
    if dump is not None and left:
        waiting = (*waiting, *dump.tokens)
    elif dump is not None:
        actions += [Reply(token, False, f"{state.host} was lost: {event.why}") for token in dump.tokens]
    avoid = (*state.avoid, (state.host, event.why)) if event.unfit else state.avoid
    return replace(
        state, phase=Phase.LOST, why=event.why, until=now + LEASE, dump=None, waiting=waiting, held=state.held,
        avoid=avoid,
    ), actions  # fmt: skip


# time and the user


def _tick(state: State, now: float) -> Steps:
    if state.phase == Phase.LOST and now >= state.until:
        if state.killing:
            return _finish(state, Result(KILLED))
        if not state.image:
            text = f"lost {state.host}, and the job with it, which had no checkpoint yet: {state.why}"
            return _finish(state, Result(None, 125, text))
        logged: list[Action] = [Log(Kind.LOST, {"host": state.host, "reason": state.why})]
        state, actions = _after(replace(state, live=False), now)
        return state, logged + actions
    if state.phase == Phase.LEFT and now >= state.until:
        old = state.generation
        state, actions = _after(state, now)
        return state, [Close(old), *actions]
    if state.phase == Phase.PARKED and not state.held and now >= state.until:
        return _choose(state)
    if state.phase in _WATCHED and now >= state.by:
        return _overdue(state, now)
    if state.phase == Phase.RUNNING and state.dump is None and not state.killing and now >= state.due:
        return _order(replace(state, due=inf), False, (), now)
    return state, []


def _overdue(state: State, now: float) -> Steps:
    """The host is there, but does not do what it was told."""
    if not state.doubted:
        return replace(state, by=now + DOUBT, doubted=True), []
    why = f"{state.host} gives signs of life, but does not do what it was told"
    dump = state.dump
    if dump is not None and not state.killing and (not dump.leaves or not state.image):
        return _refused(state, dump, why, now)  # there is more to lose than to win
    cut, actions = _closed(state, Closed(state.generation, why), now)
    return cut, [Close(state.generation), *actions]


def _ask(state: State, event: Ask, now: float) -> Steps:
    if event.what == "kill":
        return _kill(state, event.token, now)
    if event.what == "release":
        if state.phase != Phase.PARKED:
            text = "it is not held" if not state.held else "it is about to be parked; try again"
            return state, [Reply(event.token, False, text)]
        logged: list[Action] = [Log(Kind.RELEASE, {"reason": "released by its user"})] if state.held else []
        state, actions = _choose(replace(state, held=False, avoid=(), misses=0, waiting=(*state.waiting, event.token)))
        return state, logged + actions
    if state.phase == Phase.PARKED:
        return _ask_parked(state, event)
    if state.phase not in (Phase.RUNNING, Phase.FROZEN):
        return replace(state, later=(*state.later, event)), []
    if state.dump is not None:
        return _ask_dumping(state, state.dump, event), []
    if event.what == "checkpoint":
        return _order(state, False, (event.token,), now)
    if event.host == state.host:
        return state, [Reply(event.token, False, f"it is on {event.host} already")]
    return _order(replace(state, held=event.what == "hold", wanted=event.host), True, (event.token,), now)


def _ask_dumping(state: State, dump: Dump, event: Ask) -> State:
    if not dump.leaves and event.what != "checkpoint":
        return replace(state, later=(*state.later, event))
    return replace(
        state,
        dump=replace(dump, tokens=(*dump.tokens, event.token)),
        held=state.held or event.what == "hold",
        wanted=event.host or state.wanted,
    )


def _ask_later(steps: Steps, now: float) -> Steps:
    """What was put off can be done now."""
    state, actions = steps
    asked, state = state.later, replace(state, later=())
    for event in asked:
        state, more = _ask(state, event, now)
        actions = actions + more
    return state, actions


def _ask_parked(state: State, event: Ask) -> Steps:
    if event.what == "hold":
        reply = Reply(event.token, True, "the job is parked, and held now")
        held = replace(state, held=True, why=_HELD)
        return held, [*([] if state.held else [Log(Kind.HOLD, {"reason": "held by its user"})]), reply]
    if event.what == "checkpoint" or state.held:
        return state, [Reply(event.token, False, f"the job is parked: {state.why}")]
    avoid = tuple(pair for pair in state.avoid if pair[0] != event.host)
    return _choose(replace(state, wanted=event.host, avoid=avoid, waiting=(*state.waiting, event.token)))


def _kill(state: State, token: int, now: float) -> Steps:
    if state.phase in (Phase.CHOOSING, Phase.PARKED) or (state.phase == Phase.STARTING and not state.live):
        close: list[Action] = [Close(state.generation)] if state.phase == Phase.STARTING else []
        ended, actions = _finish(state, Result(KILLED))
        return ended, [*close, *actions, Reply(token, True, "the job is gone")]
    state = replace(state, killing=True)
    actions = [Reply(token, True, "the job is being killed")]
    if state.phase in (Phase.RUNNING, Phase.FROZEN):
        actions.insert(0, Order(state.generation, orders.KILL, state.serial))
        state = _awaits(state, now, ANSWER)
    return state, actions


def _finish(state: State, result: Result) -> Steps:
    asked = (*state.waiting, *(state.dump.tokens if state.dump else ()), *(event.token for event in state.later))
    logged = _ending(state, result)
    forget = result.status is not None and not state.killing and not state.asked
    ended = replace(
        state, phase=Phase.ENDED, result=result, live=False, dump=None, waiting=(), later=(),
        image=0 if forget else state.image,
    )  # fmt: skip
    return ended, [*(Reply(token, False, "the job has ended") for token in asked), logged, Finish(result, forget)]


def _ending(state: State, result: Result) -> Log:
    if result.status is None:
        return Log(Kind.ABORT, {"host": state.host, "reason": result.reason})
    number = result.status & 0x7F
    how = {"signal": number} if number else {"status": result.status >> 8}
    return Log(Kind.END, {"host": state.host, **how})


def may_run(state: State) -> Iterator[int]:
    """The generation that may be acting now, if any: for tests and for the record."""
    if state.live:
        yield state.generation
