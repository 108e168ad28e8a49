"""Waiting for what a test can only look at, with a deadline; and how soon something comes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Seen = TypeVar("Seen")


def until(look: Callable[[], Seen], what: str, *, within: float = 10.0) -> Seen:
    """Call `look` until it gives something true, and return that; AssertionError naming `what` after `within` s.

    The last look begins after that time: one that takes long, on a busy machine, may have begun before it was so.
    """
    deadline = time.monotonic() + within
    while True:
        last = time.monotonic() >= deadline
        if seen := look():
            return seen
        assert not last, f"{what}: not within {within} s"
        time.sleep(0.02)


def soon(once: Callable[[], float], within: float, tries: int = 5) -> None:
    """Have one of some tries take less than `within` seconds, which each try measures and returns.

    A machine that stands still for a moment delays one or another of them; what waits by itself delays each.
    """
    took: list[float] = []
    while not took or took[-1] >= within:
        assert len(took) < tries, f"never within {within} s, but after {', '.join(f'{each:.3f}' for each in took)}"
        took.append(once())
