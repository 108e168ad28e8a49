"""Execute side: how fast home may send what the job has not asked for (``wire.pushed``). Pure. Shipped.

As much is under way as the link carries in a round trip and until a frame has come whole, or little more: what the job
asks for waits behind it. Near by that is a frame or three. How much it is, is measured as by TCP's BBR: the link's rate
is the most that came in the time from a grant to its last byte; while that grows, twice as much is granted the next
time. Home makes its frames as large as what it is granted, and where that is little, half of it is the most at a time:
of one frame alone the link would be idle until the next is granted. Of a link that was narrow the last time, no more
than it carried then is granted first.

Nor is more sent than the link carries in UNUSED_S, and that was not used: a command that does something else than the
last time is left alone.
"""

from __future__ import annotations

from collections import deque

from remoteio.wire.pushed import FRAME, WIDEST

SURELY_FAR = 0.015
"""Seconds that the first answer took, from which on no second one is waited for: home was busy for less than that."""
FIRST = 192 << 10
LEAST = 16 << 10
FRAMES = 24 << 10
"""Bytes that are under way beside those that the link carries in a round trip: a frame is granted anew once it is here
and dealt with, and the smallest are of 16 KiB."""
UNUSED_S = 0.3
_GROWS = 1.25  # times: the link is faster than was known
_FULL = 3  # grants in a row by which it was not


class Pace:
    """Knows how much to grant: bytes, of which the caller tells home.

    wanted  home has something to send
    come    bytes that have come
    """

    def __init__(self) -> None:
        self.come = 0
        self.wanted = False
        self._granted = self._window = self._answers = self._level = 0
        self._first = FIRST
        self._fastest = float("inf")
        self._rate = 0.0
        self._grants: deque[tuple[int, int, float]] = deque()  # up to which byte, what had come, when

    def line(self) -> int:
        """Tell how many bytes the link carries in a second; 0: that is not known well."""
        return int(self._rate) if self._level >= _FULL else 0

    def anew(self) -> None:
        """Take what was granted and not sent for taken back: home sends for another job."""
        self._granted = self.come
        self._grants.clear()

    def told(self, trip: float, line: int, now: float) -> int:
        """Take note of how long a round trip takes, and how many bytes the link carries in a second (0: who knows), as
        home has found out before; return what to grant."""
        self.wanted = True
        if line:
            self._first = min(FIRST, int(_GROWS * line * trip) + FRAMES)
        self._answers = 1  # and it is the quickest of several
        return self.answered(trip, now, 0)

    def answered(self, waited: float, now: float, unused: int) -> int:
        """Take note that home took so long for an answer; return what to grant."""
        self._answers += 1
        self._fastest = min(self._fastest, waited)
        return self.grant(now, unused)

    def came(self, size: int, now: float, unused: int) -> int:
        """Take note that so much has come; return what to grant."""
        self.come += size
        while self._grants and self._grants[0][0] <= self.come:
            _, before, at = self._grants.popleft()
            self._learn((self.come - before) / max(now - at, 1e-6))
        return self.grant(now, unused)

    def _learn(self, rate: float) -> None:
        self._level = 0 if rate > _GROWS * self._rate else self._level + 1
        self._rate = max(rate, self._rate)
        gain = 2.0 if self._level < _FULL else _GROWS
        self._window = int(min(max(gain * self._rate * self._fastest + FRAMES, LEAST), WIDEST))

    def grant(self, now: float, unused: int) -> int:
        """Return what to grant, when so much of what has come was not used."""
        if not self._window and self.wanted and (self._answers > 1 or SURELY_FAR <= self._fastest < float("inf")):
            self._window = self._first
        under_way = self._granted - self.come  # less than nothing, where the last frame was larger than what was left
        room = min(self._window, max(2 * FIRST, int(self._rate * UNUSED_S)) - unused) - under_way
        if self._window < 2 * FRAME:
            room = min(room, max(self._window // 2, LEAST) - min(under_way, 0))
        room = min(room, WIDEST)  # home takes no more at once
        if not self._window or room < max(min(self._window // 4, FRAME), 1):
            return 0
        self._granted += room
        self._grants.append((self._granted, self.come, now))
        return room
