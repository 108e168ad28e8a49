"""Decide whether a job is taken up where a supervisor before this one has left it, and have that done."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from shim.submit.job import placement_events, placement_steps
from shim.submit.job.agent_file import Noted
from shim.submit.job.events import Event, Kind
from shim.submit.job.phase import Phase
from shim.submit.job.placement_events import Ask, Images, Place, Quit, State, Steps, Taken, Wants
from shim.submit.job.record import NEVER, Record
from shim.submit.job.taken_up import Offer
from shim.submit.job.visits import Visits

AGAIN = "it is being taken up where it runs: ask again in a moment"


def take_up(
    visits: Visits, record: Record, left: list[Noted], wait: Callable[[Offer], Taken], note: Callable[[Event], None]
) -> tuple[Steps | None, str]:
    """Wait until it goes on where it runs, as the first step; or None and why it does not, which the log says too."""
    why = _never(record, left)
    if not why:
        said = wait(visits.take_up(left[0], record.image))
        if not said.why:
            note(Event(time.time(), Kind.RECONNECT, host=record.host, reason="it has another supervisor, and goes on"))
            return (_runs(record, said.serial), []), ""
        why = said.why
    note(Event(time.time(), Kind.NOTE, host=record.host, reason=f"it is not taken up where it ran: {why}"))
    return None, why


def meanwhile(
    offer: Offer, events: Callable[[], placement_events.Event], answer: Callable[[int, bool, str], None]
) -> tuple[Taken, deque[placement_events.Event]]:
    """Wait for what comes of the offer; and return with it what has happened before, in order.

    To be killed, or this process's end, is not kept waiting for a host: the offer is given up. All else that is asked
    is refused, as of a host that is out of touch.
    """
    early: deque[placement_events.Event] = deque()
    while True:
        event = events()
        if isinstance(event, Taken):
            return event, early
        if isinstance(event, Ask) and event.what != "kill":
            answer(event.token, False, AGAIN)
            continue
        early.append(event)
        if isinstance(event, (Ask, Quit)) and offer.give_up():
            return Taken(0, why="it is to end"), early


def whence(record: Record, taken: bool, why: str) -> str:
    """Say from where the job goes on, as a clause; `why` it was not taken up where it ran, if that was tried."""
    if taken:
        return f"where it runs, on {record.host}"
    from_image = f"from image {record.image}" if record.image else "from its beginning"
    return f"{from_image}: it is not taken up where it ran, as {why}" if why else from_image


def _never(record: Record, left: list[Noted]) -> str:
    """Say why it is not even tried; empty: it is."""
    if [each.generation for each in left] != [record.generation]:
        return "it is not known to be on one host alone"
    return "" if record.phase == Phase.RUNNING else f"its supervisor ended while it was {record.phase}"


def _images(record: Record) -> Images:
    """What was known of its images."""
    return Images(
        newest=record.image, restored=record.restored, movable=record.movable, obstacle=record.obstacle
    )  # fmt: skip


def _runs(record: Record, serial: int) -> State:
    """Where it stands then; `serial`: of its last dump."""
    wants = Wants(every=record.every, patient=True, images=True, rehearse=record.rehearse != NEVER)
    state = State(
        phase=Phase.RUNNING,
        began=True,
        last=record.generation,
        wants=wants,
        place=Place(generation=record.generation, host=record.host, live=True),
        images=replace(_images(record), serial=serial),
    )
    return replace(state, images=replace(state.images, due=placement_steps.next_image(state, time.monotonic())))
