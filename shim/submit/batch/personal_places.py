"""Where the jobs of a batch get their places from a personal HTCondor (shim/submit/engines/personal.py).

HTCondor says which host; the job goes there by ssh, and its pilot, which is here, keeps the place meanwhile.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from shim.submit.batch.dag import Dag
from shim.submit.batch.places import Endings, Pool
from shim.submit.batch.record import Batch
from shim.submit.engines import personal
from shim.submit.engines.told import RUNNING, Told


class _Own:
    """The jobs of a personal HTCondor that have places, and what keeps these."""

    def __init__(self) -> None:
        self._holders: dict[int, subprocess.Popen[bytes]] = {}
        self.hosts: dict[int, str] = {}  # HTCondor's log has this machine in their stead

    def on(self, job: int, name: str) -> str:
        """Keep a job's place; `name`: what HTCondor calls it. Returns its host. Raises RexecError."""
        self._let(job)
        self.hosts[job], self._holders[job] = personal.hold(name)
        return self.hosts[job]

    def hear(self, told: list[Told]) -> list[Told]:
        """Keep no place that is lost, by what was told."""
        for each in told:
            if each.state != RUNNING:
                self._let(each.job)
        return told

    def _let(self, job: int) -> None:
        holder = self._holders.pop(job, None)
        if holder is not None:
            holder.kill()
            holder.communicate()


class OwnPool(Pool):
    """As a Pool, of the personal HTCondor."""

    def __init__(self, directory: Path, cluster: str) -> None:
        super().__init__(directory, cluster)
        self._own = _Own()
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
