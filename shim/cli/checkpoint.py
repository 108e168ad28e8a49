"""``rexec --checkpoint CMD`` and ``rexec restart``: from the command line to the end of the job, or to its start."""

from __future__ import annotations

import os

from shim.cli.say import tell
from shim.submit.job import detached, submission
from shim.submit.job.logout import killed_at_logout
from shim.submit.job.record import Job
from shim.submit.job.submission import Resumed, Wanted
from shim.wire.job_spec import JobSpec


def submit(spec: JobSpec, wanted: Wanted, *, quiet: bool) -> int:
    """Run the job; returns the exit status, or ends by the job's own signal. Raises RexecError."""
    job = submission.create(spec, wanted)
    if wanted.detach:
        mine = 0 in spec.stdio and not spec.tty and not os.isatty(0)
        detached.start(job, stdin=0 if mine else None)
        return _in_background(job, quiet=quiet)
    return _supervise(job, quiet=quiet)


def restart(job: Job, number: int | None, on: str | None, *, detach: bool | None, force: bool, quiet: bool) -> int:
    """Go on from an image, in the foreground or detached. Raises RexecError, CheckpointError."""
    from shim.submit.api import job_handle  # only here: who submits a job in the background needs none of it

    if job.read().detached if detach is None else detach:
        kept = job_handle.Job(job).restart(number, hosts=on, force=force)
        for sentence in () if quiet else kept:  # the supervisor, which does it, has nobody to tell
            tell(sentence)
        return _in_background(job, quiet=quiet)
    hosts = None if on is None else submission.host_names(on)
    resumed = submission.resume(job, number, hosts, detach=False, force=force)
    return _supervise(job, quiet=quiet, resumed=resumed, force=force)


def _supervise(job: Job, *, quiet: bool, resumed: Resumed | None = None, force: bool = False) -> int:
    # Only here: a detached job is supervised elsewhere, and that takes 0.1 s to import.
    from shim.cli.supervise import supervise

    return supervise(job, quiet=quiet, resumed=resumed, force=force)


def _in_background(job: Job, *, quiet: bool) -> int:
    """Say the id of a job whose supervisor is a process of its own, and what may end that."""
    print(job.id, flush=True)
    warning = killed_at_logout(os.environ.get("USER", ""))
    if warning and not quiet:
        tell(warning)
    return 0
