"""Starts a process that supervises a job in the background (shim/submit/job/detached_main.py).

It is a fresh interpreter, and no fork of the process that submits: that may be any program with threads, whose locks a
fork would find taken for ever. It is given the descriptor that holds the job's lock, so that at no time the job is
without its supervisor; and it says by a byte that it can be talked to. What it has to say before that is read from the
end of the job's file `errors`, which is its standard output and standard error.

Threads: may be called from any.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import NamedTuple

from shim.submit import own_code
from shim.submit.job.record import Job
from shim.submit.job.submission import Resumed, SubmitError

_MAIN = "shim.submit.job.detached_main"


class Orders(NamedTuple):
    """What the new process is told.

    job         the id
    lock        the descriptor that holds its lock
    ready       the descriptor on which it says that the job can be talked to
    input       its standard input is the job's
    force       go on though files were changed since the image
    image       the image to go on from; 0: a new job
    from_files, goes_on    of an image: see Resumed
    take_up     go on where the job runs, if that can be
    """

    job: int
    lock: int
    ready: int
    input: bool
    force: bool
    image: int
    from_files: bool
    goes_on: bool
    take_up: bool


def start(
    job: Job, *, stdin: int | None = None, resumed: Resumed | None = None, force: bool = False, take_up: bool = False
) -> None:
    """Start the supervisor of a job that this process has locked, and return when it can be talked to.

    The lock is the new process's from then on. `stdin`: a descriptor to read the job's standard input from; None: it
    has none. Raises SubmitError where the supervisor cannot start.
    """
    ready, theirs = os.pipe2(os.O_CLOEXEC)
    with open(ready, "rb", buffering=0) as answer:
        try:
            _spawn(job, stdin, theirs, resumed, force, take_up)
        except OSError as error:
            raise SubmitError(f"the supervisor of job {job.id} could not start: {error.strerror}") from error
        finally:
            os.close(theirs)
            job.unlock()
        if not answer.read(1):
            words = (job.path / "errors").read_text(errors="replace").strip().splitlines()
            raise SubmitError(
                f"the supervisor of job {job.id} could not start: {words[-1] if words else 'it said nothing'}"
            )


def _spawn(job: Job, stdin: int | None, ready: int, resumed: Resumed | None, force: bool, take_up: bool) -> None:
    image, how = (
        (0, (True, False)) if resumed is None else (resumed.image.number, (resumed.from_files, resumed.goes_on))
    )
    orders = Orders(job.id, job.lock_fd, ready, stdin is not None, force, image, *how, take_up)
    with open(job.path / "errors", "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as errors:
        subprocess.run(
            [*own_code.command(_MAIN), json.dumps(orders)],
            stdin=subprocess.DEVNULL if stdin is None else stdin, stdout=errors, stderr=errors,
            pass_fds=(job.lock_fd, ready), start_new_session=True, check=False,
        )  # fmt: skip
