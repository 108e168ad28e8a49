"""``rexec report``, and the picture of ``rexec log --plot``: what became of jobs, from their logs."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from remoteio.errors import RexecError
from remoteio.printable import printable
from shim.cli.parameters import job_and_batch_ids
from shim.cli.say import shown, tell
from shim.submit import life_plot, lives
from shim.submit.batch import life as batch_life
from shim.submit.batch import record as batches
from shim.submit.batch import story
from shim.submit.job import life as job_life
from shim.submit.job import record
from shim.submit.job.events import read_events
from shim.submit.lives import Life, Sum
from shim.submit.units import size


@dataclass(frozen=True, slots=True)
class Told:
    """What is reported as one: a batch, one job of it, or a job with --checkpoint.

    jobs   how many are in each state
    """

    name: str
    command: tuple[str, ...]
    jobs: Mapping[str, int]
    lives: tuple[Life, ...]


def find(word: str, now: float) -> Told:
    """Read what became of the job or batch of that name. Raises RexecError."""
    if batches.named(word):
        directory, job = batches.find(word)
        return _batch(directory, job, now)
    return _job(record.find(word), now)


def every(now: float) -> list[Told]:
    """Read what became of all that is kept here; who cannot be read is told, and left out."""
    found = []
    for batch in batches.every():
        try:
            found.append(_batch(batch, None, now))
        except RexecError as error:
            tell(str(error))
    for job in record.every():
        try:
            found.append(_job(job, now))
        except RexecError as error:
            tell(str(error))
    return found


def _batch(directory: batches.Directory, job: int | None, now: float) -> Told:
    batch = directory.batch()
    rows = [row for row, _ in story.rows(directory.journal()) if job is None or row.get("job") == job]
    told = batch_life.told(directory.name, batch.created, rows, now)
    if job is None:
        return Told(directory.name, batch.command, +directory.story().outcomes(), tuple(told.values()))
    how = story.outcome(directory.story().item(job))
    return Told(f"{directory.name}.{job}", tuple(batch.words(job)), {how: 1}, tuple(told.values()))


def _job(job: record.Job, now: float) -> Told:
    found = job.read()
    told = job_life.life(f"job {job.id}", read_events(job.log)[0], now)
    return Told(str(job.id), found.command, {told.how if told.over else found.phase: 1}, (told,))


def plot(word: str, file: str) -> None:
    """Draw the life of one job into a file. Raises RexecError."""
    told = find(word, time.time())
    if batches.named(word) and "." not in word:
        raise RexecError(f"--plot draws one job: name one of the batch, such as {word}.0")
    if not told.lives or not told.lives[0].spans:
        raise RexecError(f"nothing has happened to job {word} yet: there is nothing to draw")
    try:
        Path(file).write_text(life_plot.draw(told.lives[0], shown(told.command)), encoding="utf-8")
    except OSError as error:
        raise RexecError(f"--plot {file}: {error.strerror}; name a file that you may write") from error


@click.command("report")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of tables.")
@click.argument("jobs", metavar="[BATCH|JOB]...", nargs=-1, shell_complete=job_and_batch_ids)
def report_command(jobs: tuple[str, ...], as_json: bool) -> None:
    """Sum up what jobs got and what they cost, by host: a batch (b7), one of its jobs (b7.3), a job with --checkpoint.

    Without a name, all that are kept here.

    \b
      JOBS     how many were there
      TAKEN    how often a job left before its end: vacated, held, its place
               taken away, its host lost
      RAN      hours that they had there, without those that they stood still
      FROZEN   hours that they stood still there, since the owner was back
      LOST     hours of RAN whose work was lost, since no image had it
      CPU      hours of processor time
      FILES    hours that they waited for files; several threads that waited at
               once are counted each
      BYTES    what went over the link for them

    CPU, FILES and BYTES are of those whose host has told so: it does with the end of a job, and with each image. With
    --json times are in seconds.

    \b
    Examples:
      rexec report b7
      rexec report 12 13 14
    """
    now = time.time()
    found = [find(word, now) for word in jobs] if jobs else every(now)
    if as_json:
        click.echo(json.dumps(as_data(found), indent=1))
    elif found:
        click.echo(text(found))
    else:
        tell("no jobs; `rexec submit CMD` and `rexec --checkpoint CMD` start some")


def as_data(found: Iterable[Told]) -> dict[str, Any]:
    """Turn it into what --json prints: seconds and bytes."""
    found = list(found)
    rows = lives.by_host(life for each in found for life in each.lives)
    told = [{"name": each.name, "command": list(each.command), "jobs": dict(each.jobs)} for each in found]
    return {"reported": told, "all": _data(rows[""]), "hosts": {host: _data(row) for host, row in rows.items() if host}}


def _data(row: Sum) -> dict[str, Any]:
    cost = {"cpu": row.cost.cpu, "waited": row.cost.waited, "bytes": row.cost.carried, "told": row.told}
    return {"jobs": row.jobs, "stays": row.stays, "taken": row.taken, "ran": round(row.ran, 3),
            "frozen": round(row.frozen, 3), "lost": round(row.lost, 3), **cost}  # fmt: skip


def text(found: list[Told]) -> str:
    """Write it for people: a line of each that is reported, up to twenty, then the table by host."""
    every = [life for each in found for life in each.lives]
    lines = [_line(each) for each in found[:_LINES]]
    if len(found) > _LINES:
        all_jobs: Counter[str] = sum((Counter(each.jobs) for each in found), Counter())
        lines.append(f"and {len(found) - _LINES} more; all: {_counted(all_jobs)}")
    rows = lives.by_host(every)
    if not rows[""].stays:
        return "\n".join([*lines, "none has run on a host yet"])
    begin, end = min(life.begin for life in every), max(life.end for life in every)
    lines.append(f"from {_clock(begin)} to {_clock(end)}")
    hosts = sorted((host for host in rows if host), key=lambda host: (-rows[host].ran, host))
    cells = [_HEADS, *(_cells(printable(host, 60), rows[host]) for host in hosts)]
    if len(hosts) > 1:
        cells.append(_cells("all", rows[""]))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines += ["", *("  ".join(_laid(line, widths)).rstrip() for line in cells)]
    if rows[""].told < rows[""].stays:
        lines.append(f"CPU, FILES and BYTES of {rows[''].told} of {rows[''].stays} stays on a host")
    return "\n".join(lines)


_LINES = 20
_HEADS = ("HOST", "JOBS", "TAKEN", "RAN", "FROZEN", "LOST", "CPU", "FILES", "BYTES")


def _laid(line: tuple[str, ...], widths: list[int]) -> Iterator[str]:
    yield line[0].ljust(widths[0])
    yield from map(str.rjust, line[1:], widths[1:])


def _cells(host: str, row: Sum) -> tuple[str, ...]:
    known = (_hours(row.cost.cpu), _hours(row.cost.waited), size(row.cost.carried)) if row.told else ("-", "-", "-")
    return host, str(row.jobs), str(row.taken), *map(_hours, (row.ran, row.frozen, row.lost)), *known


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return "0" if not seconds else f"{hours:.0f}" if hours >= 100 else f"{hours:.2f}" if hours >= 1 else f"{hours:.4f}"


def _line(told: Told) -> str:
    return f"{told.name}  {shown(told.command)}: {_counted(told.jobs)}"


def _counted(jobs: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in jobs.items() if count)


def _clock(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
