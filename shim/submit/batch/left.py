"""The jobs of a batch of which a run that was killed may have left something on a host: they wait until it is ended.

The file `agent-K` of the batch's directory says how it is asked to (left_on_host.py). One process dials for all that
were left at a time; none waits beside a run, as the supervisor sees when what serves it is killed, and the next one
finds the files of a supervisor that was killed with all that it had started.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from shim.submit import left_on_host, own_code
from shim.submit.batch.record import Batch
from shim.submit.batch.runs import environ

_NAME = "agent-"
_WAITS = "it begins again once its host has ended what it runs of it, or the lease of that is over"
_AGAIN = 60.0  # seconds until another is started, where who was to end them has ended before they have


def path(directory: Path, job: int) -> Path:
    """Name the file that says how the agent of a job's run is asked."""
    return directory / f"{_NAME}{job}"


class Left:
    """The jobs of which something may be left on a host. One thread, the supervisor's."""

    def __init__(self, batch: Batch, directory: Path) -> None:
        """Have ended what an earlier supervisor has left, that was killed with all that served its runs."""
        self._batch, self._directory = batch, directory
        self._until: dict[int, float] = {}  # job -> when its lease is over whatever is heard
        self._enders: list[subprocess.Popen[bytes]] = []
        self._again = 0.0
        names = (each.removeprefix(_NAME) for each in os.listdir(directory) if each.startswith(_NAME))
        self.end(int(name) for name in names if name.isdigit())

    def __contains__(self, job: int) -> bool:
        return job in self._until

    def told(self, job: int, why: str) -> str:
        """Say why that job is to begin again, and what it waits for."""
        return f"{why}; {_WAITS}" if job in self else why

    def end(self, jobs: Iterable[int]) -> None:
        """Have ended what the runs of these have left, as nothing here serves them any more; many have left nothing."""
        found = {job: until for job in jobs if (until := left_on_host.over(path(self._directory, job)))}
        if found:
            self._until |= found
            self._start(list(found))

    def read(self) -> None:
        """Take note of what has been ended."""
        now = time.monotonic()
        for job, until in list(self._until.items()):
            where = path(self._directory, job)
            if now > until:
                where.unlink(missing_ok=True)
            if not where.exists():
                del self._until[job]
        self._enders = [each for each in self._enders if each.poll() is None]
        if self._until and not self._enders and now > self._again:
            self._start(list(self._until))

    def _start(self, jobs: list[int]) -> None:
        self._again = time.monotonic() + _AGAIN
        names = [str(path(self._directory, job)) for job in jobs]
        with suppress(OSError), open(self._directory / "errors", "ab") as errors:  # tried again
            self._enders.append(
                subprocess.Popen(
                    [*own_code.command(left_on_host.__name__), *names], stdin=subprocess.DEVNULL, stdout=errors,
                    stderr=errors, cwd="/", env=environ(self._batch), start_new_session=True,
                )
            )  # fmt: skip
