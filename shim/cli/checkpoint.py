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
        return _detach(job, quiet=quiet, stdin=0 if mine else None)
    return _supervise(job, quiet=quiet)


def restart(job: Job, number: int | None, on: str | None, *, detach: bool | None, force: bool, quiet: bool) -> int:
    """Go on from an image, in the foreground or detached. Raises RexecError, CheckpointError."""
    hosts = None if on is None else submission.host_names(on)
    resumed = submission.resume(job, number, hosts, detach=detach, force=force)
    if not job.read().detached:
        return _supervise(job, quiet=quiet, resumed=resumed, force=force)
    if not quiet:
        for named in resumed.unsure:  # the supervisor, which does it, has nobody to tell
            since = f"since image {resumed.image.number} was made"
            tell(f"{named.clause} {since}: see `rexec log {job.id}` for what is kept")
    return _detach(job, quiet=quiet, resumed=resumed, force=force)


def _supervise(job: Job, *, quiet: bool, resumed: Resumed | None = None, force: bool = False) -> int:
    from shim.cli.supervise import (
        supervise,
    )  # only here: a detached job is supervised elsewhere, and that takes 0.1 s to import

    return supervise(job, quiet=quiet, resumed=resumed, force=force)


def _detach(
    job: Job, *, quiet: bool, stdin: int | None = None, resumed: Resumed | None = None, force: bool = False
) -> int:
    """Start the supervisor as a process of its own and say the job's id."""
    detached.start(job, stdin=stdin, resumed=resumed, force=force)
    print(job.id, flush=True)
    warning = killed_at_logout(os.environ.get("USER", ""))
    if warning and not quiet:
        tell(warning)
    return 0
