"""Where the jobs of a batch get their places: on the hosts of the desk here, from HTCondor, or from Slurm (cluster.py).

To a supervisor both are a Places: it asks which jobs may begin, and is told what becomes of the places of the others.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from math import inf
from pathlib import Path
from typing import Protocol

from remoteio.errors import RexecError
from shim.submit.batch.story import HOLD, KILL, RELEASE, VACATE, Story
from shim.submit.desk.line import Member, in_short
from shim.submit.desk.members import Members
from shim.submit.engines import condor
from shim.submit.engines.told import GONE, RUNNING, SUSPENDED, WAITING, Told

AGAIN = 3.0
"""Seconds from one try to have a place given back to the next."""

VERBS = {HOLD: "hold", RELEASE: "release", KILL: "remove", VACATE: "vacate"}


class Places(Protocol):
    """What gives places. One thread."""

    moves: bool  # a job that is told to leave a place gets another
    apart: bool  # a place is not on its host, where the job may run on though that is lost

    def changes(self) -> list[Told]:
        """Return what has become of places since this was last asked."""

    def looks(self) -> float:
        """Return in how many seconds it wants to be asked again, though nothing was seen to change here."""

    def feed(self, story: Story) -> str:
        """Ask for places for more of the jobs that wait, when it is time. Returns what the engine calls the batch since
        then; "" where that has not changed.
        """

    def placed(self) -> Iterable[int] | None:
        """Return the jobs that have a place; None: each finds one by itself."""

    def on(self, job: int) -> str:
        """Return what a run's --on says."""

    def place(self, job: int) -> str:
        """Return what tells a job's place from those that it had before; empty: it has none from an engine."""

    def host(self, job: int) -> str:
        """Return what the host of a job's place is called, if whoever gave it has said so."""

    def cluster(self, job: int) -> str:
        """Return what the engine calls the job now, if one that has ended may be another to it later; "" if not."""

    def act(self, verb: str, jobs: Collection[int] | None) -> None:
        """Do something to the places of these jobs, or of all. Raises RexecError."""

    def prioritize(self, priority: int, jobs: Collection[int] | None, begun: Collection[int]) -> None:
        """Give these jobs, or all, a priority; `begun`: their numbers in `rexec jobs`, of those that have one.

        Raises RexecError.
        """

    def over(self, job: int, status: int) -> None:
        """Give a job's place back: that the job has ended, with `status`, is on record."""

    def settled(self) -> bool:
        """Tell whether all places are given back; if some are not yet, have them be so."""


class Desk:
    """The hosts of hosts.toml, or those that `on` names: each run stands in their line by itself (shim/submit/desk).

    `words` gives the command of a job.
    """

    moves = apart = False

    def __init__(self, on: str, words: Callable[[int], Sequence[str]]) -> None:
        self._on, self._words = on, words

    def changes(self) -> list[Told]:
        """Return nothing: a run that has its slot keeps it."""
        return []

    def looks(self) -> float:
        """See Places."""
        return inf

    def feed(self, story: Story) -> str:
        """Do nothing: each run asks for itself."""
        return ""

    def placed(self) -> None:
        """See Places."""

    def on(self, job: int) -> str:
        """See Places."""
        return self._on

    def place(self, job: int) -> str:
        """Return nothing: it has no place but while it runs."""
        return ""

    def host(self, job: int) -> str:
        """Return nothing: the run knows."""
        return ""

    def cluster(self, job: int) -> str:
        """Return nothing: what has ended has."""
        return ""

    def act(self, verb: str, jobs: Collection[int] | None) -> None:
        """Do nothing: a run's end gives its slot back."""

    def prioritize(self, priority: int, jobs: Collection[int] | None, begun: Collection[int]) -> None:
        """Have those that stand in the line already stand elsewhere; see Places."""
        group = str(os.getsid(0))  # a run is this process's child; but for those with --checkpoint, which outlive it
        words = None if jobs is None else {in_short(self._words(job)) for job in jobs}

        def ours(member: Member) -> bool:
            if member.job:
                return member.job in begun
            return member.group == group and (words is None or member.command in words)

        Members().set_priority(ours, priority)

    def over(self, job: int, status: int) -> None:
        """Do nothing, as for act."""

    def settled(self) -> bool:
        """See Places."""
        return True


class Endings:
    """Has engines' jobs end with the status that each had; `tell` starts who says so. Again, where one did not hear."""

    def __init__(self, tell: Callable[[int, int], subprocess.Popen[bytes]]) -> None:
        self._tell = tell
        self._told: dict[int, tuple[int, float, subprocess.Popen[bytes]]] = {}  # the status, and who says so since when

    def add(self, job: int, status: int) -> None:
        """Have a job's place end so."""
        self._told[job] = status, time.monotonic(), self._tell(job, status)

    def __contains__(self, job: int) -> bool:
        return job in self._told

    def drop(self, job: int) -> None:
        """Take note that the place has ended."""
        self._told.pop(job, None)

    def again(self, running: Collection[int]) -> None:
        """Tell those of these again that were told in vain."""
        for job, (status, since, teller) in list(self._told.items()):
            if teller.poll() and time.monotonic() > since + AGAIN and job in running:
                self.add(job, status)


class Pool:
    """An HTCondor pool, to which the batch was submitted as `cluster`; its event log lies in `directory`."""

    moves, apart = True, False

    def __init__(self, directory: Path, cluster: str) -> None:
        self._log, self._cluster = directory / condor.LOG, cluster
        self._at = 0
        self._states: dict[int, str] = {}  # of the jobs that are in the queue
        self._hosts: dict[int, str] = {}
        self._places: Counter[int] = Counter()  # how many each has had
        self._priority: int | None = None  # of the whole cluster, since it was submitted
        self._endings = Endings(lambda job, status: condor.end(f"{cluster}.{job}", status))

    def changes(self) -> list[Told]:
        """See Places."""
        try:
            with open(self._log, encoding="utf-8", errors="surrogateescape", newline="") as log:
                log.seek(self._at)
                text = log.read()
        except FileNotFoundError:
            return []
        found, size = condor.events(text, self._cluster)
        self._places.update(told.job for told in found if told.host)
        if not self._at:  # what is long past is of no use to a supervisor that has just begun
            found = list({told.job: told for told in found}.values())
        self._at += len(text[:size].encode("utf-8", "surrogateescape"))
        if self._priority is not None and any(told.job not in self._states for told in found if told.state == WAITING):
            self._late(self._priority)
        for told in found:
            if told.state == GONE:
                self._states.pop(told.job, None)
                self._endings.drop(told.job)
            else:
                self._states[told.job] = told.state
            if told.host:
                self._hosts[told.job] = told.host
        return found

    def looks(self) -> float:
        """See Places: its log is a file of ours."""
        return inf

    def feed(self, story: Story) -> str:
        """Do nothing: HTCondor has all of them."""
        return ""

    def placed(self) -> Iterable[int]:
        """See Places."""
        return sorted(job for job, state in self._states.items() if state == RUNNING)

    def on(self, job: int) -> str:
        """See Places."""
        return f"condor:{self._cluster}.{job}"

    def place(self, job: int) -> str:
        """See Places."""
        return str(self._places[job]) if self._states.get(job) in (RUNNING, SUSPENDED) else ""

    def host(self, job: int) -> str:
        """See Places."""
        return self._hosts.get(job, "")

    def cluster(self, job: int) -> str:
        """Return nothing: what has ended has."""
        return ""

    def act(self, verb: str, jobs: Collection[int] | None) -> None:
        """See Places."""
        if jobs is None:
            condor.act(VERBS[verb], self._cluster)
            return
        for job in jobs:
            condor.act(VERBS[verb], f"{self._cluster}.{job}")

    def prioritize(self, priority: int, jobs: Collection[int] | None, begun: Collection[int]) -> None:
        """See Places. HTCondor gives it to what it has made of a cluster: to the others as they come (changes)."""
        if jobs is None:
            self._priority = priority
            condor.prioritize(priority, self._cluster)
        else:
            condor.prioritize(priority, *(f"{self._cluster}.{job}" for job in jobs))

    def _late(self, priority: int) -> None:
        try:
            condor.prioritize(priority, self._cluster)
        except RexecError as e:
            print("rexec:", e, file=sys.stderr, flush=True)  # into the batch's `errors`; they run all the same

    def over(self, job: int, status: int) -> None:
        """Have the pilot end with that status: so HTCondor, and a DAG above, knows it too."""
        self._endings.add(job, status)

    def settled(self) -> bool:
        """See Places."""
        self._endings.again([job for job, state in self._states.items() if state == RUNNING])
        return not self._states
