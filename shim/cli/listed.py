"""``rexec jobs``: the jobs with --checkpoint, the runs that share the hosts of a desk, and the batches.

Nothing is imported for it but what reads them: there may be ten thousand, and who lists them waits.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import click

from remoteio.errors import RexecError
from remoteio.printable import printable
from shim.cli import tables
from shim.cli.parameters import Alone
from shim.cli.say import tell, whole
from shim.submit.api.job_list import reports
from shim.submit.api.job_report import JobReport
from shim.submit.batch import record as batches
from shim.submit.batch import story
from shim.submit.desk.line import ordinal, waiting
from shim.submit.desk.members import Members
from shim.submit.job.record import JobError
from shim.submit.units import size, span

_RECENT = 24 * 3600.0  # seconds for which a job or batch that has ended is still listed


def as_data(report: JobReport, now: float) -> dict[str, Any]:
    """Turn a report into what `rexec jobs --json` prints: times in seconds, sizes in bytes."""
    image = report.image
    return {
        "id": report.id,
        "state": report.state,
        "host": report.host or None,
        "command": list(report.command),
        "directory": report.directory,
        "hosts": list(report.hosts),
        "owner": report.owner or None,
        "created": report.created,
        "run_time": round(report.run_time, 3),
        "checkpoint": None
        if image is None
        else {"image": image.number, "at": image.at, "age": round(now - image.at, 3), "bytes": image.size},
        "moves": report.moves,
        "movable": report.movable,
        "obstacle": report.obstacle or None,
        "generation": report.generation,
        "why": report.why or None,
        "out_of_touch": report.away or None,
        "detached": report.detached,
        "terminal": report.terminal,
    }


def table(rows: Sequence[dict[str, Any]], wide: int | None = None) -> str:
    """Write the jobs as a table, a line each of at most so many columns, and a further one for what a job waits for."""
    heads = ("ID", "STATE", "HOST", "RUN TIME", "CHECKPOINT", "MOVABLE", "MOVES", "COMMAND")
    lines = tables.lines([heads, *(_cells(row) for row in rows)], wide, ("MOVES", "MOVABLE"))
    out = [lines[0]]
    for line, row in zip(lines[1:], rows, strict=True):
        out.append(line)
        if row["why"]:
            out.append(f"      {printable(row['why'], None)}")
        if row["obstacle"]:
            out.append(f"      not movable: {printable(row['obstacle'], None)}")
    return "\n".join(out)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    saved = row["checkpoint"]
    last = "none" if saved is None else f"{span(saved['age'])} ago, {size(saved['bytes'])}"
    movable = {True: "yes", False: "no", None: "-"}[row["movable"]]
    words = (row["id"], row["state"], row["host"] or "-", span(row["run_time"]), last, movable, row["moves"])
    return (*(str(word) for word in words), whole(row["command"]))


@click.command("jobs", cls=Alone, instead="`rexec log {}` shows what happened to one job")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
@click.option("--all", "all_jobs", is_flag=True, help="Also those that ended more than a day ago.")
def jobs_command(as_json: bool, all_jobs: bool) -> None:
    """List the jobs started with --checkpoint: where each is, and what it waits for; and the runs of `--on any`.

    \b
    STATE is one of
      choosing, starting   a host is being looked for, or gone to
      running              it runs on HOST; the line below says if HOST is out of
                           touch, and since when
      frozen               HOST's owner is back: it stands still, and leaves if
                           the owner stays
      left, lost           it is between two hosts
      parked               no host will do just now; the line below says why;
                           tried again every 15 s
      held                 parked by `rexec hold`
      stopped              its supervisor is gone: `rexec resume` and `rexec
                           attach` have it go on
      done, exit N, signal N, failed    it has ended

    Runs with --on any, or with several hosts, have a table of their own: where each is, or its place in the line; in
    JSON they have `run`, a number, and no `id`.

    RUN TIME counts the time on hosts only. CHECKPOINT is the age and size of its last image. MOVABLE says whether such
    an image was restored, as a test (--rehearse) or in a move: yes, no - the line below says why - or not known.
    """
    now = time.time()
    rows = []
    for each in reports(0.0 if all_jobs else now - _RECENT):
        if isinstance(each, JobError):
            tell(str(each))  # the others are there all the same
        else:
            rows.append(as_data(_as_batches_have_it(each), now))
    runs, many = _runs(), _batches()
    if as_json:
        click.echo(json.dumps([*rows, *runs, *many], indent=1))
    elif rows or runs or many:
        wide = tables.room()
        listed = ((table, rows), (_runs_table, runs), (_batches_table, many))
        click.echo("\n\n".join(write(found, wide) for write, found in listed if found))
    else:
        click.echo("rexec: no jobs; `rexec --checkpoint CMD` starts one", err=True)


def _as_batches_have_it(report: JobReport) -> JobReport:
    """Say of a job of a batch that waits for another place that it does: on its own record it is held meanwhile."""
    if report.state == "held" and report.batch:
        with suppress(RexecError):  # its batch is gone, or cannot be read
            directory, job = batches.find(report.batch)
            if job is not None and directory.story().item(job).state == story.WAITING:
                return replace(report, state="parked", why="it waits for another place")
    return report


def _runs() -> list[dict[str, Any]]:
    """List the runs that have slots of a desk, then those that wait for some, in their order. Raises RexecError."""
    members = Members().all()
    line = waiting(members)
    running = sorted((each for each in members if each.host), key=lambda member: member.number)
    return [
        {
            "run": each.number,
            "job": each.job or None,
            "state": "running" if each.host else f"waiting, {ordinal(place)} in line",
            "host": each.host or None,
            "cpus": each.slots,
            "memory": each.memory,
            "priority": each.priority,
            "command": list(each.command),
        }
        for place, each in enumerate([*running, *line], 1 - len(running))
    ]


def _runs_table(found: Sequence[dict[str, Any]], wide: int | None) -> str:
    """Write such rows as a table."""
    cells = [("RUN", "STATE", "HOST", "CPUS", "PRIORITY", "COMMAND")]
    cells += [
        (
            str(row["run"]),
            row["state"],
            row["host"] or "-",
            str(row["cpus"]),
            str(row["priority"]),
            f"job {row['job']}: {whole(row['command'])}" if row["job"] else whole(row["command"]),
        )
        for row in found
    ]
    return "\n".join(tables.lines(cells, wide, ("PRIORITY", "CPUS")))


def _batches() -> list[dict[str, Any]]:
    """List the batches that have jobs left, or ended of late. Raises RexecError."""
    found = []
    for directory in batches.every():
        try:
            batch, told = directory.batch(), directory.story()
        except RexecError as error:
            tell(str(error))  # the others are there all the same
            continue
        ended = told.over()
        if ended and time.time() - os.stat(directory.path / "journal").st_mtime > _RECENT:
            continue
        counts = told.counts()
        found.append(
            {
                "batch": directory.name,
                "engine": batch.engine,
                "state": "ended" if ended else "supervised" if directory.supervised() else "stopped",
                **{state: counts[state] for state in story.STATES},
                "unsuccessful": sum(bool(item.status) for item in told.items.values()),
                "successful": told.outcomes()[story.DONE],
                "command": list(batch.command),
            }
        )
    return found


def _batches_table(found: Sequence[dict[str, Any]], wide: int | None) -> str:
    """Write such rows as a table."""
    heads = ("BATCH", "ENGINE", "STATE", "WAITING", "RUNNING", "HELD", "DONE", "FAILED", "KILLED", "COMMAND")
    cells = [heads]
    for row in found:
        good = row["successful"]
        seen = {**row, story.DONE: good, story.FAILED: row[story.FAILED] + row[story.DONE] - good}
        numbers = (str(seen[state]) for state in story.STATES)
        cells.append((row["batch"], row["engine"], row["state"], *numbers, whole(row["command"])))
    return "\n".join(tables.lines(cells, wide, ("ENGINE", "KILLED")))
