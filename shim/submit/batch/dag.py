"""Where the jobs of a DAG get their places: DAGMan gives each node to HTCondor when its parents are done.

A node that failed, and that DAGMan tries again, is a job of HTCondor's with another number: it waits again here, though
it had ended. One that DAGMan never ran is told of when DAGMan has ended.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from math import inf
from pathlib import Path

from remoteio.errors import RexecError
from shim.submit.batch.places import VERBS, Endings
from shim.submit.batch.record import Batch
from shim.submit.batch.story import KILL, RELEASE, VACATE, Story
from shim.submit.engines import condor, dagman
from shim.submit.engines.dagman import Heard
from shim.submit.engines.told import DONE, GONE, HELD, RUNNING, Told


class Dag:
    """The nodes of a DAG, which DAGMan runs as `cluster`; their log lies in `directory`."""

    moves, apart = True, False

    def __init__(self, directory: Path, cluster: str, batch: Batch) -> None:
        self._directory, self._cluster = directory, cluster
        self._numbers = {name: job for job, name in enumerate(batch.names)}
        self._dagman = os.path.join(batch.directory, dagman.log_of(batch.dag))
        self._at = 0
        self._clusters: dict[int, str] = {}  # of each node, that of its newest job
        self._jobs: dict[str, int] = {}  # the same, and those before them
        self._states: dict[int, str] = {}  # of the nodes that are in the queue
        self._hosts: dict[int, str] = {}
        self._told: set[int] = set()  # those that were done before, or were never run
        self._endings = Endings(lambda job, status: condor.end(f"{self._clusters[job]}.0", status))
        self._over = False

    def changes(self) -> list[Told]:
        """See Places."""
        over = self._over or self._dagman_ended()  # before the rest is read, so that it is all
        text = _text(self._directory / condor.LOG, self._at)
        heard, size = dagman.events(text)
        found = [told for each in heard if (told := self._take(each)) is not None]
        if not self._at:  # what is long past is of no use to a supervisor that has just begun
            found = list({told.job: told for told in found}.values())
        self._at += len(text[:size].encode("utf-8", "surrogateescape"))
        self._over = over
        return [*found, *self._untouched()]

    def _take(self, heard: Heard) -> Told | None:
        """Read an event of a node's newest job; None: of another."""
        told = heard.told
        if heard.node in self._numbers:
            job = self._jobs[heard.cluster] = self._numbers[heard.node]
            self._clusters[job] = heard.cluster
        if heard.cluster not in self._jobs or self._clusters[job := self._jobs[heard.cluster]] != heard.cluster:
            return None
        if told.state == GONE:
            self._states.pop(job, None)
            self._endings.drop(job)
        else:
            self._states[job] = told.state
        if told.host:
            self._hosts[job] = told.host
        return told._replace(job=job, cluster=heard.cluster)

    def _untouched(self) -> Iterator[Told]:
        """Tell of the nodes that DAGMan has given to nobody: those done before; and, once it has ended, the others."""
        said = {name: (done, why) for name, done, why in dagman.statuses(_text(self._directory / dagman.STATUS))}
        for name, job in self._numbers.items():
            done, why = said.get(name, (False, ""))
            if job in self._clusters or job in self._told or not (done or self._over):
                continue
            self._told.add(job)
            why = why or ("it was done before" if done else "DAGMan never ran it")
            yield Told(job, DONE if done else GONE, why=why)

    def _dagman_ended(self) -> bool:
        told, _ = condor.events(_text(self._dagman), self._cluster)
        return bool(told) and told[-1].state == GONE

    def looks(self) -> float:
        """See Places: what DAGMan says is looked at as often as a supervisor does by itself."""
        return inf

    def feed(self, story: Story) -> str:
        """Do nothing: DAGMan does."""
        return ""

    def placed(self) -> Iterable[int]:
        """See Places."""
        return sorted(job for job, state in self._states.items() if state == RUNNING)

    def on(self, job: int) -> str:
        """See Places."""
        return f"condor:{self._clusters[job]}.0"

    def place(self, job: int) -> str:
        """Return nothing: no job of a DAG can be checkpointed."""
        return ""

    def host(self, job: int) -> str:
        """See Places."""
        return self._hosts.get(job, "")

    def cluster(self, job: int) -> str:
        """See Places."""
        return self._clusters.get(job, "")

    def act(self, verb: str, jobs: Collection[int] | None) -> None:
        """See Places. All of it is DAGMan, which takes its nodes with it when it is removed."""
        if jobs is None and verb != VACATE:
            condor.act(VERBS[verb], self._cluster)
            if verb == KILL:
                return
        for job in self._states if jobs is None else jobs:
            state = self._states.get(job)
            if state is None:
                raise RexecError("DAGMan has not given it to HTCondor yet: hold or kill the whole batch")
            if jobs is not None or _takes(verb, state):
                condor.act(VERBS[verb], f"{self._clusters[job]}.0")

    def prioritize(self, priority: int, jobs: Collection[int] | None, begun: Collection[int]) -> None:
        """See Places: those that DAGMan has given to HTCondor; it gives the others the priorities of its own file."""
        if jobs is not None and any(job not in self._states for job in jobs):
            raise RexecError("DAGMan has not given it to HTCondor yet")
        found = [f"{self._clusters[job]}.0" for job in (self._states if jobs is None else jobs)]
        condor.prioritize(priority, *([self._cluster] if jobs is None else []), *found)

    def over(self, job: int, status: int) -> None:
        """Have the pilot end with that status: so DAGMan knows it too."""
        if job in self._states:
            self._endings.add(job, status)

    def settled(self) -> bool:
        """See Places: DAGMan may try a node again until it has ended itself."""
        self._endings.again([job for job, state in self._states.items() if state == RUNNING])
        return self._over and not self._states


def _takes(verb: str, state: str) -> bool:
    """Tell whether a node is one to which that is done, where it is done to all."""
    if verb == VACATE:
        return state == RUNNING
    return (state == HELD) == (verb == RELEASE)


def _text(path: str | Path, begin: int = 0) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.seek(begin)
            return file.read()
    except FileNotFoundError:
        return ""  # it is not written yet
