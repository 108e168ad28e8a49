"""What ``rexec watch`` shows: how many jobs of each batch, or of each program, are in which state, as they change.

Looked at each second for as long as somebody watches: so of each journal only what has been added is read, and of each
job's record only what has changed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from remoteio.errors import RexecError
from shim.submit import lives
from shim.submit.api.job_report import state as word_of
from shim.submit.batch import record as batches
from shim.submit.batch import story
from shim.submit.batch.story import Story
from shim.submit.desk.members import Members
from shim.submit.job import record
from shim.submit.job.phase import Phase
from shim.submit.job.record import Record

DONE, FAILED = "done", "failed"
STATES = (lives.WAITING, lives.RUNNING, lives.FROZEN, lives.MOVING, lives.HELD, DONE, FAILED)
ENDED = frozenset((DONE, FAILED))


@dataclass(slots=True)
class Group:
    """Jobs that have a line of their own.

    name     a batch's, or that of a program
    command  of one of them
    states   how many are in each of STATES; done: with status 0; failed: all others that have ended
    hosts    how many are on each host
    note     what somebody has to do about it
    """

    name: str
    command: tuple[str, ...]
    states: Counter[str] = field(default_factory=Counter)
    hosts: Counter[str] = field(default_factory=Counter)
    note: str = ""

    @property
    def count(self) -> int:
        """How many they are."""
        return self.states.total()

    @property
    def over(self) -> bool:
        """Whether all have ended."""
        return not self.states.keys() - ENDED

    def add(self, state: str, host: str, number: int = 1) -> None:
        """Count jobs in that state, on that host if they are on one."""
        self.states[state] += number
        if host and state in lives.ON_HOST:
            self.hosts[host] += number


class _Batch:
    """A batch, and how far its journal has been read."""

    def __init__(self, directory: batches.Directory) -> None:
        batch = directory.batch()
        self._directory, self._command = directory, batch.command
        self._story, self._read = Story(batch.count), 0
        self._group: Group | None = None

    def look(self) -> Group:
        with open(self._directory.path / "journal", "rb") as journal:
            journal.seek(self._read)
            data = journal.read()
        if data or self._group is None:
            for row, end in story.rows(data, self._read):
                self._story.take(row, end)
            self._read += data.rfind(b"\n") + 1
            self._group = self._counted()
        group = self._group
        stopped = not group.over and not self._directory.supervised()
        group.note = f"its supervisor is gone: `rexec resume {group.name}`" if stopped else ""
        return group

    def _counted(self) -> Group:
        group = Group(self._directory.name, self._command)
        for item in self._story.items.values():
            group.add(_of_batch(item), item.host)
        if unheard := self._story.count - len(self._story.items):
            group.add(lives.WAITING, "", unheard)
        return group


class Watched:
    """All that is watched: what `words` name, or all that had not ended when it was first looked at, and what is new
    since. Raises RexecError."""

    def __init__(self, words: Iterable[str] = ()) -> None:
        self._batches: dict[int, _Batch] = {}
        self._jobs: dict[int, tuple[int, Record]] = {}
        self._passed: set[str] = set()  # had ended before, or cannot be read
        self._names = [batches.find(word)[0].name if batches.named(word) else str(record.find(word).id)
                       for word in words]  # fmt: skip
        self._first = True

    def look(self) -> list[Group]:
        """Return how things stand now."""
        groups = [*self._look_at_batches(), *self._look_at_jobs(), *([] if self._names else _runs())]
        self._first = False
        return groups

    def _wants(self, name: str) -> bool:
        return name in self._names if self._names else name not in self._passed

    def _look_at_batches(self) -> Iterator[Group]:
        for directory in batches.every():
            if not self._wants(directory.name):
                continue
            try:
                known = self._batches.get(directory.number) or _Batch(directory)
                group = known.look()
            except (RexecError, OSError):
                self._passed.add(directory.name)  # `rexec jobs` says what it has
                continue
            if group.over and self._first and not self._names:
                self._passed.add(group.name)
                continue
            self._batches[directory.number] = known
            yield group

    def _look_at_jobs(self) -> Iterable[Group]:
        groups: dict[str, Group] = {}
        for job in record.every():
            if not self._wants(str(job.id)):
                continue
            try:
                found = self._record(job)
            except (RexecError, OSError):
                self._passed.add(str(job.id))
                continue
            if found.phase == Phase.ENDED and self._first and not self._names:
                self._passed.add(str(job.id))
                continue
            if not self._names and self._counts(found.batch):
                continue
            state = _of_job(found, found.phase == Phase.ENDED or job.supervised())
            name = _name(found.command) if not self._names else str(job.id)
            groups.setdefault(name, Group(name, found.command)).add(state, found.host)
        return groups.values()

    def _counts(self, name: str) -> bool:
        """Tell whether a job is of a batch that has a line: it is one of those that are counted there."""
        return name.partition(".")[0] in {f"b{number}" for number in self._batches}

    def _record(self, job: record.Job) -> Record:
        changed = os.stat(job.path / "job.json").st_mtime_ns
        known = self._jobs.get(job.id)
        if known is None or known[0] != changed:
            known = self._jobs[job.id] = changed, job.read()
        return known[1]


def _of_batch(item: story.Item) -> str:
    if item.state == story.DONE:
        return DONE if item.status == 0 else FAILED
    return FAILED if item.state in story.FINAL else item.state


def _of_job(found: Record, supervised: bool) -> str:
    word = word_of(found, supervised)
    if found.phase == Phase.ENDED:
        return DONE if word == "done" else FAILED
    if word in (Phase.RUNNING, Phase.FROZEN):
        return str(word)
    if word in ("held", "stopped"):
        return lives.HELD
    if word == Phase.PARKED or not (found.ran or found.image):
        return lives.WAITING
    return lives.MOVING


def _runs() -> Iterable[Group]:
    """Count the runs of `--on any` that are of no batch and no job's; who has ended is no more among them."""
    groups: dict[str, Group] = {}
    supervisors: dict[str, bool] = {}
    for member in Members().all():
        if member.group not in supervisors:
            supervisors[member.group] = _supervises(member.group)
        if not (member.job or supervisors[member.group]):
            name = _name(member.command)
            group = groups.setdefault(name, Group(name, member.command))
            group.add(lives.RUNNING if member.host else lives.WAITING, member.host)
    return groups.values()


def _supervises(session: str) -> bool:
    """Tell whether the leader of a session supervises a batch: its runs are counted there."""
    try:
        return b"shim.submit.batch.process" in Path("/proc", session, "cmdline").read_bytes()
    except OSError:
        return False


def _name(command: tuple[str, ...]) -> str:
    return os.path.basename(command[0]) if command else "?"
