"""What a job has cost on the host where it runs, told by that when somebody asks."""

from __future__ import annotations

import threading
from collections.abc import Callable

from shim.submit.spent import Spent, spent


class SpentSoFar:
    """Asks one host, by `ask`; `told` is given what it says of itself or is asked for. Threads: any."""

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._changed = threading.Condition()
        self._last: Spent | None = None
        self._count = 0  # of what was told

    def ask(self, within: float) -> Spent | None:
        """Return what the job has cost by now; None: the host has not said so within that many seconds."""
        with self._changed:
            before = self._count
        self._ask()
        with self._changed:
            return self._last if self._changed.wait_for(lambda: self._count > before, within) else None

    def told(self, payload: bytes | memoryview) -> None:
        """Take the payload of a SPENT frame. Raises ProtocolError."""
        last = spent(payload)
        with self._changed:
            self._last, self._count = last, self._count + 1
            self._changed.notify_all()
