"""All jobs of a batch, from the first to the last: begins those that have a place, and writes down how each ends.

One thread, that of its process. A job's end is on record before its place is given back: where an engine gives it
another, since it did not hear so, that one is given back at once. What waits is a number.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable
from math import inf

from remoteio.errors import RexecError
from remoteio.inotify import IN_CLOSE_WRITE, IN_DELETE, IN_MODIFY, IN_MOVED_TO, Inotify
from shim.submit.batch import urgency
from shim.submit.batch.departures import Departures
from shim.submit.batch.journal import Journal
from shim.submit.batch.moving import Begun, MovingRun
from shim.submit.batch.places import AGAIN, Places
from shim.submit.batch.record import Directory
from shim.submit.batch.runs import OwnRun, Run
from shim.submit.batch.serving import Servings, together
from shim.submit.batch.story import (
    DONE,
    FAILED,
    FINAL,
    HELD,
    HOLD,
    KILL,
    KILLED,
    PRIORITY,
    RELEASE,
    RUNNING,
    VACATE,
    WAITING,
    Item,
    Story,
)
from shim.submit.engines import told as engine
from shim.submit.engines.told import Told
from shim.wire.wakeup import Wakeup, await_any

TRIES = 3
"""Times that rexec tries to run a job in one place before it is given up."""

AT_ONCE = 8
"""Runs that are on their way to a host at a time: the others wait as numbers."""

_PAUSE = 3.0  # seconds from one try to the next
_SELDOM = 60.0  # seconds without a look, though nothing was seen to change
_ENDED = "its place has ended by itself with status {}: see whether python3 is there"
_SOON = 0.1  # seconds to the next look at a job whose own supervisor is about to end
_PATIENCE = 10.0  # seconds that a run which is to end may take


class Supervisor:
    """Supervises the batch in `directory`, which this process has locked."""

    def __init__(self, directory: Directory, places: Places) -> None:
        self._directory, self._places = directory, places
        self._batch = directory.batch()
        self._begun = Begun(self._batch, directory.name)
        self._journal, self._departures = Journal(directory), Departures(places)
        self._runs: dict[int, Run | MovingRun] = {}
        self._served = Servings(self._batch, directory.path)
        self._tries: dict[int, tuple[int, float]] = {}  # job -> how often it failed, and not to be begun before
        self._ends: dict[int, float] = {}  # job -> when its run is killed that was asked to end
        self._first = 0  # all jobs before it have ended
        self._wakeup = Wakeup()

    def run(self) -> None:
        """Return when all jobs have ended, and their places are given back."""
        signal.set_wakeup_fd(self._wakeup.write_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        inotify = _watch(str(self._directory.path))
        if inotify is not None:
            self._begun.watch = lambda path: inotify.add(str(path), IN_MOVED_TO | IN_CLOSE_WRITE)
        self._hear(self._places.changes())
        for job, item in list(self._story.items.items()):
            if job in self._begun:
                self._find(job, item)
            elif item.state == RUNNING:
                self._note(job, WAITING, why=self._served.left.told(job, "its supervisor had ended"))
        while True:
            self._wakeup.clear()
            if inotify is not None:
                inotify.read()
            self._hear(self._places.changes())
            self._served.read()
            self._look_after()
            self._obey()
            self._departures.look(self._runs, lambda: self._story.live(self._first))
            if given := self._places.feed(self._story):
                self._journal.add({"engine": given})
            self._begin()
            settled = self._places.settled()
            if settled and not self._runs and self._story.over():
                return
            ready = [self._wakeup.fd, *self._served.fds(), *([] if inotify is None else [inotify.fileno()])]
            await_any(ready, self._pause(settled) if inotify is not None else 1.0)

    @property
    def _story(self) -> Story:
        return self._journal.story

    def _find(self, job: int, item: Item) -> None:
        """Look after a job that has begun under a supervisor before this one, and may have run on."""
        if item.state in FINAL:
            self._begun.remove(job)
        elif not self._places.moves and item.state == RUNNING:
            self._start(job)
        elif self._places.moves:
            place = self._places.place(job)
            try:
                # where the place that it is in is lost it goes on nowhere under this run
                where = self._where(job) if place and item.place == place else []
                run = self._runs[job] = self._begun.run(job, where, item.place)
            except RexecError as e:
                self._failed(job, str(e))
                return
            if item.place != place or item.state != RUNNING:
                run.lose(HELD if item.state == HELD else WAITING, known=False, apart=self._places.apart)
                if place and item.place != place:
                    run.has(place)

    def _pause(self, settled: bool) -> float:
        now = time.monotonic()
        until = [*(at for _, at in self._tries.values() if at > now), *self._ends.values()]
        longest = _SELDOM if settled else AGAIN
        if any(isinstance(run, MovingRun) and run.soon() for run in self._runs.values()):
            longest = _SOON
        looks = min(self._places.looks(), self._departures.due())
        return min([longest, looks, *(max(0.0, each - now) for each in until)])

    def _note(self, job: int, state: str, **more: object) -> None:
        self._journal.note(job, state, **more, **self._cluster(job))

    def _cluster(self, job: int) -> dict[str, str]:
        run = self._runs.get(job)
        found = run.cluster if isinstance(run, Run) else self._places.cluster(job)
        return {"cluster": found} if found else {}

    def _hear(self, changes: Iterable[Told]) -> None:
        """Act upon what has become of places."""
        for told in changes:
            run = self._runs.get(told.job)
            if self._story.item(told.job).state in FINAL and told.cluster != self._story.item(told.job).cluster:
                self._note(told.job, WAITING)  # its engine runs it again
                self._first = min(self._first, told.job)
            item = self._story.item(told.job)
            if told.state == engine.RUNNING:
                self._tries.pop(told.job, None)
                if item.state in FINAL:
                    self._places.over(told.job, item.status if item.status is not None else 1)
                elif item.state == HELD and run is None:  # it was released while no supervisor lived
                    self._note(told.job, WAITING)
                if isinstance(run, MovingRun):
                    run.has(self._places.place(told.job))
            elif item.state in FINAL or told.state == engine.SUSPENDED:
                continue
            elif told.state == engine.LEAVES:
                self._departures.taken_back(self._runs, told.job)
            elif told.state == engine.DONE:
                self._note(told.job, DONE, status=0, why=told.why)
            elif told.state == engine.GONE and run is None:
                self._note(told.job, _gone(told), why=told.why or _ENDED.format(told.status))
            elif isinstance(run, Run):
                # it is no more in its place: what served it here may serve nothing else
                if told.job not in self._ends:  # else somebody has asked for its end
                    run.fate = {engine.HELD: HELD, engine.GONE: _gone(told)}.get(told.state, WAITING)
                run.end(at_once=True)
            elif isinstance(run, MovingRun):
                fate = {engine.HELD: HELD, engine.GONE: _gone(told)}.get(told.state, WAITING)
                run.lose(fate, known=told.seen, apart=told.apart)
            elif told.state != engine.LOST and (told.state == engine.HELD) != (item.state == HELD):
                self._note(told.job, HELD if told.state == engine.HELD else WAITING, why=told.why)

    def _look_after(self) -> None:
        """Write down which runs have reached a host, and which have ended."""
        for job, run in list(self._runs.items()):
            if isinstance(run, MovingRun):
                ended = run.ended()
                self._follow(job, run)
            else:
                if self._story.item(job).state != RUNNING and run.reached():
                    self._note(job, RUNNING, host=self._places.host(job) or run.host)
                ended = run.ended()
            if ended is None:
                if isinstance(run, Run) and self._ends.get(job, inf) < time.monotonic():
                    run.end(at_once=True)
                continue
            self._ends.pop(job, None)
            if run.fate in (KILLED, FAILED):
                self._note(job, run.fate)
            elif ended.status is not None and run.fate != HELD:
                cost = {} if ended.cost is None else {"cost": ended.cost}
                self._note(job, DONE, host=self._story.item(job).host, status=ended.status, **cost)
                self._places.over(job, ended.status)
            elif run.fate:
                why = ended.why or (run.news if isinstance(run, MovingRun) else "")
                if why or self._story.item(job).state != run.fate:
                    self._note(job, run.fate, why=why)
            else:
                self._failed(job, ended.why)
            del self._runs[job]
            if isinstance(run, MovingRun):
                self._begun.keep(run)
            else:
                run.forget()

    def _follow(self, job: int, run: MovingRun) -> None:
        """Write down where a job that moves is, and that it waits or is held."""
        if run.soon() or (run.place and run.place != self._places.place(job)):
            return
        item, state, news = self._story.item(job), run.state(), run.news
        run.news = ""
        host = (self._places.host(job) or run.host) if state == RUNNING else ""
        if (item.state, item.host) != (state, host) or news:
            number = {"id": run.found.id} if run.found is not None else {}
            self._note(job, state, host=host, why=news, **number)

    def _failed(self, job: int, why: str) -> None:
        """Take note that rexec could not run a job: perhaps it can in a moment, or in another place."""
        tries = self._tries.get(job, (0, 0.0))[0] + 1
        self._tries[job] = tries, time.monotonic() + _PAUSE * tries
        if tries < TRIES:
            self._note(job, WAITING, why=why)
            return
        self._note(job, FAILED, status=125, why=why)
        self._places.over(job, 125)

    def _obey(self) -> None:
        """Do what was asked since the last look, in order, and say so."""
        for order in self._journal.orders():
            why = ""
            try:
                if order.verb == PRIORITY:
                    urgency.give(order, self._journal, self._places, self._runs)
                else:
                    self._do(order.verb, order.job)
            except RexecError as e:
                why = str(e)
            self._journal.add({"obeyed": order.end, "why": why})

    def _do(self, verb: str, job: int | None) -> None:
        asked = range(self._batch.count) if job is None else (job,)
        jobs = [each for each in asked if self._story.item(each).state not in FINAL]
        if not jobs:
            raise RexecError("it has ended" if job is not None else "all of it has ended")
        leaving: set[int] = set()
        if self._batch.moves:
            leaving = self._departures.ask(self._runs, verb, jobs)
        elif verb == VACATE and not self._places.moves:
            raise RexecError("only an engine gives it another place: kill it, and submit it again")
        self._departures.after(verb, None if job is None else jobs, leaving)
        fate = {HOLD: HELD, KILL: KILLED, RELEASE: WAITING}.get(verb, "")
        rows = []
        for each in jobs:
            run, state = self._runs.get(each), self._story.item(each).state
            if run is None and (verb == KILL or (fate and (state == HELD) == (verb == RELEASE))):
                rows.append({"job": each, "is": fate, **self._cluster(each)})
            elif isinstance(run, Run) and verb in (HOLD, KILL):
                run.fate = fate
                run.end(at_once=False)
                self._ends[each] = time.monotonic() + _PATIENCE
        self._journal.add(*rows)
        for each in jobs:
            if verb == KILL and each not in self._runs:
                self._begun.remove(each)

    def _start(self, job: int) -> None:
        try:
            where = self._where(job)
            if self._batch.moves:
                if place := self._places.place(job):
                    self._note(job, WAITING, place=place)  # whoever supervises it next knows where it may be
                self._runs[job] = self._begun.run(job, where, place)
            elif not self._places.moves and self._tries.get(job, (0, 0.0))[0] < TRIES - 1 and together() > 1:
                # who served it has failed, perhaps by it: the others are not to fail too
                self._runs[job] = self._served.run(job, where, alone=job in self._tries)
            else:  # an engine's, which is to be ended without a word; or it cannot be served so
                once = ["--keep", "0"] if self._places.moves else []  # a kept connection would keep the place
                cluster = self._places.cluster(job)
                self._runs[job] = OwnRun(self._batch, job, [*where, *once], self._directory.path, cluster)
        except RexecError as e:
            self._failed(job, str(e))

    def _where(self, job: int) -> list[str]:
        return ["--on", self._places.on(job), *([] if self._places.moves else urgency.words(self._story, job))]

    def _begin(self) -> None:
        """Begin what may, in order."""
        while self._first < self._batch.count and self._story.item(self._first).state in FINAL:
            self._first += 1
        starting = sum(not run.reached() for run in self._runs.values())
        now = time.monotonic()
        placed = self._places.placed()
        for job in urgency.in_turn(self._story, self._first) if placed is None else placed:
            if starting >= AT_ONCE:
                return
            waits = self._story.item(job).state == WAITING and self._tries.get(job, (0, now))[1] <= now
            if job in self._runs or not waits or self._departures.leaves(job) or job in self._served.left:
                continue
            self._start(job)
            starting += 1


def _gone(told: Told) -> str:
    """Tell what a job is whose place has gone: somebody removed it, or it ended before the job had begun."""
    return KILLED if told.status is None else FAILED


def _watch(path: str) -> Inotify | None:
    """Have changes of a batch's files seen; None: the kernel has no room left for that, and one looks each second."""
    try:
        inotify = Inotify()
        inotify.add(path, IN_MODIFY | IN_CLOSE_WRITE | IN_DELETE)
    except OSError:
        return None
    return inotify
