"""A connection to a host with an agent at its far end that waits for a job, and what makes one aside."""

from __future__ import annotations

import os
import queue
import select
import threading
import time

from remoteio.errors import RexecError
from remoteio.submit.transport.ssh import ProcessStream
from remoteio.submit.transport.stream import Stream
from shim.submit.hosts import trips
from shim.submit.hosts.bootstrap import Facts
from shim.submit.hosts.config import Host
from shim.submit.hosts.connect import connect
from shim.wire import kept as words

_AGENT = "shim.execute.spare:main"
_DEADLINE = 60.0
_HEARS = 10.0  # seconds that a busy host may take to hear that all is over
_TRIPS = 3  # of which the quickest tells how far the host is: a busy machine takes its time


class Spare:
    """A connection with an agent at its far end that waits."""

    def __init__(self, stream: ProcessStream, facts: Facts, trip: int) -> None:
        self.stream, self.python, self.trip = stream, ".".join(map(str, facts.python)), trip
        self._asked, self._heard = 0.0, time.monotonic()  # 0: it owes no answer

    def hang_up(self) -> None:
        """Let what was said last get there: that a run was killed, or else its job goes on for as long as its lease."""
        self.stream.wait(_HEARS)
        self.stream.close()

    @property
    def owes(self) -> bool:
        """Whether an answer is under way."""
        return self._asked > 0

    @property
    def due(self) -> float:
        """When it is to be looked after again."""
        return self._asked + words.ANSWERS if self._asked else self._heard + words.ASKS

    def lives(self, readable: bool) -> bool:
        """Ask it, or hear what it says. False: it is gone."""
        now = time.monotonic()
        try:
            if readable:
                answered = os.read(self.stream.read_fd, 1) == words.YES
                self._asked, self._heard = 0.0, now
                return answered
            if now < self.due:
                return True
            if self._asked:
                return False
            os.write(self.stream.write_fd, words.ALIVE)
        except OSError:
            return False
        self._asked = now
        return True


class Dials:
    """Makes one at a time, in a thread that lives as long as this process: an ssh ends with the one that has started it
    (remoteio/submit/transport/job_control.py).

    at_work  one has been begun, and was not taken
    """

    def __init__(self, host: Host) -> None:
        self._host, self.at_work, self._trip = host, False, 0
        self._begun, self._made = queue.SimpleQueue[None](), queue.SimpleQueue["Spare | None"]()
        self._told, self._tell = os.pipe()
        self._thread: threading.Thread | None = None

    def fileno(self) -> int:
        """What can be read once it is there, or has failed."""
        return self._told

    def begin(self) -> None:
        """Begin one."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="dial", daemon=True)
            self._thread.start()
        self.at_work = True
        self._begun.put(None)

    def made(self) -> Spare | None:
        """Wait for it, and take it; None: there is none, and the next run, which makes its own, tells its user why."""
        os.read(self._told, 1)
        self.at_work = False
        return self._made.get()

    def _work(self) -> None:
        while True:
            self._begun.get()
            self._made.put(self._dial())
            os.write(self._tell, b".")

    def _dial(self) -> Spare | None:
        try:
            stream, facts = connect(self._host, _AGENT, batch=True, deadline=_DEADLINE)
        except RexecError:
            return None
        assert isinstance(stream, ProcessStream)
        if not self._trip:
            self._trip = trip(stream)
            if self._trip:
                trips.learn(self._host, self._trip)
        if not self._trip:
            stream.close(done=True)
            return None
        return Spare(stream, facts, self._trip)


def trip(stream: Stream) -> int:
    """Measure a round trip to the agent that waits at the far end, in microseconds. 0: it does not answer."""
    answered, found = select.poll(), []
    answered.register(stream.read_fd, select.POLLIN)
    for _ in range(_TRIPS):
        began = time.monotonic()
        try:
            os.write(stream.write_fd, words.ALIVE)
            if not answered.poll(words.ANSWERS * 1000) or os.read(stream.read_fd, 1) != words.YES:
                return 0
        except OSError:
            return 0
        found.append(time.monotonic() - began)
    return max(int(min(found) * 1e6), 1)
