"""Which images a host may make of the job that it runs: those that were ordered, and the one that it leaves by."""

from __future__ import annotations

from shim.submit.shapes import ShapeError
from shim.wire import job_messages


class DumpsDue:
    """Keeps the serial numbers of dumps that have not begun.

    Threads: the supervisor's orders, the session's leader takes what was ordered; each is one step of a list.
    """

    def __init__(self) -> None:
        self._serials: list[int] = []

    def order(self, serial: int) -> None:
        """Let a dump of that number begin, once."""
        self._serials.append(serial)

    def leaves(self, what: str, serial: int, left: bool) -> bool:
        """Check LEAVING or DUMPING, and return whether it is the first. `left`: it has left. Raises ShapeError."""
        leaving = what == job_messages.LEAVING
        if left if leaving else serial not in self._serials:
            raise ShapeError("it makes an image that nobody has ordered")
        (self._serials.append if leaving else self._serials.remove)(serial)
        return leaving
