"""The lives of the jobs of a batch, as its journal tells them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from shim.submit import lives
from shim.submit.batch import story
from shim.submit.lives import Cost, Life, Teller


def told(batch: str, created: float, rows: Iterable[Mapping[str, Any]], now: float) -> dict[int, Life]:
    """Tell the life of each job of which a journal has something to say, up to `now`; it was created then."""
    tellers: dict[int, Teller] = {}
    for row in rows:
        job, state, at = row.get("job"), row.get("is"), row.get("at")
        if not isinstance(job, int) or state not in story.STATES or not isinstance(at, (int, float)):
            continue
        if job not in tellers:
            tellers[job] = Teller(f"{batch}.{job}")
            tellers[job].becomes(lives.WAITING, created)
        _take(tellers[job], state, at, row)
    return {job: teller.told(now) for job, teller in tellers.items()}


def _take(teller: Teller, state: str, at: float, row: Mapping[str, Any]) -> None:
    if cost := _cost(row.get("cost")):
        teller.cost(cost)
    if state == story.RUNNING:
        teller.becomes(lives.RUNNING, at, str(row.get("host", "")))
    elif state == story.HELD:
        teller.leaves(at, saved=False, state=lives.HELD)
    elif state == story.WAITING:
        teller.leaves(at, saved=False, state=lives.WAITING)
    else:
        teller.ends(at, f"status {row.get('status')}" if state == story.DONE else state, lost=state != story.DONE)


def _cost(told: object) -> Cost | None:
    if not isinstance(told, list) or len(told) != 3 or not all(isinstance(each, (int, float)) for each in told):
        return None
    return Cost(float(told[0]), float(told[1]), int(told[2]))
