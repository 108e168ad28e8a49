"""A batch on the disk: `$XDG_STATE_HOME/rexec/batches/N/` (mode 0700), N a whole number.

batch.json   Batch: what was asked for; never changed
journal      what has become of it (story.py): only ever added to
lock         held by its supervisor, by flock(2), as long as that lives
errors       what the supervisor had to say
run-K        what the run of job K says of itself (--json-log), while it runs
agent-K      how the host of job K's run is asked to end it, while it runs (left.py)
condor.*     what HTCondor is told, and its event log
slurm.sh     what Slurm is told
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from checkpoint.durable import sync_directory
from checkpoint.submit import xdg
from remoteio.errors import RexecError
from shim.submit.batch import story
from shim.submit.batch.story import Story
from shim.submit.shapes import ShapeError, flag, listed, one_of, string, table, whole

LOCAL, CONDOR, SLURM = ENGINES = ("local", "condor", "slurm")
MOST_JOBS = 1_000_000
KEPT = 30 * 24 * 3600.0
"""Seconds for which a batch that has ended can be asked about: what is older goes as the next one is made."""

_ASKED, _NEW = "batch.json", "batch.json.new"
_NAME = re.compile(r"b(\d{1,9})(?:\.(\d{1,7}))?")


@dataclass(frozen=True, slots=True)
class Batch:
    """What was asked for.

    command    {} in a word stands for the job's number, or its line
    lines      of --each; empty: the jobs are numbered
    on         what `--on` gave, for the desk
    options    further words for each run's command line
    out, err   where a job's output goes; {} is its number
    environ    NAME=VALUE each
    moves      its jobs can be checkpointed
    dag        the file that DAGMan was given, in `directory`: each line is a shell's command then
    names      of its nodes
    """

    command: tuple[str, ...]
    count: int
    lines: tuple[str, ...]
    engine: str
    on: str
    options: tuple[str, ...]
    out: str
    err: str
    directory: str
    environ: tuple[str, ...]
    umask: int
    created: float
    moves: bool = False
    dag: str = ""
    names: tuple[str, ...] = ()

    def outputs(self, job: int) -> tuple[str, str]:
        """Return where the output of one of the jobs goes, and its standard error."""
        name = self.names[job] if self.names else str(job)
        out, err = (os.path.join(self.directory, each.replace("{}", name)) for each in (self.out, self.err))
        return out, err

    def words(self, job: int) -> list[str]:
        """Return the command of one of the jobs."""
        if self.dag:
            return ["sh", "-c", self.lines[job]]
        given = self.lines[job] if self.lines else str(job)
        return [word.replace("{}", given) for word in self.command]


_TEXTS = listed(string, MOST_JOBS)
_SHAPE = table(
    {
        "command": listed(string, MOST_JOBS, 1), "count": whole(1, MOST_JOBS), "lines": _TEXTS,
        "engine": one_of(*ENGINES), "on": string, "options": _TEXTS, "out": string, "err": string,
        "directory": string, "environ": _TEXTS, "umask": whole(0, 0o777), "created": lambda value, _: value,
    },
    {"moves": flag, "dag": string, "names": _TEXTS},
)  # fmt: skip


class Directory:
    """The directory of one batch. Raises RexecError where it cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = int(path.name)

    @property
    def name(self) -> str:
        """What people call it."""
        return f"b{self.number}"

    def batch(self) -> Batch:
        """Read what was asked for. Raises RexecError."""
        try:
            found: dict[str, Any] = _SHAPE(json.loads((self.path / _ASKED).read_bytes()), _ASKED)
        except (OSError, ValueError, ShapeError) as e:
            raise RexecError(f"batch {self.name} cannot be read: {e}; remove {self.path} if it is of no use") from e
        values: dict[str, Any] = {key: tuple(each) if isinstance(each, list) else each for key, each in found.items()}
        return Batch(**values)

    def journal(self) -> bytes:
        """Read the journal as it is now."""
        return (self.path / "journal").read_bytes()

    def story(self) -> Story:
        """Return what has become of it. Raises RexecError."""
        return story.told(self.batch().count, self.journal())

    def add(self, *rows: Mapping[str, Any]) -> int:
        """Write rows that outlive a power cut, in one piece; returns where they end."""
        fd = os.open(self.path / "journal", os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            torn = b"\n" if size and os.pread(fd, 1, size - 1) != b"\n" else b""
            at = {"at": round(time.time(), 3)}
            data = torn + b"".join(json.dumps({**at, **row}).encode() + b"\n" for row in rows)
            while data:
                data = data[os.write(fd, data) :]
            os.fdatasync(fd)
            return os.lseek(fd, 0, os.SEEK_CUR)
        finally:
            os.close(fd)

    def lock(self) -> int:
        """Become its supervisor, until the descriptor is closed that this returns; -1: another process is."""
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return -1
        return fd

    def supervised(self) -> bool:
        """Tell whether a supervisor lives."""
        fd = self.lock()
        if fd >= 0:
            os.close(fd)
        return fd < 0


def _all() -> Path:
    return xdg.state() / "batches"


def every() -> Iterator[Directory]:
    """List the batches, by number."""
    for number in _numbers():
        if (_all() / str(number) / _ASKED).exists():  # else it is being made
            yield Directory(_all() / str(number))


def _numbers() -> list[int]:
    """List the numbers that are taken."""
    try:
        return sorted(int(name) for name in os.listdir(_all()) if name.isdigit())
    except FileNotFoundError:
        return []


def named(word: str) -> bool:
    """Tell whether a word on a command line is a batch's name (b7), or that of a job of one (b7.3)."""
    return _NAME.fullmatch(word) is not None


def find(word: str) -> tuple[Directory, int | None]:
    """Find the batch, and the job of it, that a name means. Raises RexecError."""
    name = _NAME.fullmatch(word)
    if name is None:
        raise RexecError(f"{word!r:.80} names no batch: see `rexec jobs`")
    found = Directory(_all() / str(int(name[1])))
    if not (found.path / _ASKED).exists():
        raise RexecError(f"there is no batch {found.name}: see `rexec jobs`")
    job = None if name[2] is None else int(name[2])
    if job is not None and job >= (count := found.batch().count):
        raise RexecError(f"batch {found.name} has no job {job}: they are 0 to {count - 1}")
    return found, job


def outputs(name: str) -> tuple[str, ...]:
    """Return where the output of a job that is called so goes. Raises RexecError."""
    directory, job = find(name)
    return () if job is None else directory.batch().outputs(job)


def number(word: str) -> str:
    """Return what a job of a batch is called in `rexec jobs`, which those with --checkpoint are. Raises RexecError."""
    directory, job = find(word)
    if job is None:
        raise RexecError(f"{word} is a batch of many jobs: name one of them, such as {word}.0")
    if not directory.batch().moves:
        out = directory.batch().outputs(job)[0]
        raise RexecError(f"{word} is without --checkpoint: it runs from start to end, and what it says is in {out}")
    if (state := directory.story().item(job).state) in story.FINAL:
        raise RexecError(f"{word} is {state}: see `rexec log {word}`")
    rows = (row for row, _ in story.rows(directory.journal()) if row.get("job") == job)
    numbers = [str(row["id"]) for row in rows if "id" in row]
    if not numbers:
        raise RexecError(f"{word} has not begun: see `rexec jobs`")
    return numbers[-1]


def create(batch: Batch) -> Directory:
    """Put a new batch on the disk. Raises RexecError."""
    try:
        xdg.make(_all())
        number = max(_numbers(), default=0)
        while True:
            number += 1
            path = _all() / str(number)
            try:
                path.mkdir(0o700)
                break
            except FileExistsError:
                continue  # another has just taken it
        out, err = (each.replace("{batch}", f"b{number}") for each in (batch.out, batch.err))
        batch = replace(batch, out=out, err=err)
        for name, data in (("journal", b""), (_NEW, json.dumps(asdict(batch)).encode())):
            fd = os.open(path / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
        os.rename(path / _NEW, path / _ASKED)  # from now on it is a batch, to whoever looks
        sync_directory(path)
        sync_directory(_all())
        _forget(time.time() - KEPT)
    except (OSError, RuntimeError) as e:
        raise RexecError(f"the batch cannot be put on record: {e}; make room there") from e
    return Directory(path)


def _forget(before: float) -> None:
    """Remove the batches that ended before then; the newest is there, so no number is given again. Raises OSError."""
    for directory in every():
        if os.stat(directory.path / "journal").st_mtime < before and _ended(directory):
            shutil.rmtree(directory.path)


def _ended(directory: Directory) -> bool:
    try:
        return directory.story().over() and not directory.supervised()
    except RexecError:
        return False  # what cannot be read is not taken for one that has ended
