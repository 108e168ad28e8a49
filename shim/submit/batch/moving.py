"""A job of a batch that can be checkpointed: one of `rexec jobs`, with a supervisor that outlives the batch's.

Its record says of which batch it is, and that is on the disk before it runs: so whoever supervises the batch next finds
it, and it is never run twice. What is to be done with it is done by rexec's own verbs, each a process.

In a place of an engine's its supervisor ends with the place: a job that waits for another is a directory. It is not
ended before the last of the old place is heard, which may be an image; nor is what the engine says of the job believed
more than its agent: a generation of which nobody has seen the end is waited for as long as its lease.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from remoteio.errors import RexecError
from shim.submit import own_code
from shim.submit.batch.record import Batch
from shim.submit.batch.runs import PROGRAM, Ended
from shim.submit.batch.story import HELD, KILLED, RUNNING, WAITING
from shim.submit.job import agent_file, control_socket, events
from shim.submit.job import record as jobs
from shim.submit.job.life import life
from shim.submit.job.phase import ACTING, Phase
from shim.submit.job.record import Job, Record

_HAS_HOST = (Phase.RUNNING, Phase.FROZEN, Phase.LOST)
_FATES = {"hold": HELD, "kill": KILLED}
# what a job is to be that is held: its user says so, or an engine is to give it another place
_STAY = (HELD, WAITING)
_HEARS = 10.0  # seconds for a supervisor to end that has nothing to do
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

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._found))

    def run(self, job: int, where: list[str], place: str = "") -> MovingRun:
        """Start a run of that job, or have it go on; `place`: of an engine. Raises RexecError."""
        return MovingRun(self._batch, f"{self._name}.{job}", job, where, place, self._found.pop(job, None), self.watch)

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


class _OnRecord:
    """What the record of a job says, read again when it is another; `host`: on which it is, if on one.

    `placed`: it is in an engine's place: where it was lost, it may have been in another.
    """

    def __init__(self, job: Job, placed: bool) -> None:
        """Raises OSError, RexecError."""
        self.job, self.host = job, ""
        self._phases = _HAS_HOST[:-1] if placed else _HAS_HOST
        self._seen = 0, 0
        self.record = self.look()

    def look(self) -> Record:
        """Return it as it is now. Raises OSError, RexecError."""
        at = os.stat(self.job.path / "job.json")
        seen = at.st_mtime_ns, at.st_ino
        if seen != self._seen:
            self.record, self._seen = self.job.read(), seen
            self.host = self.record.host if self.record.phase in self._phases else ""
        return self.record


class MovingRun:
    """A run of job `job` of `batch`, called `name`; `where`: words of a command line; `found`: it has begun already.

    `watch`: see Begun. `place`: what tells an engine's place from others that the job had; empty: it has no such place.
    """

    def __init__(
        self, batch: Batch, name: str, job: int, where: list[str], place: str, found: Job | None,
        watch: Callable[[Path], object],
    ) -> None:  # fmt: skip
        """Start it, or have it go on. Raises RexecError."""
        self.job, self.fate, self.news, self.place = job, "", "", place
        self._batch, self._watch, self._where = batch, watch, where
        self._seen: _OnRecord | None = None
        self._starts: _Verb | None = None
        self._asks: tuple[str, _Verb] | None = None
        # the signal that its supervisor was given, and when; before it has begun: what is asked of it
        self._told: tuple[int, float] | str = ""
        # its place is lost: of which generations nothing is left, and whether its supervisor may save it at once
        self._lost: tuple[int, bool] | None = None
        if found is None:
            words = ["--checkpoint", "--detach", "--no-tty", "--fds", "none", "--for-batch", name]
            self._starts = self._verb(*words, *where, *batch.options, "--", *batch.words(job))
        else:
            self._has_begun(found)

    def _verb(self, *words: str) -> _Verb:
        try:
            return _Verb(list(words), self._batch)
        except OSError as e:
            raise RexecError(f"job {self.job} cannot be started: {e}") from e

    def _has_begun(self, job: Job) -> None:
        try:
            self._watch(job.path)
            self._seen = _OnRecord(job, bool(self.place))
        except OSError as e:
            raise RexecError(f"job {job.id} is not there: {e.strerror}") from e

    @property
    def found(self) -> Job | None:
        """The job, once it has begun."""
        return None if self._seen is None else self._seen.job

    @property
    def host(self) -> str:
        """On which host it is; empty: on none."""
        if self._seen is None or (self.place and self._starts is not None):
            return ""  # what its record says is of the place before
        return self._seen.host

    @property
    def why(self) -> str:
        """What it waits for, as its own supervisor has it."""
        return "" if self._seen is None else self._seen.record.why

    def reached(self) -> bool:
        """Tell whether it is on a host; `host` names it then."""
        return bool(self.host)

    def state(self) -> str:
        """Tell what it is: RUNNING, WAITING for a host, or HELD by its user."""
        seen = self._seen
        if self._starts is None and seen is not None and seen.record.held and seen.record.phase == Phase.PARKED:
            return HELD
        return RUNNING if self.host else WAITING

    def stands_about(self) -> bool:
        """Tell whether it is parked, and nobody has told it to be."""
        seen = self._seen
        return not self.fate and self._starts is None and seen is not None and seen.record.phase == Phase.PARKED

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
            if self._seen is None:
                self._has_begun(jobs.find(started.said))
            if isinstance(self._told, str) and self._told:
                verb, self._told = self._told, ""
                self.ask(verb)
        assert self._seen is not None
        record = self._seen.look()
        if self._seen.job.supervised():
            if self._lost is not None:
                self._let_go(self._seen.job, record)
            elif self.fate in _STAY and self.state() == HELD:
                # there is nothing that a second would disturb, and one that comes just before it waits is not heard
                self._tell(self._seen.job, signal.SIGTERM, again=True)
            return None
        return self._without_supervisor(self._seen.job, self._seen.look())

    def _let_go(self, job: Job, record: Record) -> None:
        """Have its supervisor end, as it has no place: not while something of that may be heard yet.

        One that is in touch with its host while the job has another place has gone there by itself: it saves the job;
        and so does one whose job runs on though its place is lost.
        """
        assert self._lost is not None
        if record.phase in ACTING and (record.away or record.phase == Phase.LOST):
            self._tell(job, signal.SIGKILL)
        elif record.phase not in ACTING or self._lost[1]:
            self._tell(job, signal.SIGTERM)

    def _tell(self, job: Job, number: int, *, again: bool = False) -> None:
        now, told = time.monotonic(), () if isinstance(self._told, str) else self._told
        # a second SIGTERM would end it in the midst of something
        if not told or told[0] != number or (again and now > told[1] + _HEARS):
            self._told = number, now
            _end(job, number)

    def _without_supervisor(self, job: Job, record: Record) -> Ended | None:
        if record.phase == Phase.ENDED:
            if self.fate in _STAY:
                self.fate = ""
            if record.status is None:
                return Ended(None, record.reason)
            code = os.waitstatus_to_exitcode(record.status)
            return Ended(code if code >= 0 else 128 - code, "", _cost(job))
        if self._lost is not None:
            return Ended(None, self._has_lost(job, record))
        if self.fate in _STAY and record.held:
            return Ended(None, "")
        if not record.image:
            return Ended(None, f"its supervisor ended: {record.without_image()}")
        if self._asks is None:
            self._starts = self._verb("resume", *(self._where if self.place else ()), str(job.id))
        return None

    def _has_lost(self, job: Job, record: Record) -> str:
        """Say from where it goes on, now that its place is lost; what is known to be over there is forgotten."""
        if record.phase not in ACTING:
            return ""
        try:
            for each in agent_file.noted(job.path):
                if self._lost is not None and each.generation <= self._lost[0]:
                    agent_file.forget(job.path, each.generation)
        except OSError as e:
            raise RexecError(f"what is noted of job {job.id} cannot be removed: {e.strerror}") from e
        if not record.image:
            return "its place was lost before its first image: it begins anew"
        return f"its place was lost before it could be saved: it goes on from image {record.image}"

    def takes(self, verb: str) -> bool:
        """Tell whether there is any sense in `verb`."""
        return {"vacate": self.reached(), "release": self.state() == HELD}.get(verb, True)

    def soon(self) -> bool:
        """Tell whether it is about to end, and has to be looked at again: its supervisor's end changes no file."""
        if self._seen is None:
            return False
        ends = self.fate in _STAY and self.state() == HELD
        return self._seen.record.phase == Phase.ENDED or ends or not isinstance(self._told, str)

    def _answered(self) -> None:
        if self._asks is None or not self._asks[1].over():
            return
        verb, done = self._asks
        self._asks = None
        if done.why:
            self.news = f"{verb}: {done.why}"
            if self._lost is None:
                self.fate = self.fate if self.fate == KILLED else ""

    def ask(self, verb: str) -> None:
        """Have `verb` done to it; as soon as it has begun, if it has not. Raises RexecError."""
        if self._asks is not None and verb != "kill":
            raise RexecError(f"{self._asks[0]} is under way: ask again in a moment")
        if verb in _FATES:
            self.fate = _FATES[verb]
        if self._seen is None:
            self._told = verb
        else:
            self._asks = verb, self._verb(verb, str(self._seen.job.id))

    def leave(self, fate: str) -> None:
        """Have it saved, and be no process: `fate`, HELD or WAITING, is what it is then. Raises RexecError."""
        self.ask("hold")
        self.fate = fate

    def lose(self, fate: str, *, known: bool, apart: bool = False) -> None:
        """Take note that its place is lost: it is to be `fate` once nothing more is heard of it there.

        `known`: that nothing of it is left there. `apart`: its place was not there, and it may run on.
        """
        generation = self._seen.record.generation if known and self._seen is not None else 0
        self._lost = generation, apart
        if self.fate != KILLED:
            self.fate = fate

    def has(self, place: str) -> None:
        """Take note that it has this place; another than its own: what became of that was not told."""
        if place != self.place:
            if self._lost is None:
                self.lose(WAITING, known=False)
            self._lost = self._lost[0] if self._lost is not None else 0, True
        elif self._lost is not None and isinstance(self._told, str):
            self._lost, self.fate = None, KILLED if self.fate == KILLED else ""

    def goes_on(self) -> bool:
        """Tell whether it can go on from an image."""
        record = None if self._seen is None else self._seen.record
        return record is not None and record.phase != Phase.ENDED and record.image > 0


def _end(job: Job, number: int) -> None:
    """Give the supervisor of a job that signal: the job is a directory then, and no process."""
    try:
        with control_socket.connect(job.control) as sock:
            pid, _, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
            os.kill(pid, number)
    except (RexecError, ProcessLookupError):
        pass  # it has ended by itself


def _cost(job: Job) -> list[float] | None:
    """Sum up what its stays on hosts have cost, as far as these have told."""
    try:
        stays = life(str(job.id), events.read_events(job.log)[0], time.time()).stays
    except RexecError:
        return None  # `rexec log` tells of it
    told = [stay.cost for stay in stays if stay.cost is not None]
    return [round(sum(each.cpu for each in told), 3), round(sum(each.waited for each in told), 3),
            sum(each.carried for each in told)] if told else None  # fmt: skip
