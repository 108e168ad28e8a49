"""What is asked of a batch from outside its supervisor: written into its journal, which the supervisor reads."""

from __future__ import annotations

import time

from remoteio.errors import RexecError
from remoteio.inotify import IN_MODIFY, Inotify
from shim.submit.batch import process
from shim.submit.batch.record import Directory
from shim.wire.wakeup import await_any

_PATIENCE = 90.0  # seconds: an engine that is busy has its time (condor.py)

_LOOK = 0.5  # seconds from one look to the next where the kernel has no room left for inotify


def ask(directory: Directory, verb: str, job: int | None, **more: int) -> None:
    """Have `verb` done to a job, or to all of them; a supervisor that is gone is started for it. Raises RexecError.

    `more`: what else belongs to the row that asks.
    """
    if directory.story().over():
        raise RexecError(f"all jobs of batch {directory.name} have ended")
    inotify = _watch(str(directory.path / "journal"))
    try:
        end = directory.add({"ask": verb, "job": job, **more})
        process.start(directory)
        until = time.monotonic() + _PATIENCE
        while (story := directory.story()).obeyed < end:
            left = until - time.monotonic()
            if left <= 0:
                raise RexecError(
                    f"the supervisor of batch {directory.name} has not done so yet; it will: see `rexec log "
                    f"{directory.name}`"
                )
            if inotify is None:
                time.sleep(min(left, _LOOK))
            else:
                await_any([inotify.fileno()], left)
                inotify.read()
    finally:
        if inotify is not None:
            inotify.close()
    if story.why:
        raise RexecError(f"{directory.name}{'' if job is None else f'.{job}'}: {story.why}")


def _watch(journal: str) -> Inotify | None:
    try:
        inotify = Inotify()
        inotify.add(journal, IN_MODIFY)
    except OSError:
        return None
    return inotify
