"""Jobs that can be checkpointed, in places of an engine's: which leave theirs, and what the engine is told then.

What the user asks for is done to the job first: it is saved while its place is there, and only then the engine takes
that back. A place in which its job stands about, as its host's owner or its user has driven it out or it could not go
on there, is given back too; a job to which that happens again and again is held.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import inf

from remoteio.errors import RexecError
from shim.submit.batch.moving import MovingRun
from shim.submit.batch.places import Places
from shim.submit.batch.runs import Run
from shim.submit.batch.story import HELD, HOLD, RELEASE, VACATE, WAITING

USELESS = 10.0
"""Seconds after which a place is given back in which its job does not run: the engine may be taking it just then."""

TRIES = 3
"""Places in a row in which a job did not run, after which it is held."""

Runs = Mapping[int, "Run | MovingRun"]


class Departures:
    """Tells the engine of `places` what is to become of places whose jobs leave them."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._asked: list[tuple[str, list[int] | None, set[int]]] = []  # a verb, of which jobs, and who is saved first
        self._idle: dict[int, float] = {}  # job -> since when it stands about
        self._vain: Counter[int] = Counter()  # in how many places in a row
        self._left: dict[int, str] = {}  # the place of each that it was to leave last

    def ask(self, runs: Runs, verb: str, jobs: Sequence[int]) -> set[int]:
        """Do something to those of the jobs that can be checkpointed and have begun. Raises RexecError.

        Returns those that leave their engine's places by it, which are not to be taken from them before.
        """
        found = [run for each in jobs if isinstance(run := runs.get(each), MovingRun) and run.takes(verb)]
        if verb == RELEASE and any(_is_to_be_held(runs.get(each)) for each in jobs):
            raise RexecError("its hold is under way: release it again in a moment")
        if verb == VACATE and not found:
            raise RexecError("it is on no host" if len(jobs) == 1 else "none of them is on a host")
        leave = self._places.moves and verb in (HOLD, VACATE)
        for run in found:
            try:
                if leave:
                    run.leave(HELD if verb == HOLD else WAITING)
                else:
                    run.ask(verb)
            except RexecError as e:
                if len(jobs) == 1:
                    raise
                run.news = f"{verb}: {e}"
        return {run.job for run in found if run.fate} if leave else set()

    def after(self, verb: str, jobs: list[int] | None, leaving: set[int]) -> None:
        """Have the engine do `verb` to these jobs, or to all, once those `leaving` have left. Raises RexecError."""
        if leaving:
            self._asked.append((verb, jobs, leaving))
            self._left.update({job: self._places.place(job) for job in leaving})
        else:
            self._places.act(verb, jobs)

    def taken_back(self, runs: Runs, job: int) -> None:
        """Have a job saved whose place is being taken back, and the place given back then."""
        run = runs.get(job)
        if run is not None and run.fate:
            return  # it is leaving already
        try:
            self.after(VACATE, [job], self.ask(runs, VACATE, [job]))
        except RexecError:  # it is on no host yet, or about something else: it is saved when its place is lost
            self._left[job] = self._places.place(job)
            self._act(VACATE, [job])

    def leaves(self, job: int) -> bool:
        """Tell whether the place that a job has is given back: it is not to begin there again."""
        return job in self._left and self._left[job] == self._places.place(job)

    def look(self, runs: Runs, every: Callable[[], list[int]]) -> None:
        """Do what is due; `every` lists the jobs that have not ended."""
        asked, self._asked = self._asked, []
        for verb, jobs, leaving in asked:
            stays = {job for job in leaving if _stays(runs.get(job))}  # they cannot be saved, which their rows say
            for job in stays:
                del self._left[job]
            leaving &= {job for job in runs if job not in stays}
            if stays:
                jobs = [job for job in (every() if jobs is None else jobs) if job not in stays]
            if leaving:
                self._asked.append((verb, jobs, leaving))
            elif jobs is None or jobs:
                self._act(verb, jobs)
        for job, run in runs.items():
            if isinstance(run, MovingRun) and run.place:
                self._look_at(job, run)

    def _look_at(self, job: int, run: MovingRun) -> None:
        now = time.monotonic()
        if run.reached():
            self._vain.pop(job, None)
        if not run.stands_about() or run.place != self._places.place(job):
            self._idle.pop(job, None)
        elif now > self._idle.setdefault(job, now) + USELESS:
            del self._idle[job]
            self._vain[job] += 1
            held = run.state() == HELD or self._vain[job] >= TRIES
            run.news = f"it does not run there: {run.why}"
            run.lose(HELD if held else WAITING, known=True)
            self._left[job] = run.place
            self._act(HOLD if held else VACATE, [job])

    def due(self) -> float:
        """Return in how many seconds there is to be a look, though nothing was seen to change."""
        return max(0.0, min(self._idle.values(), default=inf) + USELESS - time.monotonic())

    def _act(self, verb: str, jobs: list[int] | None) -> None:
        try:
            self._places.act(verb, jobs)
        except RexecError as e:
            print("rexec:", e, flush=True)  # into the batch's `errors`; it may begin in its place again
            self._left = {job: place for job, place in self._left.items() if jobs is not None and job not in jobs}


def _is_to_be_held(run: Run | MovingRun | None) -> bool:
    return isinstance(run, MovingRun) and run.fate == HELD and run.state() != HELD


def _stays(run: Run | MovingRun | None) -> bool:
    return isinstance(run, MovingRun) and not run.fate
