"""Give a host signs of life, until it is to hear none: this process is about to be stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable


class SignsOfLife:
    """Gives them by `give`, until it is paused: one that came after PAUSE would take it back.

    Threads: any.
    """

    def __init__(self, give: Callable[[], None]) -> None:
        self._give, self._lock, self._paused = give, threading.Lock(), False

    def give(self) -> None:
        """Give one, unless paused."""
        with self._lock:
            if not self._paused:
                self._give()

    def pause(self) -> None:
        """Give none from here on; one that is on its way has been sent when this returns."""
        with self._lock:
            self._paused = True

    def resume(self) -> None:
        """Give one, and let more be given."""
        self._paused = False
        self.give()
