"""Threads for what is known to take long. Shipped."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

MOST_WORKERS = 512


class ThreadPool:
    """Does jobs in threads made as they are needed, each one at a time; none waits while there is one to do.

    Threads: any may call it. All that it has is guarded by one lock, which the two conditions share.
    """

    def __init__(self, fail: Callable[[BaseException], None], most: int = MOST_WORKERS) -> None:
        """`fail` is told what a job raises; `most`: threads."""
        self._fail, self._most = fail, most
        self._work: deque[Callable[[], None]] = deque()
        lock = threading.Lock()
        self._more, self._rest = threading.Condition(lock), threading.Condition(lock)
        self._made = self._free = 0
        self._over = False

    def give(self, job: Callable[[], None]) -> bool:
        """Have `job` done by a worker. False: there is none, and no thread for one can be had: it is the caller's."""
        with self._more:
            self._work.append(job)
            if len(self._work) <= self._free or self._made >= self._most:
                self._more.notify()
                return True
            self._made += 1
            try:
                threading.Thread(target=self._worker, name="worker", daemon=True).start()
            except RuntimeError:  # pids.max of cgroups(7), `ulimit -u`
                self._made -= 1
                if not self._made:
                    self._work.remove(job)
                    return False
                self._more.notify()  # it waits for one that is busy
            return True

    @property
    def under_way(self) -> int:
        """How many jobs are being done, or wait to be; by and by, for no lock is taken."""
        return len(self._work) + self._made - self._free

    def rest(self, timeout: float | None) -> bool:
        """Wait until nothing is being done, or waits to be. False: after `timeout` seconds something still is."""
        with self._rest:
            return self._rest.wait_for(lambda: not self._work and self._free == self._made, timeout)

    def end(self) -> None:
        """Let every worker end, as soon as there is nothing for it to do. Nothing may be given any more."""
        with self._more:
            self._over = True
            self._more.notify_all()

    def _worker(self) -> None:
        while True:
            with self._more:
                self._free += 1
                self._rest.notify_all()
                while not self._work:
                    if self._over:
                        self._made, self._free = self._made - 1, self._free - 1
                        return
                    self._more.wait()
                self._free -= 1
                job = self._work.popleft()
            try:
                job()
            except BaseException as e:  # whatever ends a thread of ours ends the run, and is raised there
                self._fail(e)
                with self._more:
                    self._made -= 1
                    self._rest.notify_all()
                return
