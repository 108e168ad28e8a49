"""Decide whether a job is taken up where a supervisor before this one has left it, and have that done."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from shim.submit.job import placement_steps
from shim.submit.job.agent_file import Noted
from shim.submit.job.events import Event, Kind
from shim.submit.job.placement_events import Images, Phase, Place, State, Steps, Wants
from shim.submit.job.record import NEVER, Record
from shim.submit.job.visits import Visits


def take_up(visits: Visits, record: Record, left: list[Noted], note: Callable[[Event], None]) -> Steps | None:
    """Wait until it goes on where it runs, as the first step; None: it does not, and the log says why."""
    why = _never(record, left)
    if not why:
        said = visits.take_up(left[0], record.image).get()
        if isinstance(said, int):
            note(Event(time.time(), Kind.RECONNECT, host=record.host, reason="it has another supervisor, and goes on"))
            return _runs(record, said), []
        why = said
    note(Event(time.time(), Kind.NOTE, host=record.host, reason=f"it is not taken up where it ran: {why}"))
    return None


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
