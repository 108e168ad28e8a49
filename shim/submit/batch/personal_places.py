"""Where the jobs of a batch get their places from a personal HTCondor (shim/submit/engines/personal.py).

HTCondor says which host; the job goes there by ssh, and its pilot, which is here, keeps the place meanwhile. Where
HTCondor wants that back from a job with --checkpoint, the pilot says so in a file of the batch's, and waits until the
job is saved. One that is lost at once is not the job's end: that runs on there until it is saved, or its host is gone.
"""

from __future__ import annotations

import subprocess
from collections.abc import Collection
from pathlib import Path

from shim.submit.batch.dag import Dag
from shim.submit.batch.places import Endings, Pool
from shim.submit.batch.record import Batch
from shim.submit.batch.story import HOLD, VACATE
from shim.submit.engines import personal
from shim.submit.engines.told import LEAVES, RUNNING, Told


class _Own:
    """The jobs of a personal HTCondor that have places, and what keeps these.

    `saves`: a directory, where the pilots of jobs that can be saved say that they are to leave.
    """

    def __init__(self, saves: Path | None = None) -> None:
        self._saves = saves
        self._holders: dict[int, subprocess.Popen[bytes]] = {}
        self.asked_back: set[int] = set()  # whose places HTCondor takes back once they are kept no more
        self.hosts: dict[int, str] = {}  # HTCondor's log has this machine in their stead

    def on(self, job: int, name: str) -> str:
        """Keep a job's place; `name`: what HTCondor calls it. Returns its host. Raises RexecError."""
        self.let(job)
        self.hosts[job], self._holders[job] = personal.hold(name, self._leaves(job))
        return self.hosts[job]

    def _leaves(self, job: int) -> Path | None:
        return None if self._saves is None else self._saves / f"leaves-{job}"

    def hear(self, told: list[Told]) -> list[Told]:
        """Keep no place that is lost, by what was told."""
        for each in told:
            if each.state != RUNNING:
                self.let(each.job)
        # HTCondor has seen the pilot's end, and not the job's
        found = [each._replace(seen=False, apart=True) for each in told]
        for job in self._holders:
            if (path := self._leaves(job)) is not None and path.exists():
                path.unlink()  # it is told once
                self.asked_back.add(job)
                found.append(Told(job, LEAVES))
        return found

    def let_all(self, jobs: Collection[int] | None) -> None:
        """Keep the places of these jobs no more, or of all."""
        for job in list(self._holders) if jobs is None else jobs:
            self.let(job)

    def let(self, job: int) -> None:
        """Keep a job's place no more."""
        self.asked_back.discard(job)
        holder = self._holders.pop(job, None)
        if holder is not None:
            holder.kill()
            holder.communicate()
        if (path := self._leaves(job)) is not None:
            path.unlink(missing_ok=True)


class OwnPool(Pool):
    """As a Pool, of the personal HTCondor; `saves`: its jobs can be checkpointed."""

    apart = True

    def __init__(self, directory: Path, cluster: str, *, saves: bool) -> None:
        super().__init__(directory, cluster)
        self._own = _Own(directory if saves else None)
        self._name = f"{cluster}.{{}}".format
        self._endings = Endings(lambda job, status: personal.end(self._name(job), status))

    def changes(self) -> list[Told]:
        """See Places."""
        return self._own.hear(super().changes())

    def on(self, job: int) -> str:
        """See Places. Raises RexecError."""
        return self._own.on(job, self._name(job))

    def host(self, job: int) -> str:
        """See Places."""
        return self._own.hosts.get(job, "")

    def act(self, verb: str, jobs: Collection[int] | None) -> None:
        """See Places: a job that is to leave has been saved by now."""
        if verb == VACATE and jobs is not None:  # it knows of none that has just left
            leaving, jobs = jobs, [job for job in jobs if job not in self._own.asked_back]
            self._own.let_all(leaving)
        elif verb == HOLD:
            self._own.let_all(jobs)
        super().act(verb, jobs)

    def settled(self) -> bool:
        """See Places: with the pool its places have gone, also those that were never given back."""
        return super().settled() or not personal.config().exists()


class OwnDag(Dag):
    """As a Dag, of the personal HTCondor."""

    def __init__(self, directory: Path, cluster: str, batch: Batch) -> None:
        super().__init__(directory, cluster, batch)
        self._own = _Own()
        self._endings = Endings(lambda job, status: personal.end(self._name(job), status))

    def _name(self, job: int) -> str:
        return f"{self.cluster(job)}.0"

    def changes(self) -> list[Told]:
        """See Places."""
        return self._own.hear(super().changes())

    def on(self, job: int) -> str:
        """See Places. Raises RexecError."""
        return self._own.on(job, self._name(job))

    def host(self, job: int) -> str:
        """See Places."""
        return self._own.hosts.get(job, "")

    def settled(self) -> bool:
        """See Places: with the pool its places have gone, also those that were never given back."""
        return super().settled() or not personal.config().exists()
