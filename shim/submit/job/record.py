"""The jobs that can be checkpointed, each in a directory of its own on the submit machine.

`$XDG_STATE_HOME/rexec/jobs/ID/` (mode 0700), ID a whole number:

    job.json       Record: what was asked for and where it stands; replaced atomically
    events.jsonl   its log (shim/submit/job/events.py)
    control        unix socket of its supervisor (shim/submit/job/control_socket.py)
    lock           locked by its supervisor as long as it lives (F_OFD_SETLK, fcntl(2): to ask disturbs nobody)
    stdout stderr terminal    what a detached job said
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from checkpoint.submit import store, xdg
from remoteio.errors import ProtocolError, RexecError
from remoteio.kernel_structs import FLOCK
from remoteio.submit.export.confine import MOST_MADE
from shim.submit import scope
from shim.submit.job.placement_events import Phase
from shim.submit.scope import Scope
from shim.submit.shapes import (
    NATURAL,
    ShapeError,
    any_of,
    decoded,
    flag,
    listed,
    maybe,
    number,
    one_of,
    string,
    table,
    tuple_of,
    whole,
)
from shim.wire.job_spec import JobSpec

ANY = "any"


class JobError(RexecError):
    """There is no such job, or its directory cannot be used: one sentence."""


@dataclass(frozen=True, slots=True)
class Record:
    """What job.json holds.

    hosts       names that `--on` gave, in order; ("any",): all of hosts.toml
    owner       name of the policy that `--owner` gave; empty: each host's own
    every       seconds between checkpoints, 0 or NEVER as in State of shim/submit/job/placement_events.py
    keep        images kept
    spec        JobSpec.pack(), base64
    phase, why, host, generation, image, held    of shim/submit/job/placement_events.py, as last known
    ran         seconds that it has run, up to `since`; `since`: since when it has been running, 0: it is not
    moves       how often it went on from an image
    saved       when its last image was committed, seconds since 1970, and that image's size in bytes
    scope       what it has of the files here: Scope.row
    made        the directories that it has made: st_dev, st_ino and when each
    after       what the job did to its files since that image, once nothing of it runs (Changes.rows)
    status, reason    how it ended: waitpid(2)'s status, or rexec's own reason
    """

    id: int
    command: tuple[str, ...]
    cwd: str
    created: float
    hosts: tuple[str, ...]
    owner: str
    every: float
    keep: int
    detached: bool
    tty: bool
    spec: str
    phase: str = "choosing"
    why: str = ""
    host: str = ""
    generation: int = 0
    image: int = 0
    held: bool = False
    ran: float = 0.0
    since: float = 0.0
    moves: int = 0
    saved: float = 0.0
    saved_size: int = 0
    scope: Mapping[str, object] = field(default_factory=dict)
    made: tuple[Any, ...] = ()
    after: tuple[Any, ...] = ()
    status: int | None = None
    code: int = 0
    reason: str = ""

    def job_spec(self) -> JobSpec:
        """Return the job as it was described when it was submitted. Raises JobError."""
        try:
            return JobSpec.unpack(base64.b64decode(self.spec, validate=True))
        except (ValueError, ProtocolError) as error:
            raise JobError(f"the record of job {self.id} does not tell what it is to run: {error}") from None

    def job_scope(self) -> Scope:
        """Return what it has of the files here."""
        return scope.of_row(self.scope)

    def without_image(self) -> str:
        """Say what is left of it, its supervisor gone, if it has no image: a clause."""
        return "it had no checkpoint" if self.ran or self.since else "it never ran: submit it again"


def packed(spec: JobSpec) -> str:
    """Return a spec as Record holds it."""
    return base64.b64encode(spec.pack()).decode()


_TUPLES = ("command", "hosts", "after", "made")
_WORDS, _SECONDS = listed(string, 1 << 21), number(-1e12, 1e12)
_STATE = (whole(), whole(-NATURAL), whole(-NATURAL))
_CHANGE = tuple_of(whole(), whole(), whole(), whole(), *_STATE, flag, flag, flag)
_OLD_AFTER = tuple_of(string, whole(), whole(-NATURAL), whole())  # of an older rexec: Changes.of makes nothing of it
_OLD_CHANGE = tuple_of(whole(), whole(), whole(), whole(), *_STATE, flag, flag)  # nor of this
_AFTER = listed(any_of(whole(), _OLD_AFTER, _OLD_CHANGE, _CHANGE), 1 << 24)
_MADE = listed(tuple_of(whole(), whole(), whole(-NATURAL)), MOST_MADE)
_RECORD = table(
    {
        "id": whole(), "command": _WORDS, "cwd": string, "created": _SECONDS, "hosts": _WORDS, "owner": string,
        "every": _SECONDS, "keep": whole(1), "detached": flag, "tty": flag, "spec": string,
    },
    {
        "phase": one_of(*Phase), "why": string, "host": string, "generation": whole(), "image": whole(), "held": flag,
        "ran": _SECONDS, "since": _SECONDS, "moves": whole(), "saved": _SECONDS, "saved_size": whole(),
        "scope": scope.SHAPE, "made": _MADE, "after": _AFTER,
        "status": maybe(whole(0, (1 << 32) - 1)), "code": whole(), "reason": string,
    },
)  # fmt: skip


def home() -> Path:
    """Tell where the jobs are: `jobs` beside the image store."""
    return xdg.state() / "jobs"


class Job:
    """One job's directory. Raises JobError."""

    __slots__ = ("_lock", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = -1

    @property
    def id(self) -> int:
        return int(self.path.name)

    @property
    def log(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def control(self) -> Path:
        return self.path / "control"

    def read(self) -> Record:
        """Return the record as last written."""
        try:
            values = _RECORD(decoded((self.path / "job.json").read_bytes(), "it"), "it")
            return Record(**{**values, **{name: tuple(values[name]) for name in _TUPLES if name in values}})
        except FileNotFoundError:
            raise JobError(f"there is no job {self.path.name}: see `rexec jobs`") from None
        except (OSError, ShapeError) as error:
            raise JobError(
                f"{self.path}/job.json cannot be read: {error}; remove {self.path} if it is of no use"
            ) from None

    def write(self, record: Record) -> None:
        """Replace the record, durably."""
        data = json.dumps(asdict(record), indent=1).encode() + b"\n"
        new = self.path / "job.json.new"
        try:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
            os.rename(new, self.path / "job.json")
            _sync(self.path)
        except OSError as error:
            raise JobError(
                f"the job's record in {self.path} cannot be written: {error.strerror}; make room there"
            ) from error

    def lock(self) -> bool:
        """Become the job's supervisor, until this process ends or `unlock`; False: another process is."""
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_WRLCK, 0, 0, 0, 0))
        except (BlockingIOError, PermissionError):
            os.close(fd)
            return False
        self._lock = fd
        return True

    @property
    def lock_fd(self) -> int:
        """The descriptor that holds the lock, for a process that is to be the supervisor in our place; -1: none."""
        return self._lock

    def locked_by(self, fd: int) -> None:
        """Take over a descriptor that holds the lock, from the process that took it."""
        self._lock = fd

    def unlock(self) -> None:
        """Close our descriptor of the lock; another process that has been given it is the supervisor still."""
        fd, self._lock = self._lock, -1
        os.close(fd)

    def supervised(self) -> bool:
        """Does its supervisor live?"""
        try:
            fd = os.open(self.path / "lock", os.O_RDONLY | os.O_CLOEXEC)  # `watch_end` sees who closes it for writing
        except FileNotFoundError:
            return False
        try:
            found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, FLOCK.pack(fcntl.F_WRLCK, 0, 0, 0, 0))
        finally:
            os.close(fd)
        return bool(FLOCK.unpack(found)[0] != fcntl.F_UNLCK)

    def remove(self) -> None:
        """Remove the directory, not the images."""
        shutil.rmtree(self.path)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def create(record: Record) -> Job:
    """Return a directory for a new job; `record.id` is set anew: the number after the highest of jobs and images."""
    top = home()
    try:
        xdg.make(top)
        while True:
            taken = [int(name) for name in (*os.listdir(top), *store.Store().jobs()) if name.isdigit()]
            job = Job(top / str(max(taken, default=0) + 1))
            try:
                job.path.mkdir(mode=0o700)
            except FileExistsError:
                continue  # another rexec took the number
            try:
                _sync(top)  # the name of the new directory
                job.write(replace(record, id=job.id))
            except (OSError, JobError):
                job.remove()  # or it would be listed as a damaged job for ever
                raise
            return job
    except OSError as error:
        raise JobError(
            f"no job can be kept below {top}: {error.strerror}; set XDG_STATE_HOME to a place for it"
        ) from error


def find(word: str) -> Job:
    """Return the job of that id."""
    if not word.isdigit():
        raise JobError(f"{word!r:.80} is no job's id, which is a number: see `rexec jobs`")
    job = Job(home() / word)
    if not job.path.is_dir():
        raise JobError(f"there is no job {word}: see `rexec jobs`")
    return job


def every() -> Iterator[Job]:
    """Return all jobs, oldest first."""
    try:
        names = os.listdir(home())
    except FileNotFoundError:
        return
    for name in sorted((name for name in names if name.isdigit()), key=int):
        yield Job(home() / name)
