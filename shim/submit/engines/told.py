"""What an engine tells of a job's place. Pure."""

from __future__ import annotations

from typing import NamedTuple

WAITING, RUNNING, LOST, HELD, SUSPENDED, GONE = "waiting", "running", "lost", "held", "suspended", "gone"
DONE = "done"  # without a place: it was done before
LEAVES = "leaves"  # its engine takes its place back, and waits until it is given back


class Told(NamedTuple):
    """What is said of a job: which of the batch, what it is now, where, and the status or the reason.

    cluster   what the engine calls it, where that changes when it is run again though it had ended
    seen   nothing of it is left in its place: who ran it there has seen its end
    apart   its place is not on the host, where the job runs on though that is lost
    """

    job: int
    state: str
    host: str = ""
    status: int | None = None
    why: str = ""
    cluster: str = ""
    seen: bool = False
    apart: bool = False
