"""What an engine tells of a job's place. Pure."""

from __future__ import annotations

from typing import NamedTuple

WAITING, RUNNING, LOST, HELD, SUSPENDED, GONE = "waiting", "running", "lost", "held", "suspended", "gone"


class Told(NamedTuple):
    """What is said of a job: which of the batch, what it is now, where, and the status or the reason."""

    job: int
    state: str
    host: str = ""
    status: int | None = None
    why: str = ""
