"""What has become of the jobs of a batch, as its journal tells it row by row. Pure.

A row is an object, with `at`, seconds since 1970, and one of
    job, is [host, status, why, cost, id, cluster, place]
                                  the job is in that state now; its run has cost (Ended.cost); its number in `rexec
                                  jobs`, and an engine's place, if it can be checkpointed; what its engine called it
                                  (Told.cluster)
    engine                        what the engine calls the batch
    ask, job [priority]           somebody asks that VERB be done to a job; null: to all
    priority, job                 a job, or all, has that priority now
    obeyed [why]                  what was asked in the first so many bytes of the journal is done; or why it is not
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

WAITING, RUNNING, HELD, DONE, FAILED, KILLED = STATES = ("waiting", "running", "held", "done", "failed", "killed")
FINAL = frozenset((DONE, FAILED, KILLED))
HOLD, RELEASE, KILL, VACATE, PRIORITY = VERBS = ("hold", "release", "kill", "vacate", "priority")
PAST = {
    HOLD: "held", RELEASE: "released", KILL: "killed", VACATE: "told to leave its place", PRIORITY: "has that priority",
}  # fmt: skip


class Item(NamedTuple):
    """What a job is: its state, on which host, the status with which it ended, why it is so, its cluster.

    place   that it was given last by an engine, if it can be checkpointed: what tells it from the others
    """

    state: str = WAITING
    host: str = ""
    status: int | None = None
    why: str = ""
    cluster: str = ""
    place: str = ""


class Order(NamedTuple):
    """What was asked: `verb` of VERBS, of a job or of all; `end`: where in the journal that stands; a `priority`."""

    verb: str
    job: int | None
    end: int
    priority: int = 0


def outcome(item: Item) -> str:
    """Return its state as a person sees it: what ended with another status than 0 has failed."""
    return FAILED if item.state == DONE and item.status else item.state


class Story:
    """A batch of `count` jobs. Only those of which something is told have an item."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.items: dict[int, Item] = {}
        self.engine = ""
        self.obeyed = 0
        self.why = ""  # what was asked last could not be done
        self.asked: list[Order] = []
        self.priority: int | None = None  # of all; None: as it was submitted
        self.priorities: dict[int, int] = {}  # of those that have another

    def item(self, job: int) -> Item:
        """Return what that job is."""
        return self.items.get(job, _NEW)

    def counts(self) -> Counter[str]:
        """Count the jobs in each state."""
        found = Counter(item.state for item in self.items.values())
        found[WAITING] += self.count - len(self.items)
        return found

    def outcomes(self) -> Counter[str]:
        """Count them as a person does: those that ended with another status than 0 are among the failed."""
        found = Counter(outcome(item) for item in self.items.values())
        found[WAITING] += self.count - len(self.items)
        return Counter({state: found[state] for state in (DONE, FAILED, KILLED, HELD, RUNNING, WAITING)})

    def sooner(self) -> list[int]:
        """List the jobs that go before the others, in their order."""
        own, most = self.priorities, self.priority or 0
        return sorted((job for job in own if own[job] > most), key=lambda job: -own[job])

    def live(self, first: int) -> list[int]:
        """List the jobs from the `first` on that have not ended."""
        return [job for job in range(first, self.count) if self.item(job).state not in FINAL]

    def over(self) -> bool:
        """Tell whether all jobs have ended."""
        return len(self.items) == self.count and all(item.state in FINAL for item in self.items.values())

    def take(self, row: Mapping[str, Any], end: int) -> None:
        """Take note of a row, which ends at that byte. What is no row of this version is passed over."""
        job = row.get("job")
        if row.get("is") in STATES and isinstance(job, int) and 0 <= job < self.count:
            host, why, cluster = (str(row.get(key, "")) for key in ("host", "why", "cluster"))
            status, place = row.get("status"), str(row.get("place", self.item(job).place))
            code = status if isinstance(status, int) else None
            self.items[job] = Item(row["is"], host, code, why, cluster, place)
        elif "engine" in row:
            self.engine = str(row["engine"])
        elif row.get("ask") in VERBS and (job is None or isinstance(job, int)):
            self.asked.append(Order(row["ask"], job, end, _number(row)))
        elif "priority" in row and job is None:
            self.priority, self.priorities = _number(row), {}
        elif "priority" in row and isinstance(job, int):
            self.priorities[job] = _number(row)
        elif isinstance(row.get("obeyed"), int):
            self.obeyed, self.why = row["obeyed"], str(row.get("why", ""))
            self.asked = [order for order in self.asked if order.end > self.obeyed]


_NEW = Item()


def _number(row: Mapping[str, Any]) -> int:
    found = row.get("priority", 0)
    return found if isinstance(found, int) else 0


def rows(data: bytes, begins: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Read the whole lines of a journal, of which `begins` bytes come before: each row and where it ends.

    A line that is none is what a power cut has left of one.
    """
    at = 0
    while (stop := data.find(b"\n", at)) >= 0:
        try:
            row = json.loads(data[at:stop])
        except ValueError:
            row = None
        at = stop + 1
        if isinstance(row, dict):
            yield row, begins + at


def told(count: int, data: bytes) -> Story:
    """Return the story that a journal tells."""
    story = Story(count)
    for row, end in rows(data):
        story.take(row, end)
    return story
