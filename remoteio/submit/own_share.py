"""How many descriptors one run may have here: its part of what this process may, which many runs may share."""

from __future__ import annotations

import resource
import sys

_shared_by = [1]


def shared_by(runs: int) -> None:
    """Have this process's descriptors be for so many runs at a time."""
    _shared_by[0] = runs


def descriptors() -> int:
    """Return how many one run may have."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (sys.maxsize if limit == resource.RLIM_INFINITY else limit) // _shared_by[0]
