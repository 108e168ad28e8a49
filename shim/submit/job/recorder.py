"""A job's record and log on the disk, kept abreast by its supervisor. A disk that is full ends nothing that runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from remoteio.errors import RexecError
from shim.submit.job.events import Event, EventLog
from shim.submit.job.record import Job, Record

AGAIN = 5.0  # seconds between tries to write what the disk did not take


class Records:
    """Writes what it is given; what cannot be written waits, in order, until `retry` can. For one thread."""

    def __init__(self, job: Job, say: Callable[[str], None]) -> None:
        """`say` is told when the disk begins to take nothing. Raises EventLogError if there can be no log."""
        self._job, self._say = job, say
        self._log = EventLog(job.log)
        self._record: Record | None = None  # not on the disk yet
        self._events: deque[Event] = deque()
        self._why = ""

    @property
    def recorded(self) -> bool:
        """Whether the record on the disk is the one that was last given."""
        return self._record is None

    @property
    def behind(self) -> str:
        """Why something waits to be written, as a sentence; empty: nothing does."""
        return self._why

    def write(self, record: Record) -> None:
        """Replace the record, durably if that can be."""
        self._record = record
        self.retry()

    def append(self, event: Event) -> None:
        """Add an event to the log."""
        self._events.append(event)
        self.retry()

    def retry(self) -> None:
        """Write what waits."""
        try:
            if self._record is not None:
                self._job.write(self._record)
                self._record = None
            while self._events:
                self._log.append(self._events[0])
                self._events.popleft()
        except RexecError as error:
            if not self._why:
                self._say(f"{error}; job {self._job.id} goes on, and this is tried again every {AGAIN:.0f} s")
            self._why = str(error)
        else:
            self._why = ""

    def close(self) -> None:
        self._log.close()
