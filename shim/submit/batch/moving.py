"""A job of a batch that can be checkpointed: one of `rexec jobs`, with a supervisor that outlives the batch's.

Its record says of which batch it is, and that is on the disk before it runs: so whoever supervises the batch next finds
it, and it is never run twice. What is to be done with it is done by rexec's own verbs, each a process.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from remoteio.errors import RexecError
from shim.submit import own_code
from shim.submit.batch.record import Batch
from shim.submit.batch.runs import PROGRAM, Ended
from shim.submit.batch.story import HELD, KILLED, RUNNING, WAITING
from shim.submit.job import control_socket
from shim.submit.job import record as jobs
from shim.submit.job.placement_events import Phase
from shim.submit.job.record import Job, Record

_HAS_HOST = (Phase.RUNNING, Phase.FROZEN, Phase.LOST)
_FATES = {"hold": HELD, "kill": KILLED}
_CREDENTIALS = struct.Struct("=iII")  # struct ucred, unix(7)


class Begun:
    """The jobs of a batch that have begun, and have no run here just now: they are held, or were left to run.

    `watch` is given each path at which something changes when one of them does.
    """

    def __init__(self, batch: Batch, name: str) -> None:
        self._batch, self._name = batch, name
        self.watch: Callable[[Path], object] = lambda path: None
        self._found: dict[int, Job] = {}
        numbers = {f"{name}.{job}": job for job in range(batch.count)} if batch.moves else {}
        for each in jobs.every() if batch.moves else ():
            try:
                batch_of_it = each.read().batch
            except RexecError:
                continue  # `rexec jobs` tells of it
            if batch_of_it in numbers:
                self._found[numbers[batch_of_it]] = each

    def __contains__(self, job: int) -> bool:
        return job in self._found

    def run(self, job: int, where: list[str]) -> MovingRun:
        """Start a run of that job, or have it go on. Raises RexecError."""
        return MovingRun(self._batch, self._name, job, where, self._found.pop(job, None), self.watch)

    def keep(self, run: MovingRun) -> None:
        """Take a job whose run is over, if it can go on from an image; else remove it: its end is on record."""
        if run.found is not None and run.goes_on() and run.fate != KILLED:
            self._found[run.job] = run.found
        elif run.found is not None:
            _remove(run.found)

    def remove(self, job: int) -> None:
        """Remove that job, if it has begun: its end is on record."""
        if job in self._found:
            _remove(self._found.pop(job))


def _remove(job: Job) -> None:
    """Have a job and its images removed, wherever it may be."""
    words = [shlex.join([*own_code.command(PROGRAM), *verb, str(job.id)]) for verb in (["kill"], ["images", "rm"])]
    subprocess.Popen(
        ["sh", "-c", "; ".join(words)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip


class _Verb:
    """A rexec that does something, as a process; `said`: what it printed, `why` it could not, once it has ended."""

    def __init__(self, words: list[str], batch: Batch) -> None:
        self._out: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - until it has ended
        self._process = subprocess.Popen(
            [*own_code.command(PROGRAM), *words], stdin=subprocess.DEVNULL, stdout=self._out, stderr=subprocess.STDOUT,
            cwd=batch.directory, env=dict(item.split("=", 1) for item in batch.environ), umask=batch.umask,
        )  # fmt: skip
        self.said = self.why = ""

    def over(self) -> bool:
        """Tell whether it has ended."""
        if self._process.poll() is None:
            return False
        if not self._out.closed:
            with self._out:
                self._out.seek(0)
                lines = self._out.read().decode("utf-8", "replace").splitlines()
            self.said = lines[0] if lines else ""
            if self._process.returncode:
                status = f"its rexec ended with {self._process.returncode}, without a word"
                self.why = lines[-1].removeprefix("rexec: ") if lines else status
        return True


class MovingRun:
    """A run of job `job` of `batch`, called `name`; `where`: words of a command line; `found`: it has begun already.

    `watch`: see Begun.
    """

    def __init__(
        self, batch: Batch, name: str, job: int, where: list[str], found: Job | None, watch: Callable[[Path], object]
    ) -> None:
        """Start it, or have it go on. Raises RexecError."""
        self.job, self.host, self.fate, self.news = job, "", "", ""
        self._batch, self._watch = batch, watch
        self.found = found
        self._read: tuple[tuple[int, int], Record | None] = (0, 0), None  # which file that was, and what it said
        self._starts: _Verb | None = None
        self._asks: tuple[str, _Verb] | None = None
        self._told, self._later = False, ""
        if found is None:
            words = ["--checkpoint", "--detach", "--no-tty", "--fds", "none", "--for-batch", f"{name}.{job}"]
            self._starts = self._verb(*words, *where, *batch.options, "--", *batch.words(job))
        else:
            self._has_begun(found)

    def _verb(self, *words: str) -> _Verb:
        try:
            return _Verb(list(words), self._batch)
        except OSError as e:
            raise RexecError(f"job {self.job} cannot be started: {e}") from e

    def _has_begun(self, job: Job) -> None:
        self.found = job
        try:
            self._watch(job.path)
            self._look()
        except OSError as e:
            raise RexecError(f"job {job.id} is not there: {e.strerror}") from e

    def _look(self) -> Record:
        """Read its record, if that is another by now."""
        assert self.found is not None
        at = os.stat(self.found.path / "job.json")
        seen, record = self._read
        if record is None or seen != (at.st_mtime_ns, at.st_ino):
            record = self.found.read()
            self._read = (at.st_mtime_ns, at.st_ino), record
            self.host = record.host if record.phase in _HAS_HOST else ""
        return record

    def reached(self) -> bool:
        """Tell whether it is on a host; `host` names it then."""
        return bool(self.host)

    def state(self) -> str:
        """Tell what it is: RUNNING, WAITING for a host, or HELD by its user."""
        record = self._read[1]
        if record is not None and record.held and record.phase == Phase.PARKED:
            return HELD
        return RUNNING if self.host else WAITING

    def ended(self) -> Ended | None:
        """Tell how it has ended, or that it is held; None: neither."""
        try:
            return self._ended()
        except FileNotFoundError:
            return Ended(None, "somebody has removed it from `rexec jobs`")
        except RexecError as e:
            return Ended(None, str(e))

    def _ended(self) -> Ended | None:
        self._answered()
        if self._starts is not None:
            if not self._starts.over():
                return None
            started, self._starts = self._starts, None
            if started.why:
                return Ended(None, started.why)
            if self.found is None:
                self._has_begun(jobs.find(started.said))
            if self._later:
                verb, self._later = self._later, ""
                self.ask(verb)
        self._look()
        assert self.found is not None
        if self.found.supervised():
            if self.fate == HELD and self.state() == HELD and not self._told:
                self._told = True  # a second word would end it in the midst of something
                _have_end(self.found)
            return None
        return self._without_supervisor(self.found, self._look())

    def _without_supervisor(self, job: Job, record: Record) -> Ended | None:
        if record.phase == Phase.ENDED:
            if self.fate == HELD:
                self.fate = ""
            if record.status is None:
                return Ended(None, record.reason)
            code = os.waitstatus_to_exitcode(record.status)
            return Ended(code if code >= 0 else 128 - code, "")
        if self.fate == HELD and record.held:
            return Ended(None, "")
        if not record.image:
            return Ended(None, f"its supervisor ended: {record.without_image()}")
        if self._asks is None:
            self._starts = self._verb("resume", str(job.id))
        return None

    def takes(self, verb: str) -> bool:
        """Tell whether there is any sense in `verb`."""
        return {"vacate": self.reached(), "release": self.state() == HELD}.get(verb, True)

    def soon(self) -> bool:
        """Tell whether it is about to end, and has to be looked at again: its supervisor's end changes no file."""
        record = self._read[1]
        return record is not None and (record.phase == Phase.ENDED or (self.fate == HELD and self.state() == HELD))

    def _answered(self) -> None:
        if self._asks is None or not self._asks[1].over():
            return
        verb, done = self._asks
        self._asks = None
        if done.why:
            self.news = f"{verb}: {done.why}"
            self.fate = self.fate if self.fate == KILLED else ""

    def ask(self, verb: str) -> None:
        """Have `verb` done to it; as soon as it has begun, if it has not. Raises RexecError."""
        if self._asks is not None and verb != "kill":
            raise RexecError(f"{self._asks[0]} is under way: ask again in a moment")
        if verb in _FATES:
            self.fate = _FATES[verb]
        if self.found is None:
            self._later = verb
        else:
            self._asks = verb, self._verb(verb, str(self.found.id))

    def goes_on(self) -> bool:
        """Tell whether it can go on from an image."""
        record = self._read[1]
        return record is not None and record.phase != Phase.ENDED and record.image > 0


def _have_end(job: Job) -> None:
    """Have the supervisor of a job that is held end: the job is a directory then, and no process."""
    try:
        with control_socket.connect(job.control) as sock:
            pid, _, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
            os.kill(pid, signal.SIGTERM)
    except (RexecError, ProcessLookupError):
        pass  # it has ended by itself
