"""The jobs that can be checkpointed, each in a directory of its own on the submit machine.

`$XDG_STATE_HOME/rexec/jobs/ID/` (mode 0700), ID a whole number; `jobs/last` has the newest that was ever given, and
`jobs/ended` what was read of those that have ended (shim/submit/api/job_list.py):

    job.json       Record: what was asked for and where it stands; replaced atomically
    events.jsonl   its log (shim/submit/job/events.py)
    control        unix socket of its supervisor (shim/submit/job/control_socket.py)
    lock           locked by its supervisor as long as it lives (F_OFD_SETLK, fcntl(2): to ask disturbs nobody)
    agent-N        where the agent of generation N is, while there may be one (shim/submit/job/agent_file.py)
    nodes-N        which files that generation uses (remoteio/submit/export/node_log.py)
    nodes-N-asked  which changes of them are begun and done (remoteio/submit/export/doings.py)
    stdout stderr terminal    what a detached job said
    stdout.count stderr.count    how much of its output was written, there or elsewhere (shim/submit/job/output_file.py)
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

from checkpoint.durable import sync_directory
from checkpoint.submit import xdg
from remoteio.errors import ProtocolError, RexecError
from remoteio.kernel_structs import FLOCK
from remoteio.submit.export.added import MOST_ROWS
from remoteio.submit.export.confine import MOST_MADE
from remoteio.submit.undo.journal import LIMIT
from shim.submit import scope
from shim.submit.job.phase import Phase
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
from shim.wire.lease import IMAGES

ANY = "any"
REHEARSE = NEVER, SMALL, ALWAYS = "never", "small", "always"


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
    ran         seconds that it has run, up to `since`; `since`: since when it has been running, by the clock
                that nobody sets (time.monotonic), 0: it is not
    moves       how often it went on from an image
    restored    number of the newest image that a host has restored; 0: none was
    rehearse    which images are restored on the host where they were made, as a test: NEVER, SMALL or ALWAYS
    movable     its newest image, or one with the same kinds of resources, was restored
    obstacle    why such an image cannot be restored; empty: that is not known
    saved       when its last image was committed, seconds since 1970, and that image's size in bytes
    scope       what it has of the files here: Scope.row
    made        the directories that it has made: st_dev, st_ino and when each
    added       what it has added to the files here (Added.rows)
    files       what becomes of its files when it goes on from an image: "rollback", or "keep": they stay
    undo_limit  bytes of its undo journal from which on an image is made
    lease       seconds for which its host waits for home when the link is cut
    away        since when its host is out of touch, seconds since 1970; 0: it is not
    after       what the job did to its files since that image, once nothing of it runs (Changes.rows)
    desk        what it wants of the desk (Wanted of shim/submit/desk/wanted.py), and `group`, with which it shares its
                turns (Member); None: it takes no slots
    batch       of which job of which batch it is ("b7.3"), whose supervisor looks after it; empty: of none
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
    restored: int = 0
    rehearse: str = NEVER
    movable: bool = False
    obstacle: str = ""
    saved: float = 0.0
    saved_size: int = 0
    scope: Mapping[str, object] = field(default_factory=dict)
    made: tuple[Any, ...] = ()
    added: tuple[Any, ...] = ()
    files: str = "rollback"
    undo_limit: int = LIMIT
    lease: int = IMAGES
    away: float = 0.0
    after: tuple[Any, ...] = ()
    desk: Mapping[str, Any] | None = None
    batch: str = ""
    status: int | None = None
    code: int = 0
    reason: str = ""

    @property
    def one_host(self) -> bool:
        """Whether there is no other host for it than the one where it is."""
        return self.hosts != (ANY,) and len(set(self.hosts)) == 1

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


_TUPLES = ("command", "hosts", "after", "made", "added")
_WORDS, _SECONDS = listed(string, 1 << 21), number(-1e12, 1e12)
_STATE = (whole(), whole(-NATURAL), whole(-NATURAL))
_CHANGE = tuple_of(whole(), whole(), whole(), whole(), *_STATE, flag, flag, flag)
_OLD_AFTER = tuple_of(string, whole(), whole(-NATURAL), whole())  # of an older rexec: Changes.of makes nothing of it
_OLD_CHANGE = tuple_of(whole(), whole(), whole(), whole(), *_STATE, flag, flag)  # nor of this
_AFTER = listed(any_of(whole(), _OLD_AFTER, _OLD_CHANGE, _CHANGE), 1 << 24)
_MADE = listed(tuple_of(whole(), whole(), whole(-NATURAL)), MOST_MADE)
_NUMBER = whole(-NATURAL)
_ADDED = listed(any_of(_NUMBER, tuple_of(whole(), whole(), *[_NUMBER] * 8)), MOST_ROWS + 1)
_DESK = table(
    {"cpus": whole(1), "memory": whole(), "priority": _NUMBER, "require": string, "rank": string, "group": string}
)
_RECORD = table(
    {
        "id": whole(), "command": _WORDS, "cwd": string, "created": _SECONDS, "hosts": _WORDS, "owner": string,
        "every": _SECONDS, "keep": whole(1), "detached": flag, "tty": flag, "spec": string,
    },
    {
        "phase": one_of(*Phase), "why": string, "host": string, "generation": whole(), "image": whole(), "held": flag,
        "ran": _SECONDS, "since": _SECONDS, "moves": whole(), "restored": whole(),
        "rehearse": one_of(*REHEARSE), "movable": flag, "obstacle": string,
        "saved": _SECONDS, "saved_size": whole(),
        "scope": scope.SHAPE, "made": _MADE, "added": _ADDED, "after": _AFTER,
        "files": one_of("rollback", "keep"), "undo_limit": whole(), "lease": whole(), "away": _SECONDS,
        "desk": maybe(_DESK), "batch": string,
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
        return self.read_file()[0]

    def read_file(self) -> tuple[Record, os.stat_result]:
        """Return the record as last written, and what its file is: another record is another file."""
        try:
            with open(f"{self.path}/job.json", "rb", buffering=0) as file:  # there may be ten thousand: no Path of each
                values = _RECORD(decoded(file.read(), "it"), "it")
                found = os.fstat(file.fileno())
            record = Record(**{**values, **{name: tuple(values[name]) for name in _TUPLES if name in values}})
            return record, found
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
            sync_directory(self.path)
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
            fd = os.open(f"{self.path}/lock", os.O_RDONLY | os.O_CLOEXEC)  # `watch_end` sees who closes it for writing
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


def create(record: Record) -> Job:
    """Return a directory for a new job; `record.id` is set anew, to a number that no job here has ever had."""
    top = home()
    try:
        xdg.make(top)
        while True:
            job = Job(top / str(_next(top)))
            try:
                job.path.mkdir(mode=0o700)
            except FileExistsError:
                continue  # an older rexec, which keeps no count, took the number
            try:
                sync_directory(top)  # the name of the new directory
                job.write(replace(record, id=job.id))
            except (OSError, JobError):
                job.remove()  # or it would be listed as a damaged job for ever
                raise
            return job
    except OSError as error:
        raise JobError(
            f"no job can be kept below {top}: {error.strerror}; set XDG_STATE_HOME to a place for it"
        ) from error


_COUNT = 20  # digits, more than any number here has: written in one piece over the last one


def _next(top: Path) -> int:
    """Count one further than ever before, durably. Raises OSError, JobError.

    What is there does not tell: of the newest job, directory and images may have been removed, and its number stands
    in logs and scripts.
    """
    from checkpoint.submit.store import Store  # who only looks at jobs has no need of it

    with open(os.open(top / "last", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", buffering=0) as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLKW, FLOCK.pack(fcntl.F_WRLCK, 0, 0, 0, 0))
        text = file.read(_COUNT + 1).strip()
        if not (text.isdigit() or not text):
            raise JobError(f"{top}/last, the number of the newest job, is damaged: remove it")
        taken = [int(name) for name in (*os.listdir(top), *Store().jobs()) if name.isdigit()]
        number = max(*taken, int(text or 0), 0) + 1
        os.pwrite(file.fileno(), b"%0*d\n" % (_COUNT, number), 0)
        os.fsync(file.fileno())
        return number


def find(word: str) -> Job:
    """Return the job of that id."""
    if not word.isdigit():
        raise JobError(f"{word!r:.80} is no job's id, which is a number: see `rexec jobs`")
    job = Job(home() / word)
    if not job.path.is_dir():
        raise JobError(f"there is no job {word}: see `rexec jobs`")
    return job


def names() -> list[str]:
    """Return what the directories of all jobs are called, the oldest first."""
    try:
        found = os.listdir(home())
    except FileNotFoundError:
        return []
    return sorted((name for name in found if name.isdigit()), key=int)


def every() -> Iterator[Job]:
    """Return all jobs, oldest first."""
    top = home()
    for name in names():
        yield Job(top / name)
