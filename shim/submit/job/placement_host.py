"""What follows from what a look for a host, a host, or its silence tells: handlers of placement.py. Pure.

Each is given the state, the event, and `now` in monotonic seconds, and returns the next state and what to do.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

from shim.submit.job import placement_steps as steps
from shim.submit.job.events import Kind
from shim.submit.job.phase import Phase
from shim.submit.job.placement_actions import Action, Close, Connect, Log, Order, Rehearse, Reply, Result, Start
from shim.submit.job.placement_events import (
    Began,
    Chosen,
    Closed,
    Committed,
    Connected,
    Dump,
    Event,
    Exited,
    Failed,
    Fault,
    News,
    NoHost,
    Place,
    Rehearsed,
    SlotFree,
    Source,
    State,
    Steps,
    Stirs,
    Tick,
    Unreached,
)
from shim.wire import job_messages


def chosen(state: State, event: Chosen, now: float) -> Steps:
    """Connect to it, as a new generation."""
    place = Place(generation=state.last + 1, host=event.host)
    state = replace(state, phase=Phase.STARTING, place=place, last=place.generation)
    return state, [Connect(place.generation, place.host)]


def no_host(state: State, event: NoHost, now: float) -> Steps:
    """Park the job; one that has never run goes where no images can be made, if anywhere, or ends.

    It ends where waiting will not help and nobody asked it to wait. What stands still where it left is killed first if
    there is no host; if there was one, and it could not go on with it, that goes on.
    """
    if state.source is not None:
        return no_host_left(state, state.source, event, now)
    unable = state.search.unable
    if event.hopeless and not state.began and unable:
        state = replace(state, search=replace(state.search, unable=""))
        state, actions = chosen(state, Chosen(event.turn, unable), now)
        return replace(state, place=replace(state.place, anyway=True)), actions
    if event.hopeless and not state.began and not state.wants.patient:
        return steps.finish(state, Result(None, 125, event.why))
    return steps.park(state, event.why, now)


def no_host_left(state: State, source: Source, event: NoHost, now: float) -> Steps:
    """Have what stands still killed, if no host was there; if none could go on with the job, have it go on itself."""
    obstacle = state.images.obstacle
    if not source.tried and not event.nowhere and not obstacle:
        if source.away < inf:  # it stands still for good: it is told END, and nothing else ever
            return steps.park(state, event.why, now)
        told = steps.back(state, source, now)
        return told, [Order(source.generation, job_messages.END, source.dump.serial)]
    each = [f"{host}: {why}" for host, why in state.search.avoid if why != steps.LEFT_WHY]
    failed = "; ".join([*each, event.why] if event.nowhere or not source.tried else each)
    failed = f"{failed}; as rehearsed: {obstacle}" if obstacle else failed
    where = f"it stands still on {source.host}" if source.frozen else f"it goes on on {source.host}"
    returns = f"no host could go on with the job ({failed}): {where}"
    told = steps.back(state, source, now, returns)
    return told, [Order(source.generation, job_messages.THAW, source.dump.serial, returns)]


def source_gone(state: State, event: Event, now: float) -> Steps:
    """Log that what stood still is gone: the job goes on from its image all the same."""
    assert state.source is not None
    reason = "what stood still there until another host went on with the job is gone; its image is there"
    return replace(state, source=None), [Log(Kind.NOTE, {"host": state.source.host, "reason": reason})]


def held(state: State, event: News, now: float) -> Steps:
    """Its image is committed, and it stands still: look for the next host, unless there is to be none; then kill it."""
    dump = steps.of_dump(state, event.serial)
    wants = state.wants
    stays = wants.held or wants.leave_by < inf
    mine = dump is not None and dump.leaves and dump.committed and not wants.killing
    if dump is not None and mine and wants.held and wants.leave_by == inf and state.images.obstacle:
        return steps.keeps(state, dump, now)
    if dump is None or not mine or stays or (dump.at_once and not state.images.obstacle):
        return steps.awaits(state, now, steps.ANSWER), [Order(event.generation, job_messages.END, event.serial)]
    return steps.hand_over(state, dump)


def look_again(state: State, event: Tick, now: float) -> Steps:
    """Look for a host again, when it is time and the job is not held."""
    return steps.choose(state) if not state.wants.held and now >= state.until else (state, [])


def slot_free(state: State, event: SlotFree, now: float) -> Steps:
    """Look for a host at once, where it waits for one: it has got the slots that it waited for."""
    return steps.choose(state) if not state.wants.held else (state, [])


def connected(state: State, event: Connected, now: float) -> Steps:
    """Send START: from now on a fresh job may act."""
    state = replace(state, place=replace(state.place, live=not state.images.newest))
    return steps.awaits(state, now, steps.STALL), [Start(state.place.generation, state.images.newest)]


def tried(state: State) -> State:
    """A host was given the image, and could not go on from it."""
    return replace(state, source=replace(state.source, tried=True)) if state.source is not None else state


def unreached(state: State, event: Unreached, now: float) -> Steps:
    """Pass over a host that cannot be reached."""
    return steps.pass_over(state, event.why, now)


def began_starting(state: State, event: Began, now: float) -> Steps:
    """A fresh job runs; one from an image was said to run before it was let go on, which changes nothing."""
    return steps.runs(steps.settled(state), now) if not state.images.newest else (steps.settled(state), [])


def restored(state: State, event: News, now: float) -> Steps:
    """Let the restored job go on: it may act from now on. Unless its user wants it dead or held by now."""
    if not state.images.newest:
        return state, []
    if state.wants.killing or state.wants.held:
        state, actions = steps.pass_over(state, "", now)
        return state, [Close(event.generation), *actions]
    state, over = steps.end_source(state)
    images = replace(state.images, restored=state.images.newest, tried=state.images.newest, movable=True, obstacle="")
    state = replace(state, images=images)
    state, actions = steps.runs(steps.awaits(state, now, steps.ANSWER), now)
    return state, [*over, Order(event.generation, job_messages.GO, event.generation), *actions]


def exited_starting(state: State, event: Exited, now: float) -> Steps:
    """A fresh job has ended before it was said to run; a restored one never ran, so another host is tried."""
    if not state.place.live:
        return steps.pass_over(tried(state), "the job ended there before it was let go on", now)
    return exited(state, event, now)


def failed_starting(state: State, event: Failed, now: float) -> Steps:
    """Pass over a host on which rexec failed; what the job's own command failed with is its end."""
    return steps.pass_over(tried(state), event.text, now) if event.code == 125 else failed(state, event, now)


def unable_starting(state: State, event: News, now: float) -> Steps:
    """Pass over a host on which no image can be made, unless there is none better: then the job runs without."""
    if state.place.anyway:
        return unable(state, event, now)
    search = replace(state.search, unable=state.search.unable or state.place.host)
    return steps.pass_over(tried(replace(state, search=search)), event.why, now)


def unable(state: State, event: News, now: float) -> Steps:
    """Log that the job runs without checkpoints."""
    return state, [
        Log(Kind.NOTE, {"host": state.place.host, "reason": f"the job runs without checkpoints: {event.why}"})
    ]


def dead_starting(state: State, event: News, now: float) -> Steps:
    """Pass over a host on which the job was killed before it went on."""
    return steps.pass_over(tried(state), event.why, now) if not state.place.live else dead(state, event, now)


def closed_starting(state: State, event: Closed, now: float) -> Steps:
    """Pass over a host that is lost: without GO the job cannot go on there."""
    return steps.pass_over(tried(state), event.why, now) if not state.place.live else steps.closed(state, event, now)


def began(state: State, event: Began, now: float) -> Steps:
    """It runs: nothing more is awaited of its host, but a dump or its death."""
    return steps.settled(state), []


def stirs(state: State, event: Stirs, now: float) -> Steps:
    """Part of an image came or went: the host has time again."""
    awaited = state.place.by < inf and not state.wants.killing
    return (steps.awaits(state, now, steps.STALL) if awaited else state), []


def exited(state: State, event: Exited, now: float) -> Steps:
    """The job has ended. One that is frozen with its image committed can only have been killed for the move."""
    dump = state.images.dump
    if dump is not None and dump.leaves and dump.committed:
        return steps.moved(state, event, now)
    return steps.finish(state, Result(event.status))


def failed(state: State, event: Failed, now: float) -> Steps:
    """The job has ended by rexec's own failure, or by its command's."""
    return steps.finish(state, Result(None, event.code, event.text))


def frozen(state: State, event: News, now: float) -> Steps:
    """The owner is back, and the job stands still."""
    logged = Log(Kind.SUSPEND, {"host": state.place.host, "reason": event.why, "processes": 1})
    return replace(state, phase=Phase.FROZEN, why=event.why), [logged]


def thawed(state: State, event: News, now: float) -> Steps:
    """The owner has gone again, and the job goes on."""
    images = replace(state.images, due=max(state.images.due, now))
    logged = Log(Kind.RESUME, {"host": state.place.host, "reason": event.why})
    return replace(state, phase=Phase.RUNNING, why="", images=images), [logged]


def fault(state: State, event: Fault, now: float) -> Steps:
    """Log what went wrong here."""
    return state, [Log(Kind.NOTE, {"host": state.place.host, "reason": event.text})]


def closes(state: State, event: News, now: float) -> Steps:
    """Log which connections the job loses by leaving."""
    return state, [Log(Kind.NOTE, {"host": state.place.host, "reason": f"leaving closes {event.why}"})]


def dead(state: State, event: News, now: float) -> Steps:
    """The job was killed there, not by itself: as if its host were lost, only that nothing of it can be left there."""
    if state.wants.killing:
        return steps.finish(state, Result(steps.KILLED))
    if not state.images.newest:
        return steps.finish(state, Result(None, 125, event.why))
    dump, waiting = state.images.dump, state.wants.waiting
    actions: list[Action] = [Log(Kind.LOST, {"host": state.place.host, "reason": event.why})]
    if dump is not None and dump.leaves and dump.committed:
        waiting = (*waiting, *dump.tokens)
    elif dump is not None:
        actions += [Reply(token, False, event.why) for token in dump.tokens]
    avoid = (*state.search.avoid, (state.place.host, event.why))
    return steps.leaves(state, event.why, waiting, avoid, now), actions


def over_by(state: State, event: Tick, now: float) -> Steps:
    """Cut off a host that has not done what it was told."""
    return overdue(state, now) if now >= steps.due_by(state.place) else (state, [])


def clock(state: State, event: Tick, now: float) -> Steps:
    """As while starting; and order the image that the clock wants."""
    if now >= steps.due_by(state.place):
        return overdue(state, now)
    if clock_wants(state) and now >= state.images.due:
        return steps.order(replace(state, images=replace(state.images, due=inf)), False, (), now)
    return state, []


def clock_wants(state: State) -> bool:
    in_touch = state.place.away == inf
    return state.phase == Phase.RUNNING and state.images.dump is None and not state.wants.killing and in_touch


def overdue(state: State, now: float) -> Steps:
    """The host is there, but does not do what it was told."""
    if not state.place.doubted:
        return replace(state, place=replace(state.place, by=now + steps.DOUBT, doubted=True)), []
    why = f"{state.place.host} gives signs of life, but does not do what it was told"
    if state.place.away < inf:
        why = f"{state.place.host} went out of touch before the job could go on there"
    dump = state.images.dump
    if dump is not None and not state.wants.killing and (not dump.leaves or not state.images.newest):
        return steps.give_up(state, dump, why, now)  # there is more to lose than to win
    if not state.place.live:
        cut, actions = steps.pass_over(tried(state), why, now)
    else:
        cut, actions = steps.closed(state, Closed(state.place.generation, why), now)
    return cut, [Close(state.place.generation), *actions]


def leaving(state: State, event: News, now: float) -> Steps:
    """The owner drives the job away: a dump has begun by itself, in place of one that was ordered."""
    tokens = state.images.dump.tokens if state.images.dump is not None else ()
    dump = Dump(event.serial, True, tokens, owner=event.why, at_once=event.at_once)
    return steps.awaits(replace(state, images=replace(state.images, dump=dump)), now, steps.STALL), []


def dumping(state: State, event: News, now: float) -> Steps:
    """The dump gets on: the host has time again."""
    return (steps.awaits(state, now, steps.STALL) if steps.of_dump(state, event.serial) else state), []


def committed(state: State, event: Committed, now: float) -> Steps:
    """The image is the one to go on from, whoever ordered it, and even if nobody waits for it any more."""
    size: dict[str, object] = {"host": state.place.host, "image": str(event.image), "size": event.size}
    logged: list[Action] = [Log(Kind.CHECKPOINT, size)]
    under_way, dump = state.images.dump, steps.of_dump(state, event.serial)
    by_user = under_way is None or under_way.leaves or under_way.tokens != () or state.wants.every > 0
    state = replace(
        state,
        images=steps.of_kinds(replace(state.images, newest=event.image), event.kinds),
        wants=replace(state.wants, images=state.wants.images or by_user),
        search=replace(state.search, misses=0),
        began=True,
    )
    state = replace(state, images=replace(state.images, due=steps.next_image(state, now)))
    leaves = under_way is not None and under_way.leaves
    if state.wants.rehearse and not leaves and not state.images.tried:
        state = replace(state, images=replace(state.images, tried=event.image))
        logged.append(Rehearse(event.generation, state.place.host, event.image))
    if dump is None:
        return state, logged
    if dump.leaves:
        images = replace(state.images, dump=replace(dump, committed=True))
        return steps.awaits(replace(state, images=images), now, steps.ANSWER), logged
    logged += [Reply(token, True, f"image {event.image} is committed") for token in dump.tokens]
    return steps.settled(replace(state, images=replace(state.images, dump=None))), logged


def rehearsed(state: State, event: Rehearsed, now: float) -> Steps:
    """Take note whether the job is movable, as an image of it was restored beside it, or could not be: nothing else."""
    images = state.images
    if event.image != images.tried:
        return state, []  # what it has shown is of other kinds of resources
    if event.movable is None and not event.why:
        return replace(state, images=replace(images, tried=0)), []
    if event.movable is None:
        reason = f"image {event.image} was not restored here to see whether the job is movable: {event.why}"
    elif event.movable:
        reason = f"the job is movable: image {event.image} was restored here up to the point at which it would go on"
        images = replace(images, restored=max(event.image, images.restored), movable=True)
    else:
        reason = f"the job is not movable: {event.why}"
        images = replace(images, obstacle=event.why)
    return replace(state, images=images), [Log(Kind.NOTE, {"host": state.place.host, "reason": reason})]


def refused(state: State, event: News, now: float) -> Steps:
    """No image could be made, or no host could go on from it: the job goes on where it is."""
    dump = steps.of_dump(state, event.serial)
    if dump is not None and dump.returns:
        return steps.returned(state, dump, now)
    return (state, []) if dump is None else steps.give_up(state, dump, event.why, now)


def gone(state: State, event: Closed, now: float) -> Steps:
    """Its last words are said: on to the next host."""
    return steps.after(state, now)


def gone_by(state: State, event: Tick, now: float) -> Steps:
    """Its last words do not come: cut it off, and on to the next host."""
    if now < state.until:
        return state, []
    old = state.place.generation
    state, actions = steps.after(state, now)
    return state, [Close(old), *actions]


def lost_by(state: State, event: Tick, now: float) -> Steps:
    """Its lease is over, so nothing of it acts: on to the next host, if there is an image to go on from."""
    if now < state.until:
        return state, []
    if state.wants.killing:
        return steps.finish(state, Result(steps.KILLED))
    if not state.images.newest:
        text = f"lost {state.place.host}, and the job with it, which had no checkpoint yet: {state.why}"
        return steps.finish(state, Result(None, 125, text))
    logged: list[Action] = [Log(Kind.LOST, {"host": state.place.host, "reason": state.why})]
    state, actions = steps.after(replace(state, place=replace(state.place, live=False)), now)
    return state, logged + actions
