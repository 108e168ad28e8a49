"""Bounds what is kept of many things in memory: what was not used for longest is given up."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class LeastUsed(Generic[T]):
    """Knows how much each of some things keeps, and has `drop` give up what was not used for longest beyond `most`.

    What `needed` says is needed is given up last: only beyond four times as much.

    Threads: any. `drop` and `needed` are called under the lock, and must not wait.
    """

    def __init__(self, most: int, drop: Callable[[T], None], needed: Callable[[T], bool] = lambda _: False) -> None:
        self._most, self._drop, self._needed = most, drop, needed
        self._lock = threading.Lock()
        self._sizes: OrderedDict[T, int] = OrderedDict()
        self.total = 0

    def used(self, item: T, size: int) -> None:
        """Take note that `item` was used, and keeps `size` by now."""
        with self._lock:
            self.total += size - self._sizes.pop(item, 0)
            self._sizes[item] = size
            if self.total > self._most:
                self._give_up(item)

    def _give_up(self, user: T) -> None:
        for first, most in ((True, self._most), (False, 4 * self._most)):
            for item in list(self._sizes):
                if self.total <= most:
                    break
                if item is not user and not (first and self._needed(item)):
                    self.total -= self._sizes.pop(item)
                    self._drop(item)
