"""A thread that waits in a system call, for as long as it takes, and can be called back from there.

A lock that is waited for is waited for in the kernel: it grants a lock to those who queue for it, and whoever comes now
and then to ask whether it is free may find it taken by others, one after the other, for ever.

Python begins a system call anew that a signal has interrupted, and what a signal is to do here only the main thread may
say, so both are done by libc. SIGURG it is, which is ignored by default, so one too many harms nobody, and of which
nobody else makes use (Go's runtime interrupts its threads by it for the same reasons).
"""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Callable

from remoteio import syscalls

_AGAIN = 0.005  # seconds: a signal that comes just before the system call begins is lost


class Wait:
    """One wait, which may be called back before it has begun.

    Threads: any may call ``end``. `_lock` is held while the thread that waits is signalled, which is there meanwhile.
    """

    __slots__ = ("_ended", "_lock", "_over", "_thread")

    def __init__(self) -> None:
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread: int | None = None  # that is waiting now
        self._ended = False

    def run(self, wait: Callable[[], object]) -> None:
        """Have this thread call `wait`, a system call that raises EINTR. Raises EINTR once ``end`` was called."""
        syscalls.let_interrupt(signal.SIGURG)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGURG})
        with self._lock:
            self._thread = threading.get_ident()
        try:
            while not self._ended:
                try:
                    wait()
                    return
                except InterruptedError:
                    pass  # by some signal, and perhaps not by ours
            raise OSError(errno.EINTR, "interrupted")
        finally:
            with self._lock:
                self._thread = None
            self._over.set()

    def end(self) -> None:
        """Call it back."""
        self._ended = True
        if self._thread is not None:
            threading.Thread(target=self._signal, name="interrupt", daemon=True).start()

    def _signal(self) -> None:
        while True:
            with self._lock:
                if self._thread is None:
                    return
                signal.pthread_kill(self._thread, signal.SIGURG)
            self._over.wait(_AGAIN)
