"""``rexec priority``, and what ``rexec jobs`` says of the runs that share the hosts of a desk."""

from __future__ import annotations

import click

from remoteio.errors import RexecError
from shim.cli import submit
from shim.submit.batch import record as batches
from shim.submit.desk.members import Members


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
