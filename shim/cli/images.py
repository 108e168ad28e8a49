"""``rexec images``: the images of jobs, listed, verified, removed."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from checkpoint.submit.store import ListedImage, Store
from remoteio.errors import RexecError
from remoteio.submit.undo.moments import Moments, since
from shim.cli import completion, tables
from shim.cli.parameters import image_argument, jobs_argument
from shim.cli.say import whole
from shim.submit.job import pins, record, undo_home
from shim.submit.job.image_intake import images_left
from shim.submit.job.phase import Phase
from shim.submit.units import size


class _Group(click.Group):
    """`rexec images 7` is `rexec images list 7`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if ctx.resilient_parsing and not args:
            return super().parse_args(ctx, args)  # a shell asks what could follow
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["list", *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[Any]]:
        return [*super().shell_complete(ctx, incomplete), *completion.jobs(incomplete)]


@click.group("images", cls=_Group)
def images_command() -> None:
    """The images of jobs, kept below $XDG_STATE_HOME/rexec/images (~/.local/state/rexec/images).

    \b
    rexec images [JOB] [--json]     list them
    rexec images verify [JOB]       read every bit and say what is damaged
    rexec images rm JOB[/IMAGE]     remove one, or all of a job
    rexec images prune [JOB] [--keep N]    remove all but the last N of each job
    """


@images_command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
@jobs_argument
def list_command(job: str | None, as_json: bool) -> None:
    """List the images of JOB, or of all jobs. `rexec restart JOB/IMAGE` goes on from one.

    FILES: whether what the job did to its files since that image can be undone, so that they go back with it.
    PINNED: how much is kept of programs, libraries and data that it has open, should they be replaced.
    """
    store = Store()
    names = _names(store, job)
    rows = [_as_data(kept, moments) for name in names for moments in [_moments(name)] for kept in store.images(name)]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    elif not rows:
        click.echo("rexec: no images; `rexec checkpoint JOB` makes one", err=True)
    else:
        click.echo(_table(rows, tables.room()))


def _table(rows: Sequence[dict[str, Any]], wide: int | None) -> str:
    cells: list[tuple[str, ...]] = [("IMAGE", "MADE", "HOST", "SIZE", "FILES", "PINNED", "COMMAND")]
    for row in rows:
        made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["at"])) if row["at"] else "-"
        files = "go back" if row["files"] else "stay"
        what = row["damage"] or whole(row["command"])
        sizes = size(row["bytes"]), files, size(row["pinned"])
        cells.append((row["image"], made, row["host"] or "-", *sizes, what))
    return "\n".join(tables.lines(cells, wide, ("PINNED", "FILES"), right=("SIZE", "PINNED")))


def _as_data(kept: ListedImage, moments: Moments) -> dict[str, Any]:
    manifest = kept.manifest
    return {
        "image": f"{kept.job}/{kept.number}",
        "job": kept.job,
        "number": kept.number,
        "at": None if manifest is None else manifest.time_ns / 1e9,
        "host": None if manifest is None else manifest.host,
        "generation": None if manifest is None else manifest.generation,
        "files": since(moments, kept.number) is not None,
        "pinned": sum(pin.size for pin in pins.rows(record.home() / kept.job, kept.number)),
        "bytes": 0 if manifest is None else manifest.size,
        "command": [] if manifest is None else list(manifest.argv),
        "damage": kept.damage,
    }


@images_command.command("verify")
@jobs_argument
def verify_command(job: str | None) -> None:
    """Read every bit of the images of JOB, or of all; what is damaged is said, and the exit status is 1."""
    store = Store()
    damages = 0
    for name in _names(store, job):
        found = store.verify(name)
        damages += len(found)
        for damage in found:
            click.echo(damage)
        if not found:
            number = len(store.images(name))
            click.echo(f"job {name}: {number} {'image is' if number == 1 else 'images are'} whole")
    if damages:
        raise click.exceptions.Exit(1)


@images_command.command("rm")
@image_argument
def rm_command(image: str) -> None:
    """Remove one image, or all of JOB; of a job that has ended its log too."""
    name, _, number = image.partition("/")
    if number and not number.isdigit():
        raise RexecError(f"{number!r:.80} is no image's number: see `rexec images {name}`")
    store = Store()
    known = [job for job in record.every() if str(job.id) == name]
    if not number and known and known[0].supervised():
        raise RexecError(f"job {name} is alive, and may need its images: `rexec kill {name}` first, or name one image")
    if number or name in store.jobs() or not known:
        store.rm(name, int(number) if number else None)
    if not number and known:
        known[0].remove()
    pins.remove(record.home() / name, [int(number)] if number else [])


@images_command.command("prune")
@click.option(
    "--keep", metavar="N", type=click.IntRange(1), default=2, show_default=True, help="Images left of each job."
)
@jobs_argument
def prune_command(job: str | None, keep: int) -> None:
    """Remove all but the last N images of JOB, or of every job, and what only they needed.

    Of a job that has not ended, the image that a host has restored last stays, too; if none was, the last two.
    """
    store = Store()
    for name in _names(store, job):
        pruned = store.prune(name, *_left(name, keep))
        pins.remove(record.home() / name, pruned.images)
        images = "1 image" if len(pruned.images) == 1 else f"{len(pruned.images)} images"
        click.echo(f"job {name}: {images} removed, {size(pruned.freed)} freed")


def _moments(job: str) -> Moments:
    return undo_home.known(record.home() / job)


def _left(name: str, keep: int) -> tuple[int, int]:
    """How many of a job's newest images stay, and which one beside them."""
    try:
        job = record.find(name).read()
    except record.JobError:
        return keep, 0  # its images are all that is left of it
    return (keep, 0) if job.phase == Phase.ENDED else (images_left(keep, job.restored), job.restored)


def _names(store: Store, job: str | None) -> list[str]:
    return store.jobs() if job is None else [job]
