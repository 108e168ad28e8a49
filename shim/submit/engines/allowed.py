"""How long a job may have its place, as Slurm writes times (sbatch(1), --time). Pure."""

from __future__ import annotations

import re

from remoteio.errors import RexecError

# minutes, minutes:seconds, hours:minutes:seconds; days-hours, days-hours:minutes, days-hours:minutes:seconds
_TIME = re.compile(r"(?:(\d{1,6})-(\d{1,6})(?::(\d{1,6})(?::(\d{1,6}))?)?)|(?:(\d{1,6}):)??(\d{1,6})(?::(\d{1,6}))?")


def seconds(time: str) -> int:
    """Return how many seconds `time` is. Raises RexecError where it is none, or nothing."""
    found = _TIME.fullmatch(time)
    if found is not None:
        days, dayhours, dayminutes, dayseconds, hours, minutes, rest = (int(each or 0) for each in found.groups())
        whole = ((days * 24 + dayhours + hours) * 60 + dayminutes + minutes) * 60 + dayseconds + rest
        if whole:
            return whole
    raise RexecError(f"--time {time!r:.40} is no time as Slurm has it: say minutes, or 1-00:00:00")
