"""What a process sets of itself that serves jobs and does nothing else: never in a program that uses the library."""

from __future__ import annotations

import gc
import resource

from remoteio.submit.sandbox import dumps
from remoteio.syscalls import one_arena

_SELDOM = 10_000  # objects made and not gone, before their cycles are looked for


def settle() -> None:
    """Let no other process look into this one, hold no more memory than is used, and look for garbage seldom.

    It is called once all that serves is imported.

    What a job's files are known by is a hundred thousand objects that live on: to go through them, and through all that
    was imported, each time that some hundred were made took a tenth of ``find``.
    """
    dumps.forbid()
    one_arena()
    gc.freeze()
    gc.set_threshold(_SELDOM)


def memory() -> int:
    """Return how much memory this process has, in bytes."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * resource.getpagesize()
