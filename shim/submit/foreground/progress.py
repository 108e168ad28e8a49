"""One line on a terminal that says how far something is: bytes, rate, time left; none for what is soon done."""

from __future__ import annotations

import time
from typing import TextIO

from shim.submit.units import size

SOON = 1.0  # seconds


class Progress:
    """Shown on `file` if that is a terminal."""

    def __init__(self, file: TextIO, what: str) -> None:
        self._file, self._what = file, what
        self._began = time.monotonic()
        self._shown = False
        self._wanted = file.isatty()

    def update(self, done: int, total: int, sent: int) -> None:
        """`done` of `total` bytes are dealt with, for which `sent` went over the link."""
        elapsed = time.monotonic() - self._began
        if self._wanted and elapsed >= SOON and total:
            self._file.write("\r\033[K" + line(self._what, done, total, sent, elapsed))
            self._file.flush()
            self._shown = True

    def close(self) -> None:
        """Take the line away."""
        if self._shown:
            self._file.write("\r\033[K")
            self._file.flush()
            self._shown = False


def line(what: str, done: int, total: int, sent: int, elapsed: float) -> str:
    """The line: `elapsed` seconds since the start."""
    rate = done / elapsed if elapsed else 0.0
    left = f", {(total - done) / rate:.0f} s left" if rate else ""
    return f"rexec: {what}: {size(done)} of {size(total)}, {size(sent)} sent, {size(rate)}/s{left}"
