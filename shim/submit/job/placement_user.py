"""What follows from what the user wants, and from the end of this process: handlers of placement.py. Pure.

Each is given the state, the event, and `now` in monotonic seconds, and returns the next state and what to do.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

from shim.submit.job import placement_steps as steps
from shim.submit.job import placement_touch as touch
from shim.submit.job.events import Kind
from shim.submit.job.phase import Phase
from shim.submit.job.placement_actions import Action, Close, Leave, Log, Reply, Result
from shim.submit.job.placement_events import Ask, Dump, Heavy, Quit, State, Steps


def put_off(state: State, event: Ask, now: float) -> Steps:
    """Do it when the job runs again, or is parked."""
    return replace(state, wants=replace(state.wants, later=(*state.wants.later, event))), []


def ask_checkpoint(state: State, event: Ask, now: float) -> Steps:
    """Order an image, or wait with whoever waits for the one under way."""
    if state.place.away < inf:
        return touch.refuse(state, event)
    dump = state.images.dump
    return steps.order(state, False, (event.token,), now) if dump is None else join(state, dump, event)


def ask_leave(state: State, event: Ask, now: float) -> Steps:
    """Order an image to leave with; if it is leaving already, wait with the others; if an image is made, for that."""
    if state.place.away < inf:
        return touch.refuse(state, event)
    dump = state.images.dump
    if dump is not None:
        return join(state, dump, event) if dump.leaves else put_off(state, event, now)
    if event.host == state.place.host:
        return state, [Reply(event.token, False, f"it is on {event.host} already")]
    wants = replace(state.wants, held=event.what == "hold", host=event.host)
    return steps.order(replace(state, wants=wants), True, (event.token,), now)


def join(state: State, dump: Dump, event: Ask) -> Steps:
    held, host = state.wants.held or event.what == "hold", event.host or state.wants.host
    return replace(
        state,
        images=replace(state.images, dump=replace(dump, tokens=(*dump.tokens, event.token))),
        wants=replace(state.wants, held=held, host=host),
    ), []


def ask_parked(state: State, event: Ask, now: float) -> Steps:
    """Nothing runs that could be saved."""
    return state, [Reply(event.token, False, f"the job is parked: {state.why}")]


def vacate_parked(state: State, event: Ask, now: float) -> Steps:
    """Look for a host again, the named one first, unless the job is held."""
    if state.wants.held:
        return ask_parked(state, event, now)
    avoid = tuple(pair for pair in state.search.avoid if pair[0] != event.host)
    wants = replace(state.wants, host=event.host, waiting=(*state.wants.waiting, event.token))
    return steps.choose(replace(state, wants=wants, search=replace(state.search, avoid=avoid)))


def hold_parked(state: State, event: Ask, now: float) -> Steps:
    """It stays parked until it is released."""
    logged: list[Action] = [] if state.wants.held else [Log(Kind.HOLD, {"reason": "held by its user"})]
    held = replace(state, wants=replace(state.wants, held=True), why=steps.HELD_WHY)
    return held, [*logged, Reply(event.token, True, "the job is parked, and held now")]


def release(state: State, event: Ask, now: float) -> Steps:
    """Look for a host again, any."""
    logged: list[Action] = [Log(Kind.RELEASE, {"reason": "released by its user"})] if state.wants.held else []
    wants = replace(state.wants, held=False, waiting=(*state.wants.waiting, event.token))
    search = replace(state.search, avoid=(), misses=0)
    state, actions = steps.choose(replace(state, wants=wants, search=search))
    return state, logged + actions


def not_parked(state: State, event: Ask, now: float) -> Steps:
    """There is nothing to release."""
    text = "it is not held" if not state.wants.held else "it is about to be parked; try again"
    return state, [Reply(event.token, False, text)]


def kill_nowhere(state: State, event: Ask, now: float) -> Steps:
    """Nothing of the job acts: it has ended."""
    ended, actions = steps.finish(state, Result(steps.KILLED))
    return ended, [*actions, Reply(event.token, True, "the job is gone")]


def kill_starting(state: State, event: Ask, now: float) -> Steps:
    """As nowhere, if it cannot have begun; else kill it as soon as it has."""
    if state.place.live:
        return kill_unseen(state, event, now) if state.place.away == inf else touch.kill(state, event, now)
    ended, actions = kill_nowhere(state, event, now)
    return ended, [Close(state.place.generation), *actions]


def kill_there(state: State, event: Ask, now: float) -> Steps:
    """Have it killed where it runs."""
    if state.place.away < inf:
        return touch.kill(state, event, now)
    state, said = kill_unseen(state, event, now)
    return steps.awaits(state, now, steps.ANSWER), [steps.order_kill(state), *said]


def kill_unseen(state: State, event: Ask, now: float) -> Steps:
    """It may be acting where nobody can be told: it ends when that is over."""
    killing = replace(state, wants=replace(state.wants, killing=True))
    return killing, [Reply(event.token, True, "the job is being killed")]


def ask_ended(state: State, event: Ask, now: float) -> Steps:
    """There is no job any more."""
    return state, [Reply(event.token, False, "the job has ended")]


def heavy(state: State, event: Heavy, now: float) -> Steps:
    """An image is wanted now."""
    return replace(state, images=replace(state.images, due=min(state.images.due, now))), []


def quit(state: State, event: Quit, now: float) -> Steps:
    """Have the job saved and parked within steps.GRACE: step() looks after each event how far that is."""
    leave_by = min(state.wants.leave_by, now + steps.GRACE)
    return replace(state, wants=replace(state.wants, leave_by=leave_by, held=True)), []


def quit_nowhere(state: State, event: Quit, now: float) -> Steps:
    """Nothing of the job acts: park it."""
    state, _ = quit(state, event, now)
    return steps.park(state, steps.QUIT_WHY, now)


def quit_starting(state: State, event: Quit, now: float) -> Steps:
    """As nowhere, if it cannot have begun."""
    if state.place.live:
        return quit(state, event, now)
    parked, actions = quit_nowhere(state, event, now)
    return parked, [Close(state.place.generation), *actions]


def leave(state: State, now: float) -> Steps:
    """End this process if it can end now; else do what that still takes."""
    if state.phase == Phase.PARKED and state.images.newest:
        return state, [Leave("its supervisor was told to end, and the job is saved")]
    if state.phase == Phase.PARKED or now >= state.wants.leave_by:
        return state, [Leave("its supervisor was told to end before the job could be saved")]
    if state.phase in (Phase.RUNNING, Phase.FROZEN) and state.images.dump is None and not state.wants.killing:
        return steps.order(state, True, (), now)
    return state, []
