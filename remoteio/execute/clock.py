"""Execute side: the time by which what was told is kept. Shipped."""

from __future__ import annotations

import time


class Clock:
    """Tells seconds that go on as time.monotonic(3) does, and may be had to leap."""

    __slots__ = ("_ahead",)

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._ahead

    def leap(self, seconds: float) -> None:
        """Go on as if so much time had passed: what is kept for no longer is kept no more."""
        self._ahead += seconds
