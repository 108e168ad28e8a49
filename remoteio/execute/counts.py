"""Counts how often a job's kernel asked for its files, who answered, and how long that took. Pure. Shipped.

The agent tells it with the job's end, in rows of decimal numbers that shim/submit/spent.py reads:

    operation (linux/fuse.h) | answered by home | answered on the host | microseconds waited for home

The waits are summed over all requests: two threads that wait at once wait twice as long, as two that compute take twice
the processor time.
"""

from __future__ import annotations


class Counts:
    """Counts, by operation. Threads: one at a time (``relay.Relay._order``)."""

    __slots__ = ("_here", "_home")

    def __init__(self) -> None:
        self._home: dict[int, tuple[int, float]] = {}  # operation -> how many, and seconds
        self._here: dict[int, int] = {}

    def home(self, op: int, seconds: float) -> None:
        """Count a request that home has answered after so long."""
        count, waited = self._home.get(op, (0, 0.0))
        self._home[op] = count + 1, waited + seconds

    def here(self, op: int) -> None:
        """Count a request that was answered on the host."""
        self._here[op] = self._here.get(op, 0) + 1

    def rows(self) -> list[bytes]:
        """Return what was counted, a row for each operation."""
        rows = []
        for op in sorted({*self._home, *self._here}):
            count, waited = self._home.get(op, (0, 0.0))
            rows.append(b"%d %d %d %d" % (op, count, self._here.get(op, 0), waited * 1e6))
        return rows
