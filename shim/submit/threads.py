"""Threads where there may be none left to have: pids.max of cgroups(7), `ulimit -u`."""

from __future__ import annotations

import threading
from collections.abc import Callable


def begin(run: Callable[[], object]) -> bool:
    """Have `run` done in a thread of its own. False: no thread can be had just now, and nothing was begun."""
    try:
        threading.Thread(target=run, daemon=True).start()
    except RuntimeError:
        return False
    return True
