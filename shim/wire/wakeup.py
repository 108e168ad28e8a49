"""Wakes a thread that waits in poll(2), from other threads and from signal handlers. Shipped; used at both ends.

A pipe to oneself (D. J. Bernstein's self-pipe trick). An Event or a Condition will not do: a thread can wait for
one of those or for descriptors, but not for both, and a signal's handler must not wait for a lock that the thread
it interrupted holds.
"""

from __future__ import annotations

import os
import select
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def await_any(descriptors: Iterable[int], seconds: float) -> bool:
    """Wait until one of some descriptors can be read, `seconds` at the most. False: none can.

    Not by select(2), which knows numbers below 1,024 alone: a process that serves jobs may have more files open.
    """
    poll = select.poll()
    for each in descriptors:
        poll.register(each, select.POLLIN)
    return bool(poll.poll(max(seconds, 0.0) * 1000))


class Wakeup:
    """Makes a descriptor readable for poll(2), until it is cleared.

    fd        what the thread that waits polls for POLLIN
    write_fd  where a byte written is a ``set``: for signal.set_wakeup_fd

    Threads: any may ``set``, a signal's handler too; one waits, and calls ``clear`` before it looks at what it was
    woken for, so that what comes while it looks wakes it again; ``close`` is for whoever waited.
    """

    def __init__(self) -> None:
        self.fd, self.write_fd = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self.write_fd, False)
        # Held so that no byte goes to a number that was closed and given to another file. It can be entered twice:
        # a signal's handler may call set in the middle of a set.
        self._lock = threading.RLock()
        self._open = True

    def set(self) -> None:
        """Wake whoever waits, now or at the next wait. After ``close`` it does nothing."""
        with self._lock:
            if self._open:
                try:
                    os.write(self.write_fd, b"!")
                except BlockingIOError:
                    return  # the pipe is full: it is readable

    def clear(self) -> None:
        """Make `fd` readable no more, until the next ``set``."""
        try:
            os.read(self.fd, 4096)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Close both descriptors."""
        with self._lock:
            self._open = False
            os.close(self.fd)
            os.close(self.write_fd)
