"""Puts a job that can be checkpointed on record, or an ended one back to an image, for a supervisor to take it up.

Nothing runs yet: what these return is locked by this process, which then supervises it (shim/cli/checkpoint.py) or
has a process of its own do so (shim/submit/job/detached.py).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace

from checkpoint.submit.store import Store
from checkpoint.wire.manifest import Manifest
from remoteio.errors import RexecError
from remoteio.submit.export.changes import Changes
from remoteio.submit.undo.journal import LIMIT
from remoteio.wire import frames
from shim.submit.desk.place import check
from shim.submit.desk.wanted import FOR_SLOTS
from shim.submit.desk.wanted import Wanted as Slots
from shim.submit.hosts import config
from shim.submit.job import agent_file, file_rollback, pins, placement_steps, undo_home, undo_plan
from shim.submit.job import record as jobs
from shim.submit.job.output_file import OutputCount
from shim.submit.job.phase import ACTING, Phase
from shim.submit.job.record import ANY, SMALL, Job, JobError, Record
from shim.submit.scope import Scope
from shim.wire.job_spec import JobSpec
from shim.wire.lease import IMAGES
from shim.wire.owner_policy import named_policy, parse_duration, parse_size

KEEP = 2  # images
ROLLBACK = undo_home.ROLLBACK
_ALL = 1 << 60  # bytes: more than any disk has


class SubmitError(RexecError):
    """The job cannot be submitted, or gone on with, as asked: one sentence."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options of a job that can be checkpointed.

    hosts   names of hosts in order, or ("any",): all of hosts.toml; see host_names
    owner   the policy by which it leaves a host; empty: each host's own
    every   seconds between checkpoints, as State.every of shim/submit/job/placement_events.py has them
    keep    how many images are kept
    scope   what it has of the files here
    files   what becomes of its files when it goes on from an image: undo_home.ROLLBACK or KEEP
    undo    bytes of its undo journal from which on an image is made
    detach  its supervisor is a process of its own, and its output goes to files
    rehearse  which images are restored where they were made, as a test
    lease   seconds for which its host waits for home when the link is cut
    slots   what it takes of the desk while it is on a host; None: nothing, and it waits for none
    batch   of which job of which batch it is; empty: of none
    outputs  files to which its output and its standard error go, if not to its own directory
    """

    hosts: tuple[str, ...]
    owner: str
    every: float
    keep: int
    detach: bool
    scope: Scope = field(default_factory=Scope)
    files: str = undo_home.ROLLBACK
    undo: int = LIMIT
    rehearse: str = SMALL
    lease: int = IMAGES
    slots: Slots | None = None
    batch: str = ""
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resumed:
    """What a job goes on from.

    image        the image
    from_files   its output went to files of the job's: they, and not the image, say how much of it is there already
    goes_on      it had not ended, and this is its newest image: what was written of its output since, before its
                 supervisor was killed, is dropped when it says that again. Else the user goes back, and sees it again
    unsure       files of which the job's own changes cannot be told from others': they stay, and a copy is kept
    """

    image: Manifest
    from_files: bool
    goes_on: bool
    unsure: tuple[file_rollback.Named, ...]

    def written(self, kind: int, count: OutputCount) -> int:
        """Tell how many bytes of a stream were written, when it does not go on in a file: frames.STDOUT or STDERR."""
        said = self.image.streams.stdout if kind == frames.STDOUT else self.image.streams.stderr
        return said if count.written is None or not self.goes_on else max(said, count.written)

    @property
    def given(self) -> int:
        """How many bytes of standard input it had been given by then."""
        return self.image.streams.stdin + len(self.image.streams.stdin_unread)


def parse_every(text: str | None, key: str = "--every") -> float:
    """Return the seconds of "10m" or "never", as Wanted.every has them. Raises PolicyError, which names `key`."""
    if text is None:
        return 0.0
    return placement_steps.NEVER if text == "never" else parse_duration(text, key)


def parse_undo(text: str | int | None, key: str = "--undo-limit") -> int:
    """Return the bytes of "1G", as Wanted.undo has them. Raises PolicyError, which names `key`."""
    return LIMIT if text is None else min(parse_size(text, key), _ALL)


def host_names(on: str | None) -> tuple[str, ...]:
    """Return the hosts that --on means: HOST,HOST… or any. Raises HostsError for a name that is none."""
    known = config.load()
    if on is None:
        return (ANY,) if known.hosts else (config.LOCAL,)
    if on == ANY:
        return (ANY,)
    names = config.several(on) or (on,)
    return tuple(config.resolve(name, known).name for name in names)


def slots(on: str | None, asked: Slots | None) -> Slots | None:
    """Return what a job takes of the desk: with `any`, or where it is said for several hosts. Raises RexecError."""
    if host_names(on) == (ANY,):
        return asked or Slots()
    if asked is not None and not config.several(on):
        raise SubmitError(f"{FOR_SLOTS} are for slots: say --on any, or name several hosts")
    return asked


def create(spec: JobSpec, wanted: Wanted) -> Job:
    """Put a new job on record, and lock it. Raises RexecError."""
    if wanted.slots is not None:
        check(wanted.slots, config.load())
    if wanted.owner:
        named_policy(wanted.owner, dict(config.load().owners))
    record = Record(
        id=0,
        command=tuple(os.fsdecode(word) for word in spec.argv),
        cwd=os.fsdecode(spec.cwd),
        created=time.time(),
        hosts=wanted.hosts,
        owner=wanted.owner,
        every=wanted.every,
        keep=wanted.keep,
        detached=wanted.detach,
        tty=bool(spec.tty),
        spec=jobs.packed(spec),
        scope=wanted.scope.row(),
        files=wanted.files,
        undo_limit=wanted.undo,
        lease=wanted.lease,
        rehearse=wanted.rehearse,
        desk=None if wanted.slots is None else {**wanted.slots._asdict(), "group": str(os.getsid(0))},
        batch=wanted.batch,
    )
    job = jobs.create(record)
    try:
        for name, path in zip(("stdout", "stderr"), wanted.outputs, strict=False):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))
            os.symlink(path, job.path / name)
    except OSError as error:
        job.remove()
        raise SubmitError(f"its output cannot go to {path}: {error.strerror}; say another file") from error
    return locked(job)


def resume(
    job: Job, number: int | None, hosts: tuple[str, ...] | None, *, detach: bool | None, force: bool,
    take_up: bool = False,
) -> Resumed:  # fmt: skip
    """Put a job's record back to one of its images, by default the last, and lock it. Raises RexecError.

    `hosts`, `detach`: None: as before. `force`: go on though its files were changed since in a way that cannot be
    undone. `take_up`: it may go on where it runs, with its files as they are; if not, its supervisor looks at them.
    Raises CheckpointError where there is no such image, or it is damaged.
    """
    record = job.read()
    if job.supervised():
        raise SubmitError(
            f"job {job.id} has its supervisor: say `rexec vacate {job.id}` to move it, or `rexec attach {job.id}`"
        )
    store = Store()
    if number is None and not record.image and str(job.id) not in store.jobs():
        raise SubmitError(f"job {job.id} has no image to go on from: {record.without_image()}")
    with store.open(str(job.id), number) as opened:
        image = opened.manifest
    unsure, changed = _since(job, record, image)
    if changed and not (force or (take_up and agent_file.noted(job.path))) and record.files != undo_home.KEEP:
        raise SubmitError(
            f"{changed[0].clause} since image {image.number} was made: put it back, or say --force to go on all "
            "the same"
        )
    new = replace(
        record, image=image.number, status=None, code=0, reason="", held=False, why="", away=0.0,
        phase=record.phase if record.phase in ACTING else Phase.CHOOSING,
        hosts=record.hosts if hosts is None else hosts, detached=record.detached if detach is None else detach,
    )  # fmt: skip
    if new.tty and not new.detached and not os.isatty(0):
        raise SubmitError(f"job {job.id} has a terminal: run this in one, or say --detach")
    locked(job).write(new)
    goes_on = record.phase != Phase.ENDED and image.number >= record.image
    return Resumed(image, record.detached, goes_on, tuple(unsure))


def _since(job: Job, record: Record, image: Manifest) -> tuple[list[file_rollback.Named], list[file_rollback.Named]]:
    """The files of which both have changed something since the image, and those that it cannot go on with."""
    try:
        plan = None if record.files == undo_home.KEEP else undo_plan.plan(undo_home.journal_of(job.path), image.number)
    except OSError as error:
        raise SubmitError(f"the undo journal of job {job.id} cannot be read: {error.strerror}") from error
    if plan is None:
        changes = Changes.of(record.after, image.number).since(image.number)
        found = file_rollback.look(image, changes, pins.covered(job.path, image.number))
        return found.both, found.changed
    return [file_rollback.mixed(path, 0) for path in plan.both()], undo_home.look(job.path, image, plan).changed


def locked(job: Job) -> Job:
    """Lock it, for this process or the one that it starts to be its supervisor. Raises JobError."""
    if not job.lock():
        raise JobError(f"job {job.id} has got another supervisor just now: see `rexec jobs`")
    return job
