"""Threads that take requests from a link: one leads, none waits for a slow one.

This is the pattern Leader/Followers (Schmidt, Stal, Rohnert, Buschmann: Pattern-Oriented Software Architecture,
volume 2), with one difference. There a leader promotes a follower before it handles what it received, which costs a
handover between threads for each request, and most of ours take less than that. So here the leader receives *and*
handles, and only when it has been inside one request for a tick does a watchdog promote a follower in its place; the
late one joins the followers when it is done. What is known to be slow goes to a pool at once. So no operation,
whatever it waits for, keeps the others waiting longer than a tick.

What may run at once. Receiving: one thread, the leader, always. Handling: any number, the leader, those that were late,
and the pool; two of them may be of the same file, and one that was received first may end last. That is right for FUSE:
the kernel sends what must come after something else only when that has been answered.

States. `_step` is even while the leader receives, and odd while it is inside a request; each change is made under
`_lock` and by one. `_term` counts leaders, and a thread leads as long as it is the one it began with. The watchdog ends
a term only at an odd step, the same that it saw a tick ago: so a leader that is receiving is never replaced, and what
it received is in `_pending`, which only the leader touches, before anybody else can lead. `_vacancy` says that a term
has ended and nobody has taken the next one; then nobody receives, and the watchdog sees to it that somebody will.

The watchdog ticks only while there is something to watch: with nothing to do for a tick it clears `_watch` and waits
for it, and the leader that begins a request sets it. It looks at `_step` once more after clearing, since the leader
looks at `_watch` after its step: one of the two sees the other.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from remoteio.thread_pool import ThreadPool

T = TypeVar("T")
TICK = 0.01  # seconds
AGAIN = 0.2  # seconds between tries to have a thread where there is none to have
QUICK, SLOW, WAITS = 0, 1, 2  # how long an item takes: it is not known, long, or until another is handled
MOST_WAITING = 4096  # items that wait for others


class LeaderFollowers(Generic[T]):
    """Has items received and handled, until one of the two raises.

    receive   blocks, and returns some items; called by one thread at a time
    handle    does one item; called by many threads at once
    slow      says how long an item takes: unless QUICK it goes to a pool at once, and what WAITS for another to one of
              its own, where it keeps none from being handled; called by the leader, so it must cost nothing

    Threads: ``run`` and ``rest`` are for the one that made it; all else is for its own.
    """

    def __init__(self, receive: Callable[[], list[T]], handle: Callable[[T], None], slow: Callable[[T], int]) -> None:
        self._receive, self._handle, self._slow = receive, handle, slow
        self._lock = threading.Lock()
        self._pending: deque[T] = deque()  # received, and not begun
        self._term = 0  # counts leaders
        self._step = 0  # odd: the leader is inside a request
        self._watch = threading.Event()
        self._followers = threading.Condition(self._lock)
        self._waiting = 0
        self._alive = 0  # threads that lead, wait to, or are late
        self._vacancy = False
        self._pool = ThreadPool(self._fail)
        self._pools = (self._pool, self._pool, ThreadPool(self._fail, MOST_WAITING))  # by how long it takes
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
            self._followers.notify_all()
        for pool in self._pools[SLOW:]:
            pool.end()
        assert self._failure is not None
        raise self._failure

    def _fail(self, e: BaseException) -> None:
        self._failure = self._failure or e
        self._over.set()
        self._watch.set()  # for the watchdog, which looks whether it is over between a clear and a wait

    @property
    def under_way(self) -> int:
        """How many items that are known to take long are being handled, or wait to be."""
        return self._pool.under_way

    def aside(self, item: T) -> bool:
        """Have an item that was held up handled by a thread of a pool. False: not one is to be had."""
        return self._pools[self._slow(item) or SLOW].give(partial(self._handle, item))

    def rest(self, timeout: float | None) -> bool:
        """Wait, after `run`, until nothing is being received or handled any more.

        False: after `timeout` seconds something still is.
        """
        until = None if timeout is None else time.monotonic() + timeout

        def left() -> float | None:
            return None if until is None else max(until - time.monotonic(), 0)

        with self._lock:
            gone = self._followers.wait_for(lambda: not self._alive, timeout)
        return gone and all(pool.rest(left()) for pool in self._pools[SLOW:])

    def _join(self) -> None:
        threading.Thread(target=self._member, name="follower", daemon=True).start()
        self._alive += 1  # under the lock, which it waits for

    def _member(self) -> None:
        while True:
            with self._lock:
                self._waiting += 1
                while not self._vacancy and not self._over.is_set():
                    self._followers.wait()
                self._waiting -= 1
                if self._over.is_set():
                    self._alive -= 1
                    self._followers.notify_all()
                    return
                self._vacancy = False
                term = self._term
            try:
                self._lead(term)
            except BaseException as e:  # whatever ends a thread of ours ends the run, and is raised there
                self._fail(e)

    def _lead(self, term: int) -> None:
        pending, slow, handle, lock, watch = self._pending, self._slow, self._handle, self._lock, self._watch
        pools = self._pools
        while True:
            if not pending:
                pending.extend(self._receive())
                continue
            with lock:
                if self._term != term:
                    return
                item = pending.popleft()
                self._step += 1
            long = slow(item)
            if not (long and pools[long].give(partial(handle, item))):
                if not watch.is_set():
                    watch.set()
                handle(item)
            with lock:
                if self._term != term:
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
                self._term += 1
                self._step += 1
                self._vacancy = True
            self._fill()

    def _fill(self) -> None:
        """Has a follower take the lead. Where no new thread can be had, the late one does when it is done."""
        while not self._over.is_set():
            with self._lock:
                if not self._vacancy:
                    return
                if self._waiting:
                    self._followers.notify()
                    return
                try:
                    self._join()
                    return
                except RuntimeError:  # pids.max of cgroups(7), `ulimit -u`
                    pass
            self._over.wait(AGAIN)
