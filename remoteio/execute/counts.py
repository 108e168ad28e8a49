"""Counts how often a job's kernel asked for its files, who answered, and how long that took. Pure. Shipped.

The agent tells it with the job's end and when it is asked, in rows of decimal numbers that shim/submit/spent.py reads:

    operation (linux/fuse.h) | answered by home | answered on the host | microseconds waited for home | bytes

The waits are summed over all requests: two threads that wait at once wait twice as long, as two that compute take twice
the processor time. The bytes are those of requests, replies and what came along, to and fro. What was asked for, or
told, ahead of the job stands in the rows of LIST, FETCH and UNASKED.
"""

from __future__ import annotations

from collections import defaultdict


class Guesses:
    """Counts what came ahead of the job, and how much of that it has used."""

    __slots__ = ("came", "right")

    def __init__(self) -> None:
        self.came = self.right = 0


class Counts:
    """Counts, by operation. Whoever counts adds to these by itself: a call each time costs what it is to measure.

    home     answered by home
    waited   seconds waited for that
    here     answered on the host
    carried  bytes, both ways

    Threads: one at a time (``relay.Relay._order``).
    """

    __slots__ = ("carried", "here", "home", "waited")

    def __init__(self) -> None:
        self.home: defaultdict[int, int] = defaultdict(int)
        self.waited: defaultdict[int, float] = defaultdict(float)
        self.here: defaultdict[int, int] = defaultdict(int)
        self.carried: defaultdict[int, int] = defaultdict(int)

    def clear(self) -> None:
        """Begin anew."""
        for each in (self.home, self.waited, self.here, self.carried):
            each.clear()

    def rows(self) -> list[bytes]:
        """Return what was counted, a row for each operation."""
        home, here, waited, carried = self.home, self.here, self.waited, self.carried
        ops = sorted({*home, *here, *carried})
        return [b"%d %d %d %d %d" % (op, home[op], here[op], waited[op] * 1e6, carried[op]) for op in ops]
