"""The named points of a dump and of a restore at which tests kill a process. Shipped.

In their order: freeze; preflight, room, criu, post-dump, sending, held, committed, left; arrived, post-restore, runs,
restored.
Always called as ``fault_points.reached``, so that a test can put a function of its own in its place.
"""

from __future__ import annotations


def reached(point: str) -> None:
    """Do nothing; tests put something else here, to kill a process at just that point."""
