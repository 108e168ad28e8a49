"""Counts what a job was refused, by path and rule."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from remoteio.submit.export.nodes import Node, path
from remoteio.submit.export.rights import Rule

MOST = 1000  # that are told apart


class Refusal(NamedTuple):
    """`path` was refused to be seen (`reading`), or to be changed, by `rule`."""

    path: bytes
    rule: Rule
    reading: bool


class Refusals:
    """Keeps how often each was. Threads: any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._guesses = threading.local()
        self._counts: dict[Refusal, int] = {}
        self.others = 0  # refused when there were MOST already

    def note(self, parent: Node, name: bytes, rule: Rule | None, reading: bool) -> None:
        """Count one; of a rule without a name nobody asks."""
        if rule is None or not rule.name or getattr(self._guesses, "made", False):
            return
        refusal = Refusal(path(parent, name), rule, reading)
        with self._lock:
            if refusal in self._counts or len(self._counts) < MOST:
                self._counts[refusal] = self._counts.get(refusal, 0) + 1
            else:
                self.others += 1

    @contextmanager
    def guessing(self) -> Iterator[None]:
        """Count nothing that this thread meets: the job has not asked for it."""
        self._guesses.made = True
        try:
            yield
        finally:
            self._guesses.made = False

    def clear(self) -> None:
        """Begin anew: another job is served."""
        with self._lock:
            self._counts.clear()
            self.others = 0

    def counted(self) -> dict[Refusal, int]:
        """Return how often each was refused, in the order of the first time."""
        with self._lock:
            return dict(self._counts)
