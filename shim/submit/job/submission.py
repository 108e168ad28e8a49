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
from remoteio.wire import frames
from shim.submit.hosts import config
from shim.submit.job import file_rollback, placement_events, placement_steps
from shim.submit.job import record as jobs
from shim.submit.job.record import ANY, Job, JobError, Record
from shim.submit.scope import Scope
from shim.wire.job_spec import JobSpec
from shim.wire.owner_policy import named_policy, parse_duration

KEEP = 2  # images


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
    detach  its supervisor is a process of its own, and its output goes to files
    """

    hosts: tuple[str, ...]
    owner: str
    every: float
    keep: int
    detach: bool
    scope: Scope = field(default_factory=Scope)


@dataclass(frozen=True, slots=True)
class Resumed:
    """What a job goes on from.

    image        the image
    from_files   its output went to files all the time: they, and not the image, say how much of it is there already
    unsure       files of which the job's own changes cannot be told from others': they stay, and a copy is kept
    """

    image: Manifest
    from_files: bool
    unsure: tuple[file_rollback.Named, ...]

    def said(self, kind: int) -> int:
        """Tell how many bytes of a stream the job had written by then: frames.STDOUT or STDERR."""
        return self.image.streams.stdout if kind == frames.STDOUT else self.image.streams.stderr

    @property
    def given(self) -> int:
        """How many bytes of standard input it had been given by then."""
        return self.image.streams.stdin + len(self.image.streams.stdin_unread)


def parse_every(text: str | None, key: str = "--every") -> float:
    """Return the seconds of "10m" or "never", as Wanted.every has them. Raises PolicyError, which names `key`."""
    if text is None:
        return 0.0
    return placement_steps.NEVER if text == "never" else parse_duration(text, key)


def host_names(on: str | None) -> tuple[str, ...]:
    """Return the hosts that --on means: HOST,HOST… or any. Raises HostsError for a name that is none."""
    known = config.load()
    if on is None:
        return (ANY,) if known.hosts else (config.LOCAL,)
    if on == ANY:
        return (ANY,)
    return tuple(config.resolve(name.strip(), known).name for name in on.split(","))


def create(spec: JobSpec, wanted: Wanted) -> Job:
    """Put a new job on record, and lock it. Raises RexecError."""
    if wanted.owner:
        named_policy(wanted.owner, dict(config.load().owners))
    return _locked(
        jobs.create(
            Record(
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
            )
        )
    )


def resume(job: Job, number: int | None, hosts: tuple[str, ...] | None, *, detach: bool | None, force: bool) -> Resumed:
    """Put a job's record back to one of its images, by default the last, and lock it. Raises RexecError.

    `hosts`, `detach`: None: as before. `force`: go on though its files were changed since in a way that cannot be
    undone. Raises CheckpointError where there is no such image, or it is damaged.
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
    found = file_rollback.look(image, Changes.of(record.after, image.number).since(image.number))
    if found.changed and not force:
        raise SubmitError(
            f"{found.changed[0].clause} since image {image.number} was made: put it back, or say --force to go on all "
            "the same"
        )
    new = replace(
        record, image=image.number, status=None, code=0, reason="", held=False, why="", since=0.0,
        phase=record.phase if record.phase in placement_events.ACTING else placement_events.Phase.CHOOSING,
        hosts=record.hosts if hosts is None else hosts, detached=record.detached if detach is None else detach,
    )  # fmt: skip
    if new.tty and not new.detached and not os.isatty(0):
        raise SubmitError(f"job {job.id} has a terminal: run this in one, or say --detach")
    _locked(job).write(new)
    return Resumed(image, record.detached, tuple(found.both))


def _locked(job: Job) -> Job:
    if not job.lock():
        raise JobError(f"job {job.id} has got another supervisor just now: see `rexec jobs`")
    return job
