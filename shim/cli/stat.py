"""``rexec stat``: what a job that runs has cost so far, and on what it waits."""

from __future__ import annotations

import json
from typing import Any

import click

from remoteio.printable import printable
from shim.cli.parameters import job_argument
from shim.submit.api.errors import RequestRefused
from shim.submit.api.job_handle import must_live
from shim.submit.job import control_socket, record
from shim.submit.units import size


def table(job: int, host: str, cost: dict[str, Any]) -> str:
    """Write what the job has cost on that host as a table, from the longest wait down."""
    kinds = sorted(cost["waits"].items(), key=lambda item: (-item[1]["seconds"], item[0]))
    cells = [("FOR", "ROUND TRIPS", "WAITED", "BYTES")]
    cells += [(kind, str(row["trips"]), f"{row['seconds']:.1f} s", size(row["bytes"])) for kind, row in kinds]
    cells.append(("all", str(cost["trips"]), f"{cost['waited']:.1f} s", size(sum(row["bytes"] for _, row in kinds))))
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    ahead = cost["ahead"]
    used = f"{ahead['right']} of {ahead['guessed']} files and listings of it used"
    return "\n".join(
        [
            f"job {job} on {printable(host, 255)}: {cost['cpu']:.1f} s of processor time",
            *lines,
            f"saved: {cost['saved']} round trips; came ahead: {size(ahead['bytes'])}, {used}",
        ]
    )


@click.command("stat")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of a table.")
@job_argument
def stat_command(job: str, as_json: bool) -> None:
    """Show what JOB has cost so far on the host where it runs, and on what of its files it waits.

    \b
    FOR is what it asked this machine for:
      names        names in directories, and what is in directories
      attributes   sizes, modes, times and the like
      contents     what is in files
      changes      all that it changed
      locks        file locks, for as long as another had them

    What several threads waited for at once is counted for each. Round trips that were saved are questions that were
    answered there, from what was known. With --json times are in seconds and sizes in bytes.
    """
    found = record.find(job)
    must_live(found)
    for answer in control_socket.ask(found.control, do="stat"):
        if answer.get("done") is not True:
            raise RequestRefused(f"job {found.id}: {answer.get('text', '')}")
        host, cost = str(answer["host"]), answer["cost"]
        assert isinstance(cost, dict)
        click.echo(json.dumps({"id": found.id, "host": host, **cost}) if as_json else table(found.id, host, cost))
