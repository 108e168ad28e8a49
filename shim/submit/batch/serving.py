"""Processes that serve many runs of a batch each (shim/cli/served.py), and a run in one of them.

A run is some threads and a hundred descriptors there; a process of its own is 15 MiB of Python (docs/decisions/
serving.md). Both ends say lines of JSON over a socket; it ends with the supervisor, and the runs with it. Where it dies
first, what it had not said to have ended is as a run whose own process has died, once that is ended (left.py).
"""

from __future__ import annotations

import json
import resource
import socket
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from remoteio.errors import RexecError
from shim.submit import own_code
from shim.submit.batch import left
from shim.submit.batch.record import Batch
from shim.submit.batch.runs import Ended, Run, cost, environ

TOGETHER = 32
"""Runs that share a process: each further one makes all of them wait longer for Python's lock."""

LEAST_FILES = 4096
"""Descriptors that each of them has: some hundred, and the files that its job has open."""

_PROGRAM = "shim.cli.served"  # by name: it is the commands' own
_PATIENCE = 10.0  # seconds for a process to take what it is told


def together() -> int:
    """Return how many runs may share a process here."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return TOGETHER if most == resource.RLIM_INFINITY else max(1, min(TOGETHER, most // LEAST_FILES))


class ServedRun(Run):
    """A run in a process that serves others too."""

    def __init__(self, job: int, serving: _Serving, number: int) -> None:
        super().__init__(job)
        self._serving, self._number = serving, number
        self.how: Ended | None = None

    def reached(self) -> bool:
        """See Run."""
        return bool(self.host)

    def ended(self) -> Ended | None:
        """See Run."""
        return self.how

    def end(self, *, at_once: bool) -> None:
        """See Run; at once: it is let go of, and its host is told so."""
        self._serving.tell({"end": self._number, "at_once": at_once})

    def forget(self) -> None:
        """See Run."""
        self._serving.forget(self._number)

    def hear(self, row: dict[str, Any]) -> None:
        """Take in what its process says of it."""
        if row["event"] == "reached":
            self.host = str(row["host"])
        elif "reason" in row:
            self.how = Ended(None, str(row["reason"]))
        else:
            self.how = Ended(int(row["code"]), "", cost(row))


class _Serving:
    """One process, and the runs that it serves, by number. Raises RexecError where it cannot be started."""

    def __init__(self, batch: Batch, directory: Path, most: int) -> None:
        self.runs: dict[int, ServedRun] = {}
        self.most = most
        self.socket, theirs = socket.socketpair()
        self._said = b""
        try:
            with theirs, open(directory / "errors", "ab") as errors:
                self.process = subprocess.Popen(
                    [*own_code.command(_PROGRAM), str(theirs.fileno()), str(most)],
                    stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, pass_fds=(theirs.fileno(),),
                    cwd=batch.directory, env=environ(batch), umask=batch.umask,
                )  # fmt: skip
        except OSError as e:
            self.socket.close()
            raise RexecError(f"a process for the runs of a batch cannot be started: {e}") from e

    def tell(self, row: Mapping[str, object]) -> None:
        """Tell it something; one that does not take it is ended."""
        try:
            self.socket.settimeout(_PATIENCE)
            self.socket.sendall(json.dumps(row).encode() + b"\n")
        except OSError:
            self.process.kill()

    def read(self) -> bool:
        """Take in what it has said. False: it has ended, and so have its runs."""
        with suppress(BlockingIOError):
            while said := self._take():
                self._said += said
                *lines, self._said = self._said.split(b"\n")
                for row in map(json.loads, lines):
                    if (run := self.runs.get(row["run"])) is not None:
                        run.hear(row)
            self.process.kill()
            status = self.process.wait()
            for run in self.runs.values():
                if run.how is None:
                    run.how = Ended(None, f"the process that served it ended with {status}, without a word")
            return False
        return True

    def _take(self) -> bytes:
        self.socket.setblocking(False)
        with suppress(ConnectionError):
            return self.socket.recv(1 << 16)
        return b""

    def forget(self, number: int) -> None:
        """Drop a run; with its last it ends."""
        del self.runs[number]


class Servings:
    """All such processes of a batch. One thread, the supervisor's."""

    def __init__(self, batch: Batch, directory: Path) -> None:
        self._batch, self._directory = batch, directory
        self._most = together()
        self._serving: list[_Serving] = []
        self._over: list[subprocess.Popen[bytes]] = []  # told to end
        self.left = left.Left(batch, directory)
        self._last = 0  # number of a run: one that was let go of is not mistaken for the job's next

    def fds(self) -> list[int]:
        """Return what is readable when there is something to be read."""
        return [each.socket.fileno() for each in self._serving]

    def read(self) -> None:
        """Take in what was said of the runs; processes that serve none any more are ended."""
        for each in list(self._serving):
            lives = each.read()
            self._leave([run for run in each.runs.values() if run.how is not None])
            if lives and each.runs:
                continue
            self._serving.remove(each)
            each.socket.close()
            self._over.append(each.process)
        self._over = [each for each in self._over if each.poll() is None]
        self.left.read()

    def _leave(self, ended: list[ServedRun]) -> None:
        """Have ended what these may have left on their hosts, and say so of what is to begin again."""
        self.left.end(run.job for run in ended)
        for run in ended:
            if run.how is not None and run.how.why:
                run.how = run.how._replace(why=self.left.told(run.job, run.how.why))

    def run(self, job: int, where: list[str], *, alone: bool = False) -> ServedRun:
        """Begin a run of a job, with `where` on its command line; `alone`: no other shares its process. Raises
        RexecError."""
        serving = None if alone else next((each for each in self._serving if len(each.runs) < each.most), None)
        if serving is None:
            serving = _Serving(self._batch, self._directory, 1 if alone else self._most)
            self._serving.append(serving)
        self._last += 1
        run = serving.runs[self._last] = ServedRun(job, serving, self._last)
        out, err = self._batch.outputs(job)
        words = [*where, "--no-tty", "--fds", "none", *self._batch.options, "--", *self._batch.words(job)]
        note = str(left.path(self._directory, job))
        serving.tell({"run": self._last, "words": words, "out": out, "err": err, "note": note})
        return run
