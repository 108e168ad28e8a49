"""Where the jobs of a batch get their places from Slurm, of which its queue alone tells: one looks now and then.

A job whose task has ended without a status of the job's is given to Slurm again, as a task of another array. So are
those that were not given to it yet: no more of a batch wait there than CHUNK.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from remoteio.errors import RexecError
from shim.submit.batch.arrays import Arrays
from shim.submit.batch.places import VERBS, Endings
from shim.submit.batch.story import KILL, VACATE, WAITING, Story
from shim.submit.engines import slurm
from shim.submit.engines import told as engine
from shim.submit.engines.slurm import Seen
from shim.submit.engines.told import RUNNING, Told

CHUNK = 200
"""Jobs of a batch that wait in Slurm's queue at a time, and those of an array; MaxArraySize, 1,001, is for all."""

_SOON, _SELDOM, _SLOWER = 1.0, 10.0, 1.3  # seconds from one look to the next: more where nothing changes
_REFUSED = 60.0  # seconds after which what Slurm did not take is given to it again
_ELSEWHERE = 60.0  # seconds for which a job that was told to leave a host does not want it again


class Cluster:
    """A Slurm cluster, to which the batch was given as `arrays`; what sbatch takes lies in `directory`."""

    moves, apart = True, False

    def __init__(self, directory: Path, arrays: str, environ: Mapping[str, str]) -> None:
        self._directory, self._environ = directory, environ
        self._arrays = Arrays(arrays)
        self._tasks: dict[int, Seen] = {}  # those that have not ended
        self._endings = Endings(lambda job, status: slurm.end(str(self._tasks[job].id), status))
        self._left: dict[int, str] = {}  # the host that a job was told to leave, which Slurm is still to be told
        self._since: dict[int, float] = {}  # when a job began to wait for another host than that
        self._unheard: list[Told] = []
        self._pause = _SOON
        self._next = self._feeds = 0.0
        self._looked = False

    def changes(self) -> list[Told]:
        """See Places."""
        if time.monotonic() >= self._next:
            try:
                self._look()
            except RexecError as e:
                print("rexec:", e, file=sys.stderr, flush=True)
                self._next = time.monotonic() + _SELDOM
        found, self._unheard = self._unheard, []
        return found

    def looks(self) -> float:
        """See Places."""
        return max(0.0, self._next - time.monotonic())

    def _look(self) -> None:
        """Look what has become of the tasks. Raises RexecError."""
        queue = {(seen.array, seen.task): seen for seen in slurm.queue()}
        found = [each for job, task in self._arrays.tasks().items() for each in self._seen(job, queue.get(task))]
        self._arrays.keep(self._tasks)
        self._unheard += found
        self._looked = True
        self._pause = _SOON if found else min(_SELDOM, self._pause * _SLOWER)
        self._next = time.monotonic() + self._pause

    def _seen(self, job: int, new: Seen | None) -> Iterator[Told]:
        old = self._tasks.get(job)
        if new is None or new.over:
            self._tasks.pop(job, None)
            self._endings.drop(job)
            if new is not None or old is not None:  # else it was over before this supervisor began
                yield Told(job, new.state if new else engine.LOST, status=new.status if new else None,
                           why=new.why if new else "Slurm knows it no more")  # fmt: skip
            return
        self._tasks[job] = new
        self._elsewhere(job, new)
        if old is not None and old.state == RUNNING and (old.host, old.restarts) != (new.host, new.restarts):
            yield Told(job, engine.LOST)
        if old is None or (old.state, old.restarts) != (new.state, new.restarts):
            yield Told(job, new.state, new.host if new.state == RUNNING else "", why=new.why)

    def _elsewhere(self, job: int, seen: Seen) -> None:
        """Have a job that was told to leave a host get another; any, where there is none for a minute."""
        if seen.state != engine.WAITING:
            self._since.pop(job, None)
            return
        try:
            if job in self._left:
                slurm.exclude(seen.name, self._left[job])
            self._left.pop(job, None)
            if seen.excluded and time.monotonic() > self._since.setdefault(job, time.monotonic()) + _ELSEWHERE:
                slurm.exclude(seen.name, "")
        except RexecError:
            pass  # its place is not quite given back, or it has just got another: the next look tells

    def feed(self, story: Story) -> str:
        """See Places."""
        waiting = sum(seen.state != RUNNING for seen in self._tasks.values())
        if not self._looked or waiting > CHUNK // 2 or time.monotonic() < self._feeds:
            return ""
        self._looked = False  # once for each look
        jobs = list(islice((job for job in range(story.count) if self._lacks(story, job)), CHUNK - waiting))
        if not jobs:
            return ""
        try:
            array = slurm.submit(str(self._directory), len(jobs), self._environ, story.priority)
        except RexecError as e:
            print("rexec:", e, file=sys.stderr, flush=True)
            self._feeds = time.monotonic() + _REFUSED
            return ""
        self._arrays.add(array, jobs)
        self._tasks.update({job: Seen(array, task, array, engine.WAITING) for task, job in enumerate(jobs)})
        self._hurry()
        return str(self._arrays)

    def _lacks(self, story: Story, job: int) -> bool:
        return job not in self._tasks and story.item(job).state == WAITING

    def placed(self) -> Iterable[int]:
        """See Places."""
        return sorted(job for job, seen in self._tasks.items() if seen.state == RUNNING)

    def on(self, job: int) -> str:
        """See Places."""
        return f"slurm:{self._tasks[job].id}" if job in self._tasks else ""

    def place(self, job: int) -> str:
        """See Places."""
        seen = self._tasks.get(job)
        has = seen is not None and seen.state in (RUNNING, engine.SUSPENDED)
        return f"{seen.id}.{seen.restarts}" if has and seen is not None else ""

    def host(self, job: int) -> str:
        """See Places."""
        return self._tasks[job].host if job in self._tasks else ""

    def cluster(self, job: int) -> str:
        """Return nothing: what has ended has."""
        return ""

    def act(self, verb: str, jobs: Collection[int] | None) -> None:
        """See Places."""
        self._look()  # Slurm holds one that runs otherwise than one that waits
        known = [job for job in (self._tasks if jobs is None else jobs) if job in self._tasks]
        if verb != KILL:  # one whose job has ended is on its way out, and would wait there for ever
            known = [job for job in known if job not in self._endings]
        running = [job for job in known if self._tasks[job].state in (RUNNING, engine.SUSPENDED)]
        others = [self._tasks[job].name for job in known if job not in running]
        slurm.act(VERBS[verb], [self._tasks[job].name for job in running], others)
        if verb == VACATE:
            self._left.update({job: self._tasks[job].host for job in running})
        self._hurry()

    def prioritize(self, priority: int, jobs: Collection[int] | None, begun: Collection[int]) -> None:
        """See Places: those that Slurm was not given yet have it when they are (feed)."""
        self._look()
        known = self._tasks if jobs is None else [job for job in jobs if job in self._tasks]
        waits = (engine.WAITING, engine.HELD)  # one that is held waits with it, once it is released
        slurm.prioritize(priority, [self._tasks[job].name for job in known if self._tasks[job].state in waits])

    def _hurry(self) -> None:
        """Look again at once: something was done that changes what is seen."""
        self._next, self._pause = 0.0, _SOON

    def over(self, job: int, status: int) -> None:
        """Have the pilot end with that status: so Slurm, and who depends on it there, knows it too."""
        if job in self._tasks:
            self._endings.add(job, status)
            self._pause, self._next = _SOON, time.monotonic() + _SOON

    def settled(self) -> bool:
        """See Places."""
        self._endings.again([job for job, seen in self._tasks.items() if seen.state == RUNNING])
        return not self._tasks
