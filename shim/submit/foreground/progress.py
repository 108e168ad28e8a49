"""One line on a terminal that says what is waited for, or how far it is; none for what is soon done."""

from __future__ import annotations

import os
import sys
import termios
import threading
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
        """Show that `done` of `total` bytes are dealt with, for which `sent` went over the link."""
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
    """Return the line: `elapsed` seconds since the start."""
    rate = done / elapsed if elapsed else 0.0
    left = f", {(total - done) / rate:.0f} s left" if rate else ""
    return f"rexec: {what}: {size(done)} of {size(total)}, {size(sent)} sent, {size(rate)}/s{left}"


class Waiting:
    """Says on a terminal what is waited for; use in a `with`.

    Threads: the line is written by a timer's, and taken away by any, under one lock.
    """

    def __init__(self, what: str, file: TextIO | None = None) -> None:
        """`file`: standard error by default; where that is no terminal, nothing is said."""
        self._what, self._file = what, sys.stderr if file is None else file
        self._lock = threading.Lock()
        self._shown = self._over = False
        self._timer = threading.Timer(SOON, self._show)
        self._timer.daemon = True
        if self._file is not None and self._file.isatty():  # it is None if 2 was closed when we were started
            self._timer.start()

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the line away, and say nothing any more."""
        self._timer.cancel()
        with self._lock:
            self._over = True
            if self._shown:
                self._write("\r\033[K")
                self._shown = False

    def _show(self) -> None:
        with self._lock:
            if not self._over and not _used(self._file.fileno()):
                self._write(f"rexec: {self._what} …")
                self._shown = True

    def _write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()


def _used(terminal: int) -> bool:
    """Is it another's now, a shell's, or that of an ssh which asks for a password (job_control.py), or does our own
    getpass(3) ask for one there: without echo?"""
    try:
        return not termios.tcgetattr(terminal)[3] & termios.ECHO or os.tcgetpgrp(terminal) != os.getpgrp()
    except (OSError, termios.error):
        return False  # it controls no session of ours, or is gone
