"""Waking a thread that waits in poll(2), from other threads and from signal handlers. Shipped."""

from __future__ import annotations

import os
import threading


class Bell:
    """A descriptor, `fd`, that poll(2) finds readable once it was rung; `rope` is where a byte written rings it."""

    def __init__(self) -> None:
        self.fd, self.rope = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self.rope, False)
        self._lock = threading.RLock()  # a signal's handler may ring in the middle of a ringing
        self._hung = True

    def ring(self) -> None:
        """Wake whoever waits, now or at the next wait."""
        with self._lock:
            if self._hung:
                try:
                    os.write(self.rope, b"!")
                except BlockingIOError:
                    return  # it has been rung often enough

    def hush(self) -> None:
        """Readable no more, until it is rung again."""
        try:
            os.read(self.fd, 4096)
        except BlockingIOError:
            return

    def take_down(self) -> None:
        """Close it. To ring it afterwards does nothing."""
        with self._lock:
            self._hung = False
            os.close(self.fd)
            os.close(self.rope)
