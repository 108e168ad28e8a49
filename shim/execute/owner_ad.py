"""Prints how long the owner of this machine has been away. A program by itself, `rexec owner`; not sent to hosts.

    table|json|condor SECONDS    0: once; else again after so many seconds, and within one of the owner's input

What `condor` prints is what a startd takes from a job of STARTD_CRON: an attribute a line, and a dash behind them all
(HTCondor Manual, "Startd Cron and Schedd Cron").
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from shim.execute.owner.sources import OwnerSources
from shim.wire.wakeup import await_any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_OFTEN = 1.0  # seconds from one print to the next, however much is typed


def table(idle: float | None, unknown: str | None, facts: list[dict[str, Any]]) -> str:
    """Write for people what is known."""
    said = f"nobody has typed here for {_time(idle)}" if idle is not None else f"not known: {unknown}"
    rows = [(row["source"], _time(row["idle"]) if row["present"] else f"not there: {row['why']}") for row in facts]
    return "\n".join([said, *(f"  {source:<10} {text}" for source, text in rows)])


def condor(idle: float | None, unknown: str | None, _: list[dict[str, Any]]) -> str:
    """Write it as attributes of a machine."""
    why = "".join(each if " " <= each <= "~" and each not in '"\\' else "?" for each in unknown or "")
    ad = {
        "RexecOwnerKnown": str(idle is not None).lower(),
        "RexecOwnerIdle": "undefined" if idle is None else str(int(idle)),
        "RexecOwnerWhy": f'"{why}"' if why else "undefined",
    }
    return "\n".join([*(f"{name} = {value}" for name, value in ad.items()), "-"])


def as_json(idle: float | None, unknown: str | None, facts: list[dict[str, Any]]) -> str:
    """Write it as an object in a line."""
    return json.dumps({"idle": None if idle is None else round(idle, 1), "unknown": unknown, "sources": facts})


_FORMS = {"table": table, "json": as_json, "condor": condor}


def main() -> None:
    """Print until there is nobody who reads it."""
    form, every = _FORMS[sys.argv[1]], float(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    watch = OwnerSources(time.monotonic())
    try:
        while True:
            now = time.monotonic()
            print(form(watch.idle(now), watch.blind(), watch.facts(now)), flush=True)
            if not every:
                return
            _await_news(watch, now, every)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # python flushes it once more


def _time(seconds: float | None) -> str:
    return "as long as is known" if seconds is None else f"{seconds:.0f} s"


def _await_news(watch: OwnerSources, printed: float, every: float) -> None:
    """Wait until it is to be printed again: somebody has typed, or the time is up."""
    touched = False
    until = printed + every
    while (now := time.monotonic()) < until:
        due = watch.timeout(now)
        await_any([watch.fileno()], until - now if due is None else min(due, until - now))
        now = time.monotonic()
        if watch.poll(now) and not touched:
            touched, until = True, max(now, min(until, printed + _OFTEN))
