"""Has what nobody waits for written a moment after it was sent, together with what came meanwhile. Shipped.

Each write of its own costs a system call here, a packet, and a wake-up of ssh, of sshd and of the other end, which is
more than most changes of a file cost themselves. Whatever is waited for goes at once, and takes along what is due.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

MOMENT = 0.005  # seconds


class Later:
    """Calls `write`, in a thread of its own, a moment after something was `due`; until the `end`.

    Threads: any.
    """

    def __init__(self, write: Callable[[], None]) -> None:
        self._write = write
        self._due = threading.Event()
        self._thread: threading.Thread | None = None
        self._over = False

    def due(self) -> bool:
        """Take note that something is to be written; one thread at a time. False: no thread is to be had for it."""
        if not self._due.is_set():
            self._due.set()
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="later", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    self._due.clear()
                    return False
                self._thread = thread
        return True

    def end(self) -> None:
        """Write nothing any more."""
        self._over = True
        self._due.set()

    def _run(self) -> None:
        while not self._over:
            self._due.wait()
            time.sleep(MOMENT)
            self._due.clear()  # before: what is due from now on is seen, or in what is written
            self._write()
