"""Which jobs of a batch go before which: what was asked of their priorities, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

from remoteio.errors import RexecError
from shim.submit.batch.journal import Journal
from shim.submit.batch.moving import MovingRun
from shim.submit.batch.places import Places
from shim.submit.batch.runs import Run
from shim.submit.batch.story import FINAL, Order, Story


def give(order: Order, journal: Journal, places: Places, runs: Mapping[int, Run | MovingRun]) -> None:
    """Give a job, or all, the priority that was asked for. Raises RexecError."""
    if order.job is not None and journal.story.item(order.job).state in FINAL:
        raise RexecError("it has ended")
    begun = [run.found.id for run in runs.values() if isinstance(run, MovingRun) and run.found is not None]
    places.prioritize(order.priority, None if order.job is None else (order.job,), begun)
    journal.add({"priority": order.priority, "job": order.job})


def words(story: Story, job: int) -> list[str]:
    """Return what a run's command line says of it, where no engine was told."""
    own = story.priorities.get(job, story.priority)
    return [] if own is None else ["--priority", str(own)]


def in_turn(story: Story, first: int) -> Iterable[int]:
    """List the jobs from the `first` on, in the order in which they are to begin; some of them twice."""
    return chain(story.sooner(), range(first, story.count))
