"""What several of the handlers of shim/submit/job/placement.py do: the steps from one phase to the next. Pure."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from shim.submit.job.events import Kind
from shim.submit.job.phase import Phase
from shim.submit.job.placement_actions import Action, Choose, Finish, Log, Order, Reply, Result
from shim.submit.job.placement_events import Closed, Dump, Exited, Images, News, Place, Source, State, Steps
from shim.wire import job_messages, lease

RETRY = 15.0  # seconds between looks for a host
MOST_MISSES = 5  # 4 minutes between them, where it went on nowhere so often in a row, or died where it did
# Seconds that a job runs before its first image, which is made by itself: docs/moving.md, "The first image".
FIRST = 10.0
NEVER = -1.0  # as `every`: no image by the clock, not even a first one
# A host that gives signs of life, but does not do what it was told, is cut off: seconds to begin with it, and between
# further signs that it does it: more than the execute side's own limits, dump.CONVERSE_S and image_channel.STORE_S.
ANSWER = 60.0
STALL = 660.0
DOUBT = 5.0  # seconds more, as this process itself may have stood still all the time
GRACE = 60.0  # seconds to save the job in, when this process is told to end
KILLED = 9  # wait status of a job that was killed where nobody could ask it

LEFT_WHY = "it was told to leave it: `rexec release` lets it go back"
HELD_WHY = "it is held: `rexec release` lets it go on"
QUIT_WHY = "its supervisor was told to end"


def choose(state: State) -> Steps:
    """Look for a host: nothing of the job acts anywhere; what it leaves may stand still there."""
    search = replace(state.search, turn=state.search.turn + 1)
    state = replace(state, phase=Phase.CHOOSING, search=search, place=nowhere(state))
    return state, [Choose(search.turn, state.images.newest, state.wants.host, search.avoid, search.driven)]


def nowhere(state: State) -> Place:
    return Place(generation=state.place.generation)


def park(state: State, why: str, now: float) -> Steps:
    """Wait until `until`, longer each time where hosts were tried in vain."""
    state, over = end_source(state)
    said: list[Action] = [*over]
    said += [Reply(token, True, f"the job is parked: {why}") for token in state.wants.waiting]
    if why not in (state.why, HELD_WHY, QUIT_WHY):
        said.append(Log(Kind.NOTE, {"reason": f"parked: {why}"}))
    tried = any(reason != LEFT_WHY for _, reason in state.search.avoid)
    misses = min(state.search.misses + (1 if tried else 0), MOST_MISSES)
    avoid = tuple(pair for pair in state.search.avoid if pair[1] == LEFT_WHY)
    parked = replace(
        state,
        phase=Phase.PARKED,
        why=why,
        until=now + RETRY * 2 ** max(misses - 1, 0),
        place=nowhere(state),
        search=replace(state.search, misses=misses, avoid=avoid),
        wants=replace(state.wants, waiting=(), host=""),
    )
    return parked, said


def pass_over(state: State, why: str, now: float) -> Steps:
    """Leave out this host, where nothing of the job has acted: the next."""
    if state.wants.killing:
        return finish(state, Result(KILLED))
    if state.wants.held:
        return park(state, QUIT_WHY if state.wants.leave_by < inf else HELD_WHY, now)
    avoid = (*state.search.avoid, (state.place.host, why))
    return choose(replace(state, search=replace(state.search, avoid=avoid)))


def hand_over(state: State, dump: Dump) -> Steps:
    """Look for the next host, while what the job leaves stands still."""
    place, search = state.place, state.search
    source = Source(place.generation, place.host, dump, state.phase == Phase.FROZEN)
    if not dump.owner:  # where an owner drove it out, the owner's idle time says when it may come back
        search = replace(search, avoid=(*search.avoid, (place.host, LEFT_WHY)))
    else:
        search = replace(search, driven=search.driven | {place.host})
    return choose(
        replace(
            state,
            why=f"it leaves {place.host}, and stands still there until another host goes on with it",
            source=source,
            images=replace(state.images, dump=None),
            wants=replace(state.wants, waiting=(*state.wants.waiting, *dump.tokens)),
            search=search,
        )
    )


def end_source(state: State) -> Steps:
    """Have what the job leaves killed: it goes on elsewhere, or from its image another time."""
    source = state.source
    if source is None:
        return state, []
    told = replace(state, source=None)
    reason, image = _left(told, source.dump), str(state.images.newest)
    evicted = Log(Kind.EVICT, {"host": source.host, "reason": reason, "image": image})
    return told, [Order(source.generation, job_messages.END, source.dump.serial), evicted]


def back(state: State, source: Source, now: float, returns: str = "") -> State:
    """Where the job was, as it was when its image was committed: to be killed, or with `returns` to go on there."""
    dump = replace(source.dump, tokens=state.wants.waiting, committed=not returns, returns=returns)
    placed = replace(
        state,
        phase=Phase.FROZEN if source.frozen else Phase.RUNNING,
        why=source.dump.owner,
        place=Place(generation=source.generation, host=source.host, live=True, away=source.away),
        source=None,
        images=replace(state.images, dump=dump),
        wants=replace(state.wants, waiting=()),
        search=replace(state.search, avoid=() if returns else state.search.avoid),
    )
    return awaits(placed, now, ANSWER)


def returned(state: State, dump: Dump, now: float) -> Steps:
    """It goes on where it was, or stands still there for its host's owner: say why."""
    actions: list[Action] = [Reply(token, False, dump.returns) for token in dump.tokens]
    actions.append(Log(Kind.NOTE, {"host": state.place.host, "reason": dump.returns}))
    state = replace(
        state,
        why=dump.returns if state.phase == Phase.FROZEN else "",
        images=replace(state.images, dump=None, due=next_image(state, now)),
        wants=replace(state.wants, host=""),
    )
    return settled(state), actions


def keeps(state: State, dump: Dump, now: float) -> Steps:
    """Have the job go on where it stands: nothing could go on from the image with which it was to be parked."""
    why = f"the job is not movable ({state.images.obstacle}): it goes on on {state.place.host}"
    images = replace(state.images, dump=replace(dump, committed=False, returns=why))
    told = awaits(replace(state, images=images, wants=replace(state.wants, held=False)), now, ANSWER)
    return told, [Order(state.place.generation, job_messages.THAW, dump.serial, why)]


def of_kinds(images: Images, kinds: frozenset[str]) -> Images:
    """The newest image has resources of these kinds: what was shown of others tells nothing of it."""
    return images if kinds == images.kinds else replace(images, kinds=kinds, tried=0, movable=False, obstacle="")


def awaits(state: State, now: float, seconds: float) -> State:
    """The host must show within that time that it does what it was told."""
    return replace(state, place=replace(state.place, by=now + seconds, doubted=False))


def due_by(place: Place) -> float:
    """Return when its host must have shown that it does what it was told; inf while it is out of touch and acts."""
    return inf if place.away < inf and place.live else place.by


def settled(state: State) -> State:
    """The host has done what it was told, unless it was told more since."""
    if state.images.dump is not None or state.wants.killing:
        return state
    return replace(state, place=replace(state.place, by=inf))


def next_image(state: State, now: float) -> float:
    """When the clock wants an image."""
    every = state.wants.every
    wait = every if every > 0 else inf
    if not state.images.newest and every != NEVER:
        # What does not work now may work later: twice as long each time, lest the log fill.
        wait = min(wait, FIRST * 2**state.images.failures)
    return now + wait


def order(state: State, leaves: bool, tokens: tuple[int, ...], now: float) -> Steps:
    """Have a dump taken."""
    serial = state.images.serial + 1
    dump = Dump(serial, leaves, tokens)
    state = awaits(replace(state, images=replace(state.images, serial=serial, dump=dump)), now, ANSWER)
    return state, [Order(state.place.generation, job_messages.VACATE if leaves else job_messages.CHECKPOINT, serial)]


def order_kill(state: State) -> Order:
    return Order(state.place.generation, job_messages.KILL, state.images.serial)


def runs(state: State, now: float) -> Steps:
    """Say to all who wait for it that the job runs; where it is to die, or to be held, order that."""
    missed = passed_over(state)
    actions: list[Action] = [Log(Kind.NOTE, {"host": h, "reason": f"passed over: {why}"}) for h, why in missed]
    actions.append(Log(Kind.EXECUTE, {"host": state.place.host}))
    wanted, text, there = state.wants.host, f"the job goes on on {state.place.host}", True
    if wanted not in ("", state.place.host):
        text, there = f"{text} and not on {wanted}: {dict(state.search.avoid).get(wanted, LEFT_WHY)}", False
    actions += [Reply(token, there, text) for token in state.wants.waiting]
    state = replace(
        state,
        phase=Phase.RUNNING,
        began=True,
        why="",
        place=replace(state.place, live=True),
        search=replace(state.search, avoid=()),
        wants=replace(state.wants, host="", waiting=()),
        images=replace(state.images, due=next_image(state, now)),
    )
    if state.wants.killing:
        return awaits(state, now, ANSWER), [*actions, order_kill(state)]
    if state.wants.held and state.wants.leave_by == inf:
        state, more = order(state, True, (), now)
        return state, actions + more
    return state, actions


def passed_over(state: State) -> list[tuple[str, str]]:
    """Tell which hosts the job, now at one, could not go to on its way, and why: (host, why)."""
    # It may be at one of them after all: where none can make images of it, it runs at the first without.
    return [(host, why) for host, why in state.search.avoid if why != LEFT_WHY and host != state.place.host]


def closed(state: State, event: Closed, now: float) -> Steps:
    """The link is lost: the job may go on there until the agent's lease is over, or is known to be gone."""
    dump, waiting = state.images.dump, state.wants.waiting
    actions: list[Action] = []
    if state.place.away == inf:
        actions.append(Log(Kind.DISCONNECT, {"host": state.place.host, "reason": event.why}))
    if dump is not None and dump.leaves and dump.committed:
        waiting = (*waiting, *dump.tokens)
    elif dump is not None:
        actions += [Reply(token, False, f"{state.place.host} was lost: {event.why}") for token in dump.tokens]
    avoid = (*state.search.avoid, (state.place.host, event.why)) if event.unfit else state.search.avoid
    return replace(
        state,
        phase=Phase.LOST,
        why=event.why,
        until=now + event.stays + lease.LOST,
        place=replace(state.place, by=inf, doubted=False, away=inf),
        images=replace(state.images, dump=None),
        wants=replace(state.wants, waiting=waiting),
        search=replace(state.search, avoid=avoid),
    ), actions


def leaves(state: State, why: str, waiting: tuple[int, ...], avoid: tuple[tuple[str, str], ...], now: float) -> State:
    """The job no longer acts there. What its mount may still write is done when the link has ended."""
    return replace(
        state,
        phase=Phase.LEFT,
        why=why,
        until=now + lease.LOST,
        place=replace(state.place, live=False, by=inf, doubted=False, away=inf),
        images=replace(state.images, dump=None),
        wants=replace(state.wants, waiting=waiting),
        search=replace(state.search, avoid=avoid),
    )


def _left(state: State, dump: Dump | None) -> str:
    """Why the job leaves its host."""
    told = QUIT_WHY if state.wants.leave_by < inf else "it was held" if state.wants.held else "it was told to leave"
    return (dump.owner if dump is not None else "") or told


def moved(state: State, event: News | Exited, now: float) -> Steps:
    """Nothing of the job is left there but what its mount may still write; the link's end says that this is done."""
    dump, host = state.images.dump, state.place.host
    owner = dump.owner if dump is not None else ""
    reason = _left(state, dump)
    image = str(state.images.newest) if dump is not None and dump.committed else ""
    waiting = (*state.wants.waiting, *(dump.tokens if dump is not None else ()))
    # Where an owner drove it out, the owner's idle time says when it may come back.
    told = owner or (host, LEFT_WHY) in state.search.avoid
    avoid = state.search.avoid if told else (*state.search.avoid, (host, LEFT_WHY))
    state = leaves(state, reason, waiting, avoid, now)
    if owner:
        state = replace(state, search=replace(state.search, driven=state.search.driven | {host}))
    return state, [Log(Kind.EVICT, {"host": host, "reason": reason, "image": image})]


def after(state: State, now: float) -> Steps:
    """The old generation is over: on to the next."""
    if state.wants.killing:
        return finish(state, Result(KILLED))
    if state.wants.leave_by < inf:
        return park(state, QUIT_WHY, now)
    if state.wants.held:
        parked, actions = park(state, HELD_WHY, now)
        return parked, [Log(Kind.HOLD, {"reason": "held by its user"}), *actions]
    return choose(state)


def of_dump(state: State, serial: int) -> Dump | None:
    """The dump under way, if it has that serial; else what is said is of one that was given up."""
    dump = state.images.dump
    return dump if dump is not None and dump.serial == serial else None


def give_up(state: State, dump: Dump, why: str, now: float) -> Steps:
    """That dump will not be: say so, and let the job go on where it is."""
    actions: list[Action] = [Reply(token, False, why) for token in dump.tokens]
    if not dump.tokens:
        actions.append(Log(Kind.NOTE, {"host": state.place.host, "reason": f"no checkpoint: {why}"}))
    if state.phase == Phase.FROZEN and dump.leaves:
        actions.append(Log(Kind.RESUME, {"host": state.place.host, "reason": why}))
        state = replace(state, phase=Phase.RUNNING)
    # Where this process is to end and the job cannot be saved, there is nothing more to wait for.
    leave_by = now if dump.leaves and state.wants.leave_by < inf else state.wants.leave_by
    state = replace(
        state,
        images=replace(state.images, dump=None, failures=state.images.failures + 1),
        wants=replace(state.wants, held=state.wants.held and not dump.leaves, host="", leave_by=leave_by),
    )
    state = replace(state, images=replace(state.images, due=next_image(state, now)))
    return settled(state), actions


def finish(state: State, result: Result) -> Steps:
    """The job has ended; its images go too, if only the clock had wanted them, in case a host is lost."""
    wants, dump = state.wants, state.images.dump
    asked = (*wants.waiting, *(dump.tokens if dump else ()), *(event.token for event in wants.later))
    forget = result.status is not None and not wants.killing and not wants.images
    state, over = end_source(state)
    ended = replace(
        state,
        phase=Phase.ENDED,
        result=result,
        place=replace(state.place, live=False, by=inf, doubted=False, away=inf),
        images=replace(state.images, dump=None, newest=0 if forget else state.images.newest),
        wants=replace(wants, waiting=(), later=()),
    )
    said = [Reply(token, False, "the job has ended") for token in asked]
    return ended, [*over, *said, ending(state, result), Finish(result, forget)]


def ending(state: State, result: Result) -> Log:
    if result.status is None:
        return Log(Kind.ABORT, {"host": state.place.host, "reason": result.reason})
    number = result.status & 0x7F
    how = {"signal": number} if number else {"status": result.status >> 8}
    return Log(Kind.END, {"host": state.place.host, **how})
