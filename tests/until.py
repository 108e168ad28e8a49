"""Waiting for what a test can only look at, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Seen = TypeVar("Seen")


def until(look: Callable[[], Seen], what: str, *, within: float = 10.0) -> Seen:
    """Call `look` until it gives something true, and return that; AssertionError naming `what` after `within` s."""
    deadline = time.monotonic() + within
    while not (seen := look()):
        assert time.monotonic() < deadline, f"{what}: not within {within} s"
        time.sleep(0.02)
    return seen
