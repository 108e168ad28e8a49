"""End a job that has no supervisor: on record at once, and what of it may run on a host if that is reached."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from functools import partial

from remoteio.errors import RexecError
from shim.submit.hosts import config, ending
from shim.submit.hosts.connect import connect
from shim.submit.hosts.dialler import Agent
from shim.submit.job import agent_file, placement_steps, submission
from shim.submit.job.agent_file import Noted
from shim.submit.job.contact import Reach
from shim.submit.job.events import Event, EventLog, Kind
from shim.submit.job.phase import Phase
from shim.submit.job.record import Job

_PATIENCE = 15.0  # seconds that its hosts are dialled for, all at once


def end(job: Job, reach: Reach = connect) -> str:
    """Have it ended as by SIGKILL; what has come of it, as a sentence. Raises RexecError."""
    submission.locked(job)
    try:
        left = agent_file.noted(job.path)
        record = job.read()
        job.write(
            replace(
                record, phase=Phase.ENDED, status=placement_steps.KILLED, why="", held=False, since=0.0, away=0.0,
            )
        )  # fmt: skip
        log = EventLog(job.log)
        try:
            log.append(Event(time.time(), Kind.END, host=record.host, signal=placement_steps.KILLED))
        finally:
            log.close()
        missed = _end_there(job, record.lease, left, reach)
    finally:
        job.unlock()
    if not missed:
        return "the job is gone"
    return f"the job has ended here; {' and '.join(missed)}: its lease stops it there, and 3 days more end it"


def _end_there(job: Job, lease: int, left: list[Noted], reach: Reach) -> list[str]:
    """End the agents that were noted; a clause for each that was not reached."""
    over, missed = threading.Event(), {each.generation: f"{each.host} does not answer" for each in left}

    def one(each: Noted) -> None:
        try:
            host = config.resolve(each.host, config.load())
            if ending.end(host, Agent(each.secret, lease, each.where), reach, over):
                agent_file.forget(job.path, each.generation)
                del missed[each.generation]
        except (OSError, RexecError) as error:
            missed[each.generation] = f"{each.host} cannot be asked ({error})"

    threads = [threading.Thread(target=partial(one, each), daemon=True) for each in left]
    for thread in threads:
        thread.start()
    until = time.monotonic() + _PATIENCE
    for thread in threads:
        thread.join(max(until - time.monotonic(), 0.0))
    over.set()
    return list(missed.values())
