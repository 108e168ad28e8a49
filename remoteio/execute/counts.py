"""Counts how often a job's kernel asked for its files, who answered, and how long that took. Pure. Shipped.

The agent tells it with the job's end, in rows of decimal numbers that shim/submit/spent.py reads:

    operation (linux/fuse.h) | answered by home | answered on the host | microseconds waited for home

The waits are summed over all requests: two threads that wait at once wait twice as long, as two that compute take twice
the processor time.
"""

from __future__ import annotations

from collections import defaultdict


class Counts:
    """Counts, by operation. Whoever counts adds to these by itself: a call each time costs what it is to measure.

    home    answered by home
    waited  seconds waited for that
    here    answered on the host

    Threads: one at a time (``relay.Relay._order``).
    """

    __slots__ = ("here", "home", "waited")

    def __init__(self) -> None:
        self.home: defaultdict[int, int] = defaultdict(int)
        self.waited: defaultdict[int, float] = defaultdict(float)
        self.here: defaultdict[int, int] = defaultdict(int)

    def rows(self) -> list[bytes]:
        """Return what was counted, a row for each operation."""
        ops = sorted({*self.home, *self.here})
        return [b"%d %d %d %d" % (op, self.home[op], self.here[op], self.waited[op] * 1e6) for op in ops]
