"""Waiting for what a test can only look at, with a deadline; and how soon something comes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

Seen = TypeVar("Seen")

HANG = 60.0
"""Seconds after which what has not come never will: it ends a test that hangs, and says nothing of how long is long."""

STEP = 0.2
"""Seconds that a look takes at most on a machine that does not stand still."""


def until(look: Callable[[], Seen], what: str, *, within: float = HANG) -> Seen:
    """Call `look` until it gives something true, and return that; AssertionError naming `what` after `within` s.

    Seconds in which there was no look count as one step: then this machine, or what is looked at, stood still, and
    with it what is waited for.
    """
    spent, before = 0.0, time.monotonic()
    while not (seen := look()):
        assert spent < within, f"{what}: not within {within} s"
        time.sleep(0.02)
        now = time.monotonic()
        spent, before = spent + min(now - before, STEP), now
    return seen


def soon(once: Callable[[], float], within: float, tries: int = 5) -> None:
    """Have one of some tries take less than `within` seconds, which each try measures and returns.

    A machine that stands still for a moment delays one or another of them; what waits by itself delays each.
    """
    took: list[float] = []
    while not took or took[-1] >= within:
        assert len(took) < tries, f"never within {within} s, but after {', '.join(f'{each:.3f}' for each in took)}"
        took.append(once())


def stop(process: int) -> None:
    """Stop a process, and return once it does nothing any more: after the signal its threads go on for a moment."""

    def running() -> set[str]:
        states = set()
        for task in Path(f"/proc/{process}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # the thread has just ended
                states.add((task / "stat").read_text().rpartition(")")[2].split()[0])
        return states - {"T"}

    os.kill(process, signal.SIGSTOP)
    until(lambda: not running(), f"process {process} is stopped")
