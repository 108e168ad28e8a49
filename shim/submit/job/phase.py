"""Where a job stands, in a word of its record. Pure: and read by who only looks."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """The comment says what may be running."""

    CHOOSING = "choosing"  # nothing, but State.source; a host is being looked for
    STARTING = "starting"  # nothing, but State.source, or a fresh job
    RUNNING = "running"
    FROZEN = "frozen"  # the job stands still for its host's owner
    LEFT = "left"  # nothing; the last words of the old host are awaited
    LOST = "lost"  # perhaps the old generation, until its lease is over
    PARKED = "parked"  # nothing
    ENDED = "ended"


ACTING = (Phase.STARTING, Phase.RUNNING, Phase.FROZEN, Phase.LOST)  # in which a generation may be acting
