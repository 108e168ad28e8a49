"""Execute side: since when what home sends unasked holds (``wire.pushed``). Pure. Shipped.

Home looks it up after it has taken a CREDIT, and says how many it had taken by then (SINCE). So it saw what was done
before that CREDIT was sent: it counts as the reply to a request of that moment, and what the job has changed since,
or was still being done, is left alone. Without that, all that comes after the job's first change would be for nothing.

The caller comes with one thread at a time (``relay.Relay._order``).
"""

from __future__ import annotations

from collections import deque

from remoteio.errors import ProtocolError


class Since:
    """Keeps the stamps of the CREDITs whose number is not below the last that home has named."""

    def __init__(self) -> None:
        self._first = 1  # the number of the first that is kept
        self._stamps: deque[int] = deque()

    def asks(self, stamp: int) -> None:
        """Take note that a CREDIT is about to be sent.

        Two threads may send theirs the other way round: the stamps are in order, so each is no later than it may be.
        """
        self._stamps.append(stamp)

    def of(self, number: int) -> int:
        """Return the stamp for what home has looked up after it had taken so many. Raises ProtocolError."""
        if number >= self._first + len(self._stamps):
            raise ProtocolError("what is pushed was looked up after CREDIT that was never given (%d)" % number)
        if number < self._first:
            return 0  # frames come in order, but for those of a home that has taken the job up
        while self._first < number:
            self._stamps.popleft()
            self._first += 1
        return self._stamps[0]
