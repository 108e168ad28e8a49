"""Threads that take requests from a link: one leads, none waits for a slow one.

The leader receives and handles requests itself, so that a quick one costs no handover. What is known to be slow goes to
workers. When the leader has been inside one request for a tick, a spare thread takes the lead, and the late one joins
the spares when it is done: no operation, whatever it waits for, keeps the others waiting longer than that.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from remoteio.thread_pool import Workers

T = TypeVar("T")
TICK = 0.01  # seconds
AGAIN = 0.2  # seconds between tries to have a thread where there is none to have


class Crew(Generic[T]):
    """`receive` blocks and returns some items; `handle` does one; `slow` says which go to a worker at once."""

    def __init__(self, receive: Callable[[], list[T]], handle: Callable[[T], None], slow: Callable[[T], bool]) -> None:
        self._receive, self._handle, self._slow = receive, handle, slow
        self._lock = threading.Lock()
        self._pending: deque[T] = deque()
        self._reign = 0  # counts leaders
        self._step = 0  # odd: the leader is inside a request
        self._watch = threading.Event()
        self._spares = threading.Condition(self._lock)
        self._spare_count = 0
        self._alive = 0  # members
        self._vacancy = False
        self._workers = Workers(self._fail)
        self._failure: BaseException | None = None
        self._over = threading.Event()

    def run(self) -> None:
        """Serve until `receive` or `handle` raises; that is raised here."""
        threading.Thread(target=self._watchdog, name="watchdog", daemon=True).start()
        with self._lock:
            self._vacancy = True
            self._join()
        self._over.wait()
        with self._lock:
            self._spares.notify_all()
        assert self._failure is not None
        raise self._failure

    def _fail(self, e: BaseException) -> None:
        self._failure = self._failure or e
        self._over.set()
        self._watch.set()  # for the watchdog, which looks whether it is over between a clear and a wait

    def rest(self, timeout: float) -> bool:
        """After `run`: wait until nothing is being received or handled any more. False: something still is."""
        until = time.monotonic() + timeout
        with self._lock:
            gone = self._spares.wait_for(lambda: not self._alive, timeout)
        return gone and self._workers.rest(max(until - time.monotonic(), 0))

    def _join(self) -> None:
        threading.Thread(target=self._member, name="crew", daemon=True).start()
        self._alive += 1  # under the lock, which it waits for

    def _member(self) -> None:
        while True:
            with self._lock:
                self._spare_count += 1
                while not self._vacancy and not self._over.is_set():
                    self._spares.wait()
                self._spare_count -= 1
                if self._over.is_set():
                    self._alive -= 1
                    self._spares.notify_all()
                    return
                self._vacancy = False
                reign = self._reign
            try:
                self._lead(reign)
            except BaseException as e:  # whatever ends a thread of ours ends the run, and is raised there
                self._fail(e)

    def _lead(self, reign: int) -> None:
        pending, slow, handle, lock, watch = self._pending, self._slow, self._handle, self._lock, self._watch
        while True:
            if not pending:
                pending.extend(self._receive())
                continue
            with lock:
                if self._reign != reign:
                    return
                item = pending.popleft()
                self._step += 1
            if not (slow(item) and self._workers.give(partial(handle, item))):
                if not watch.is_set():
                    watch.set()
                handle(item)
            with lock:
                if self._reign != reign:
                    return
                self._step += 1

    def _watchdog(self) -> None:
        last = -1
        while not self._over.is_set():
            if self._step == last and not last & 1:
                self._watch.clear()
                if self._step == last and not self._over.is_set():
                    self._watch.wait()
            last = self._step
            self._over.wait(TICK)
            if not last & 1 or self._step != last:
                continue
            with self._lock:
                if self._step != last:
                    continue
                self._reign += 1
                self._step += 1
                self._vacancy = True
            self._fill()

    def _fill(self) -> None:
        """Have a spare thread take the lead. Where no new one can be had, the late one does when it is done."""
        while not self._over.is_set():
            with self._lock:
                if not self._vacancy:
                    return
                if self._spare_count:
                    self._spares.notify()
                    return
                try:
                    self._join()
                    return
                except RuntimeError:  # pids.max of cgroups(7), `ulimit -u`
                    pass
            self._over.wait(AGAIN)
