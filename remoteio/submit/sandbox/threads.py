"""A thread of this process that may do less than the others, and one that does for it what it may not."""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from remoteio.submit.sandbox import landlock, seccomp
from remoteio.syscalls import check, libc

T = TypeVar("T")
_PR_SET_NO_NEW_PRIVS = 38


class Call(Protocol):
    """Calls `what`, wherever; returns what it returns, and raises what it raises."""

    def __call__(self, what: Callable[[], T]) -> T: ...


def here(what: Callable[[], T]) -> T:
    """Call it in this thread: where nothing is restricted."""
    return what()


def restrict(writable: Iterable[bytes]) -> list[str]:
    """Restrict this thread and those that it starts, for good: to write beneath `writable`, and to no sockets, programs
    and other processes. Returns what of it the kernel does not do, a sentence's end each.
    """
    lacking = []
    try:
        check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")
    except OSError as e:
        return [f"new privileges cannot be given up ({e.strerror})"]
    try:
        if not landlock.restrict(writable):
            lacking.append(f"Landlock {landlock.OLDEST} or newer (Linux 5.19) is not there, or is switched off")
    except OSError as e:
        lacking.append(f"Landlock refused ({e})")
    try:
        if not seccomp.restrict():
            lacking.append(f"the system calls of {os.uname().machine} are not known to rexec")
    except OSError as e:
        lacking.append(f"seccomp refused ({e.strerror})")
    return lacking


def what_lacks() -> list[str]:
    """Try ``restrict`` in a thread that does nothing else."""
    found: list[str] = []
    trial = threading.Thread(target=lambda: found.extend(restrict([b"/"])), name="trial")
    trial.start()
    trial.join()
    return found


class Outside:
    """Calls for restricted threads what they may not do themselves; made by one that is not restricted.

    Threads: any; its own starts one for each call, so that a slow one keeps nobody waiting.
    """

    def __init__(self) -> None:
        self._todo: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._closed, self._lock = False, threading.Lock()
        threading.Thread(target=self._run, name="outside", daemon=True).start()

    def __call__(self, what: Callable[[], T]) -> T:
        """Call `what` there. Raises OSError (EIO) once it is closed."""
        done = threading.Event()
        returned: list[T] = []
        raised: list[BaseException] = []

        def call() -> None:
            try:
                returned.append(what())
            except BaseException as e:  # whatever it is, it is raised where it was asked for
                raised.append(e)
            done.set()

        with self._lock:
            if self._closed:
                raise OSError(errno.EIO, "the session is over")
            self._todo.put(call)
        done.wait()
        if raised:
            raise raised[0]
        return returned[0]

    def close(self) -> None:
        """Take no more calls. Those that were made are done."""
        with self._lock:
            self._closed = True
            self._todo.put(None)

    def _run(self) -> None:
        while (call := self._todo.get()) is not None:
            try:
                threading.Thread(target=call, name="outside", daemon=True).start()
            except RuntimeError:  # pids.max of cgroups(7), `ulimit -u`
                call()
