"""One job of a batch while it runs: a `rexec CMD` as a process of its own, as a person would start it.

How it fares it says in a file (--json-log). It ends with the supervisor, however that ends. serving.py has the other
kind of run, which shares its process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from remoteio.errors import RexecError
from remoteio.submit import programs
from shim.submit import own_code
from shim.submit.batch.record import Batch

PROGRAM = "shim.cli.program"  # by name: it is the commands' own


class Ended(NamedTuple):
    """How a run ended: with the job's status; or None, and why rexec could not run it.

    cost   processor time and seconds that files were waited for, and bytes to and fro, if its host has told
    """

    status: int | None
    why: str
    cost: list[float] | None = None


class Run(ABC):
    """A run of job `job`; the engine calls it `cluster`. `host` is where, once it has reached one."""

    def __init__(self, job: int, cluster: str = "") -> None:
        self.job, self.host, self.cluster = job, "", cluster
        self.fate = ""  # the state that the job has once this has ended before the job

    @abstractmethod
    def reached(self) -> bool:
        """Tell whether it has a host; `host` names it from then on."""

    @abstractmethod
    def ended(self) -> Ended | None:
        """Tell how it has ended; None: it has not."""

    @abstractmethod
    def end(self, *, at_once: bool) -> None:
        """End it: by a signal that the job has too; or here, whatever it does.

        Called again, where it does not end.
        """

    @abstractmethod
    def forget(self) -> None:
        """Give back what it held, once it has ended."""


class OwnRun(Run):
    """A run in a process of its own, of a job of `batch`, with `where` on its command line."""

    def __init__(self, batch: Batch, job: int, where: list[str], directory: Path, cluster: str = "") -> None:
        """Start it. Raises RexecError."""
        super().__init__(job, cluster)
        self._said = directory / f"run-{job}"
        self._said.unlink(missing_ok=True)
        out, self._err = batch.outputs(job)
        setpriv = programs.find("setpriv")
        ends = [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []
        options = ["--no-tty", "--fds", "none", "--json-log", str(self._said), *batch.options]
        argv = [*ends, *own_code.command(PROGRAM), *where, *options, "--", *batch.words(job)]
        try:
            with opened(out) as output, opened(self._err) as errors:
                self._process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, cwd=batch.directory,
                    env=environ(batch), umask=batch.umask,
                )  # fmt: skip
        except OSError as e:
            raise RexecError(f"job {job} cannot be started: {e}") from e

    def reached(self) -> bool:
        """See Run."""
        if not self.host:
            self.host = next((str(row.get("host")) for row in self._rows() if row.get("event") == "reached"), "")
        return bool(self.host)

    def ended(self) -> Ended | None:
        """See Run."""
        if self._process.poll() is None:
            return None
        rows = [row for row in self._rows() if row.get("event") == "ended"]
        if rows and "reason" not in rows[-1]:
            return Ended(int(rows[-1]["code"]), "", cost(rows[-1]))
        return Ended(None, str(rows[-1]["reason"]) if rows else self._last_word())

    def end(self, *, at_once: bool) -> None:
        """See Run; at once: without a word to its host, where nothing of it runs any more."""
        self._process.send_signal(signal.SIGKILL if at_once else signal.SIGTERM)

    def forget(self) -> None:
        """Remove what it said."""
        self._said.unlink(missing_ok=True)

    def _rows(self) -> list[dict[str, Any]]:
        found = []
        with suppress(FileNotFoundError):
            for line in self._said.read_bytes().split(b"\n")[:-1]:
                found.append(json.loads(line))
        return found

    def _last_word(self) -> str:
        words = Path(self._err).read_bytes()[-4096:].decode("utf-8", "replace").splitlines()
        said = [line.removeprefix("rexec: ") for line in words if line.startswith("rexec: ")]
        return said[-1] if said else f"its rexec ended with {self._process.returncode}, without a word"


def environ(batch: Batch) -> dict[str, str]:
    """Return the environment of whoever serves a batch's runs."""
    return dict(item.split("=", 1) for item in batch.environ)


def cost(row: dict[str, Any]) -> list[float] | None:
    """Return what a run has cost, of the row that tells its end."""
    if "cpu" not in row:
        return None
    return [round(row["cpu"], 3), round(row["waited"], 3), row["received"] + row["sent"]]


def opened(path: str) -> BinaryIO:
    """Open what a job's output goes to. Raises OSError."""
    return open(path, "wb", opener=_there)


def _there(path: str, flags: int) -> int:
    # where another job of the batch may write, it may have made a link to what it may not
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)
