"""``rexec jobs``, ``checkpoint``, ``vacate``, ``hold``, ``release``, ``kill``, ``restart`` and ``log``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import click

from remoteio.errors import RexecError
from remoteio.printable import printable
from shim.cli import report, submit
from shim.cli.parameters import host_names, image_argument, job_argument, job_or_batch_argument
from shim.submit.api.job_handle import Job, Progress
from shim.submit.api.job_handle import job as find
from shim.submit.batch import record as batches
from shim.submit.foreground.progress import Progress as ProgressLine
from shim.submit.foreground.progress import Waiting
from shim.submit.job import record
from shim.submit.job.events import Event, condor_log
from shim.submit.units import size


def told(job: Job, ask: Callable[[Progress], str]) -> None:
    """Have a job's supervisor do something, showing how far it is, and say what it answers. Raises RexecError."""
    line = ProgressLine(sys.stderr, "saving the job")
    with Waiting(f"waiting for job {job.id}") as waiting:

        def update(done: int, total: int, sent: int) -> None:
            waiting.close()
            line.update(done, total, sent)

        try:
            answer = ask(update)
        finally:
            line.close()
    click.echo(f"job {job.id}: {answer}")


@click.command("checkpoint")
@job_argument
def checkpoint_command(job: str) -> None:
    """Save JOB as an image now; it goes on running.

    It stands still only while its memory is copied on its own host. When the command ends, the image is committed:
    whatever happens, the job can go on from it.
    """
    found = find(job)
    told(found, found.checkpoint)


@click.command("vacate")
@click.option(
    "--to",
    "host",
    metavar="HOST",
    default="",
    shell_complete=host_names,
    help="Where it is to go; by default, where its --on lets it.",
)
@job_or_batch_argument
def vacate_command(job: str, host: str) -> None:
    """Have JOB leave its host now and go on elsewhere; the command ends when it runs again, or waits for a host.

    Until its image is committed here, nothing of it is given up: if that fails, it goes on where it is. A HOST that
    neither hosts.toml nor the job's --on names is asked first; where no job can run there, the job stays.
    """
    if batches.named(job):
        if host:
            raise RexecError("--to is for a job with --checkpoint: who gives a batch its places chooses them")
        submit.act("vacate", job)
        return
    found = find(job)
    told(found, lambda progress: found.vacate(host or None, progress))


@click.command("hold")
@job_or_batch_argument
def hold_command(job: str) -> None:
    """Save JOB as an image and park it until `rexec release`."""
    if batches.named(job):
        submit.act("hold", job)
        return
    found = find(job)
    told(found, found.hold)


@click.command("release")
@job_or_batch_argument
def release_command(job: str) -> None:
    """Let a held JOB go on; a parked one looks for a host at once."""
    if batches.named(job):
        submit.act("release", job)
        return
    found = find(job)
    told(found, lambda progress: found.release())


@click.command("kill")
@job_or_batch_argument
def kill_command(job: str) -> None:
    """Kill JOB, wherever it is, also one that is stopped. Its images stay until `rexec images rm`."""
    if batches.named(job):
        submit.act("kill", job)
        return
    found = find(job)
    told(found, lambda progress: found.kill())


@click.command("restart")
@click.option(
    "--on",
    metavar="HOST,…|any",
    shell_complete=host_names,
    help="Where it may run from now on; by default as before.",
)
@click.option("--detach/--no-detach", default=None, help="In the background or not; by default as before.")
@click.option(
    "--force",
    is_flag=True,
    help="Go on even though files have been changed since in a way that cannot be undone; they are copied first.",
)
@click.option("-q", "quiet", is_flag=True, help="Say nothing but why rexec itself failed.")
@image_argument
def restart_command(image: str, on: str | None, detach: bool | None, force: bool, quiet: bool) -> None:
    """Go on with JOB from its latest image, or from IMAGE, a number that `rexec images JOB` shows.

    For a job whose supervisor is gone, because this machine was switched off for example, that has ended, or that is
    parked. What the job has done to its files since the image is undone, unless it was started with --files keep, and
    nothing that others did; of what both have changed both stay, and rexec names them. Where something cannot be
    undone rexec says so and stops, unless --force.

    \b
    Examples:
      rexec restart 7
      rexec restart 7/3 --on beta
    """
    from shim.cli import checkpoint

    word, _, number = image.partition("/")
    if number and not number.isdigit():
        raise RexecError(f"{number!r:.80} is no image's number: see `rexec images {word}`")
    directory = record.find(word)
    job = Job(directory)
    if not number and on is None and directory.supervised() and job.state in ("parked", "held"):
        told(job, lambda progress: job.release(force=force))
        return
    sys.exit(
        checkpoint.restart(directory, int(number) if number else None, on, detach=detach, force=force, quiet=quiet)
    )


@click.command("log")
@click.option("--follow", is_flag=True, help="Go on until the job has ended.")
@click.option("--json", "as_json", is_flag=True, help="Print the log as it is kept: JSON, one event a line.")
@click.option("--condor", is_flag=True, help="Print it as an HTCondor job event log.")
@click.option("--plot", metavar="FILE", help="Draw its life as an SVG picture into FILE instead.")
@job_or_batch_argument
def log_command(job: str, follow: bool, as_json: bool, condor: bool, plot: str | None) -> None:
    """Show what happened to JOB.

    With --condor the output is an HTCondor job event log (000 submit, 001 execute, 003 checkpointed, …), for tools that
    read one. --plot draws on which host it was and when it ran, stood still, moved and waited, its images, what was
    lost, and what of its time on a host was computed and what was waited for files.

    \b
    Example:
      rexec log 7 --plot life.svg
    """
    if plot is not None:
        report.plot(job, plot)
        return
    if batches.named(job):
        submit.log(job, as_json)
        return
    found = find(job)
    for event in found.events(follow=follow):
        text = event.to_json() if as_json else condor_log([event], found.id) if condor else line(event)
        click.echo(text.rstrip("\n"))


def line(event: Event) -> str:
    """Write an event as a line for people."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at))
    said = [
        event.command,
        event.reason,
        f"image {event.image}" if event.image else "",
        f"{size(event.size)} new" if event.size else "",
        f"status {event.status}" if event.status is not None else "",
        f"signal {event.signal}" if event.signal else "",
    ]
    text = ", ".join(filter(None, said))
    return f"{at}  {event.kind:<10}  {printable(': '.join(filter(None, (event.host, text))), None)}"
