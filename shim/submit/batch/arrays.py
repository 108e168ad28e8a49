"""Where the jobs of a batch get their places from Slurm: which task of which of its arrays is which job's. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

_ARRAY = re.compile(r"(\d{1,10}):([\d,-]*)")
_SPAN = re.compile(r"(\d{1,7})(?:-(\d{1,7}))?")


class Arrays:
    """The arrays that a batch was given to Slurm as. Task K of one is the K-th of its jobs; a job's last one counts."""

    def __init__(self, written: str = "") -> None:
        """Read what `written` has; what is none of it is passed over."""
        self._jobs = {int(found[1]): tuple(_jobs(found[2])) for found in _ARRAY.finditer(written)}

    def add(self, array: int, jobs: Iterable[int]) -> None:
        """Take note of one more."""
        self._jobs[array] = tuple(jobs)

    def keep(self, live: Collection[int]) -> None:
        """Forget those in which none of these has its task."""
        kept = {array for job, (array, _) in self.tasks().items() if job in live}
        self._jobs = {array: jobs for array, jobs in self._jobs.items() if array in kept}

    def tasks(self) -> dict[int, tuple[int, int]]:
        """Return which task of which array each job's is."""
        return {job: (array, task) for array, jobs in self._jobs.items() for task, job in enumerate(jobs)}

    def __str__(self) -> str:
        return " ".join(f"{array}:{_spans(jobs)}" for array, jobs in self._jobs.items())


def _jobs(spans: str) -> Iterator[int]:
    for found in map(_SPAN.fullmatch, spans.split(",")):
        if found is not None:
            yield from range(int(found[1]), int(found[2] or found[1]) + 1)


def _spans(jobs: tuple[int, ...]) -> str:
    spans: list[list[int]] = []
    for job in jobs:
        if spans and job == spans[-1][1] + 1:
            spans[-1][1] = job
        else:
            spans.append([job, job])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
