"""No other process of this user looks into this one, and the kernel writes no core of it: PR_SET_DUMPABLE, prctl(2).

The kernel's files of the process, /proc/PID/mem among them, are root's then; what is the process's own it still reaches
by /proc/self/fd. ssh is given files of ours by /proc/PID/fd, so while one is being started this is taken back.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from remoteio.syscalls import check, libc

_PR_SET_DUMPABLE = 4


class _Dumps:
    """Of this process, whose threads may all start an ssh; under `_lock`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted, self._opened = False, 0

    def forbid(self) -> None:
        with self._lock:
            self._wanted = True
            self._set()

    @contextmanager
    def allowed(self) -> Iterator[None]:
        with self._lock:
            self._opened += 1
            self._set()
        try:
            yield
        finally:
            with self._lock:
                self._opened -= 1
                self._set()

    def _set(self) -> None:
        if self._wanted:
            check(libc.prctl(_PR_SET_DUMPABLE, int(self._opened > 0), 0, 0, 0), "prctl(PR_SET_DUMPABLE)")


_dumps = _Dumps()
forbid = _dumps.forbid
allowed = _dumps.allowed
