"""``rexec priority``, and what ``rexec jobs`` says of the runs that share the hosts of a desk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from remoteio.errors import RexecError
from shim.cli import submit
from shim.cli.say import shown
from shim.submit.batch import record as batches
from shim.submit.desk.line import waiting
from shim.submit.desk.members import Members
from shim.submit.desk.place import ordinal


def rows() -> list[dict[str, Any]]:
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


def table(found: Sequence[dict[str, Any]]) -> str:
    """Write such rows as a table."""
    cells = [("RUN", "STATE", "HOST", "CPUS", "PRIORITY", "COMMAND")]
    cells += [
        (
            str(row["run"]),
            row["state"],
            row["host"] or "-",
            str(row["cpus"]),
            str(row["priority"]),
            f"job {row['job']}: {shown(row['command'])}" if row["job"] else shown(row["command"]),
        )
        for row in found
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


@click.command("priority", context_settings={"ignore_unknown_options": True})
@click.argument("run", metavar="RUN")
@click.argument("priority", metavar="N", type=int)
def priority_command(run: str, priority: int) -> None:
    """Give RUN, which waits for a slot, another place in the line: higher is sooner.

    RUN is the number of a run that `rexec jobs` shows, a batch such as b7, or a job of one, b7.3; whose engine decides
    what it makes of that. What was not said with --priority has 0.

    \b
    Examples:
      rexec priority 17 5
      rexec priority b7 -1
    """
    if batches.named(run):
        submit.act("priority", run, priority=priority)
        return
    if not run.isdecimal():
        raise RexecError(f"{run!r:.80} is no run: see `rexec jobs`")
    for member in (found := Members().set_priority(lambda member: member.number == int(run), priority)):
        if member.host:
            click.echo(f"run {run} is on {member.host} already")
    if not found:
        raise RexecError(f"there is no run {run}: see `rexec jobs`")
