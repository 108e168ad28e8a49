"""``rexec submit``: many jobs of one command, on the desk here, HTCondor or Slurm; what other verbs say of them."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from remoteio.errors import RexecError
from remoteio.printable import printable
from shim.cli import durations, parameters
from shim.submit.batch import asking, outputs, process, record, story
from shim.submit.batch.arrays import Arrays
from shim.submit.batch.cluster import CHUNK
from shim.submit.batch.record import CONDOR, ENGINES, LOCAL, SLURM, Batch, Directory
from shim.submit.engines import condor, personal, slurm
from shim.submit.hosts import bootstrap, config
from shim.submit.hosts.config import ANY


@click.command("submit", context_settings={"allow_interspersed_args": False})
@click.option(
    "--engine", type=click.Choice(ENGINES), default=LOCAL,
    help="Who gives the jobs their places: the hosts of hosts.toml (local), or the HTCondor pool or Slurm cluster "
    "of this machine.",
)  # fmt: skip
@click.option("-n", "count", metavar="N", type=click.IntRange(1, record.MOST_JOBS), help="How many jobs; 1 by default.")
@click.option(
    "--each", metavar="FILE", help="A job for each line of FILE, which {} stands for then; - is standard input."
)
@click.option(
    "--on", metavar="HOST,…", default=None, shell_complete=parameters.host_names,
    help="Which hosts, with --engine local; any of hosts.toml by default.",
)  # fmt: skip
@click.option("--name", metavar="S", help="What its output files begin with, S.{}.out, and what an engine calls it.")
@click.option(
    "-o", "--output", metavar="FILE",
    help="Where a job's output goes, {} being its number, {batch} that of its batch; CMD.{batch}.{}.out by default.",
)  # fmt: skip
@click.option("-e", "--error", metavar="FILE", help="Where its standard error goes; CMD.{batch}.{}.err by default.")
@click.option("--cpus", metavar="N", type=click.IntRange(1), default=1, help="Slots, or processors, of each job.")
@click.option("--memory", metavar="SIZE", help="Memory of each job; 512M by default with condor and slurm.")
@click.option("--gpus", metavar="N", type=click.IntRange(1), help="GPUs of each job's place; see docs/pools.md.")
@click.option("--time", metavar="T", help="With condor and slurm: how long each may take, in minutes or as 1-00:00:00.")
@click.option("--require", metavar="EXPR", default="", help="What a host must be, in ClassAd language.")
@click.option("--rank", metavar="EXPR", default="", help="Likewise: what is larger on a host that is better.")
@click.option("--priority", metavar="N", type=int, default=0, help="Higher is sooner.")
@click.option("--checkpoint", is_flag=True, help="Jobs that are saved, held and moved (rexec -h).")
@click.option("--every", metavar="D", help="With --checkpoint: save each every D too (10m, 1h30m) while it runs.")
@click.option("--lease", metavar="D", help="How long a job's host waits for rexec when the link is cut (rexec -h).")
@click.option("--env", metavar="NAME[=VALUE]", multiple=True, help="Pass or set an environment variable.")
@click.option("--forward", metavar="PORT", multiple=True, help="Let it reach PORT of this machine (rexec -h).")
@click.option("--print", "prints", is_flag=True, help="Print what the engine would be told, and submit nothing.")
@click.argument("command", metavar="[--] CMD [ARG]...", nargs=-1, type=click.UNPROCESSED, required=True)
def submit_command(command: tuple[str, ...], **given: Any) -> None:
    """Run CMD many times, each on a host that has room for it; {} in CMD is a job's number, from 0 on.

    Prints the batch's name, such as b7, and does not wait. `rexec jobs` shows it, `rexec log b7` what has happened;
    hold, release, vacate, kill and priority take it, or one job of it: b7.3. A job that waits is no process here.

    A job whose place is taken away runs again from its start, as HTCondor has it for a program that does not save
    itself; its output begins anew. With --checkpoint it is saved: hold, release and vacate have it go on where it was,
    and so has an engine that takes its place, if the image is home within the time that it gives; a host that dies
    costs what it did since its last image. `rexec jobs` shows each that has begun as a job too.

    \b
    Examples:
      rexec submit -n 200 ./sim --seed {}
      rexec submit -n 200 --checkpoint --every 10m ./sim --seed {}
      rexec submit --each files.txt -o {}.log gzip -9 {}
      rexec submit --engine condor -n 1000 --memory 2G --checkpoint ./sim {}
    """
    _check(**given)
    if given["engine"] == LOCAL:
        _check_hosts(given["on"])
    lines = _lines(given["each"], given["count"])
    number = len(lines) or given["count"] or 1
    stem = printable(given["name"] or os.path.basename(command[0]), 100).replace("/", "_")
    if given["engine"] == CONDOR:
        given["lease"] = _personal(given["gpus"], given["lease"])
    told = _told(number, stem, **given)
    if given["prints"]:
        click.echo(told, nl=False)
        return
    batch = _batch(command, number, lines, stem, **given)
    desks = given["priority"] if given["engine"] == LOCAL else 0  # engines have it with what they are told
    begin(batch, lambda directory: _given(directory, told, number, **given), desks)


def begin(batch: Batch, give: Callable[[Path], str], priority: int = 0) -> None:
    """Put a batch on record, have `give` hand it to its engine, and supervise it. Raises RexecError, OSError.

    `give` is told the batch's directory, and returns what the engine calls it; "" where there is no engine. `priority`:
    what its runs have in the line of the desk.
    """
    directory = record.create(batch)
    try:
        outputs.check(directory, record.every())
        called = give(directory.path)
    except (RexecError, OSError):
        shutil.rmtree(directory.path)  # nobody was given anything
        raise
    if called:
        directory.add({"engine": called})
    if priority:
        directory.add({"priority": priority, "job": None})
    process.start(directory)
    click.echo(directory.name)


def _check(engine: str, on: str | None, prints: bool, require: str, rank: str, time: str | None, **given: Any) -> None:
    _check_moves(given["checkpoint"], given["every"], given["lease"])
    if engine == SLURM and given["checkpoint"]:
        slurm.check_saves()
    if engine != LOCAL and on is not None:
        chosen = "HTCondor chooses by --require and --rank" if engine == CONDOR else "Slurm chooses"
        raise RexecError(f"--on is for --engine local: {chosen}")
    if engine == LOCAL and prints:
        raise RexecError("--print is for --engine condor and slurm")
    if engine == SLURM and (require or rank):
        raise RexecError(
            "--require and --rank are in HTCondor's language, which Slurm does not know: set SBATCH_CONSTRAINT"
        )
    if engine == LOCAL and time is not None:
        raise RexecError("--time is for --engine condor and slurm: here, say `timeout` in front of the command")
    if engine == LOCAL and (given["gpus"] or 0) > 1:
        raise RexecError("--gpus is 1 at most with --engine local, which knows of a host only whether it has one")


def _check_hosts(on: str | None) -> None:
    """See that there are hosts at all: else each job would fail, when nobody looks. Raises RexecError."""
    known = config.load()
    if on is None or on == ANY:
        if not known.hosts:
            file = config.hosts_file(os.environ)
            raise RexecError(
                f"no host is known, as {file} names none: name one there (docs/hosts.md), or say --on HOST, or "
                "--on local for this machine"
            )
        return
    for name in config.several(on) or (on,):
        config.resolve(name, known)


def _personal(gpus: int | None, lease: str | None) -> str | None:
    """Have the personal pool used, if one is up. Returns what a run has for --lease. Raises RexecError."""
    personal.use()
    if not personal.used(os.environ):
        return lease
    if gpus is not None:
        raise RexecError("--gpus is not for a personal pool, which counts none: say --require HasGPU for it")
    return lease or personal.LEASE


def _check_moves(checkpoint: bool, every: str | None, lease: str | None) -> None:
    durations.lease(lease, checkpoint)  # for what it raises
    if every is not None:
        if not checkpoint:
            raise RexecError("--every is for jobs that can be checkpointed: say --checkpoint too")
        from shim.submit.job.submission import parse_every

        parse_every(every)  # for what it raises


def _told(
    number: int, stem: str, *, engine: str, cpus: int, memory: str | None, gpus: int | None, time: str | None,
    require: str, rank: str, priority: int, **_: object,
) -> str:  # fmt: skip
    """Write what the engine is told of the batch. Raises RexecError."""
    if engine == CONDOR:
        return condor.description(number, stem, cpus, _mebibytes(memory), require, rank, priority, gpus, time)
    if engine == SLURM:
        pilot = bootstrap.pilot_source().decode()
        return slurm.description(stem, cpus, _mebibytes(memory), time, priority, pilot, gpus)
    return ""


def _mebibytes(memory: str | None) -> int:
    from shim.wire.owner_policy import parse_size

    return 512 if memory is None else -(-parse_size(memory, "--memory") >> 20)


def _batch(
    command: tuple[str, ...], number: int, lines: tuple[str, ...], stem: str, *, engine: str, on: str | None,
    output: str | None, error: str | None, env: tuple[str, ...], **given: Any,
) -> Batch:  # fmt: skip
    options = [word for item in env for word in ("--env", item)]
    if on is not None and not config.several(on):
        on += ","  # so that its slots count, though it is one
    if engine == LOCAL:
        if given["gpus"]:
            given["require"] = " && ".join(["HasGPU", *(f"({each})" for each in [given["require"]] if each)])
        wanted = ("cpus", "memory", "require", "rank")
        options += [word for key in wanted if given[key] for word in (f"--{key}", str(given[key]))]
    options += [word for key in ("every", "lease") if given[key] is not None for word in (f"--{key}", given[key])]
    if given["checkpoint"] and engine != LOCAL:
        options += ["--owner", "none"]  # the engine knows when the host is its owner's
    options += [word for port in given["forward"] for word in ("--forward", port)]
    umask = os.umask(0o077)
    os.umask(umask)
    out, err = outputs.templates(stem, output, error, named=bool(given["name"]))
    return Batch(
        command, number, lines, engine, on or ANY, tuple(options), out, err, os.getcwd(),
        tuple(f"{key}={value}" for key, value in os.environ.items()), umask, time.time(), given["checkpoint"],
    )  # fmt: skip


def _lines(each: str | None, count: int | None) -> tuple[str, ...]:
    if each is None:
        return ()
    if count is not None:
        raise RexecError("-n and --each exclude each other: there is a job for each line")
    try:
        with click.open_file(each, encoding="utf-8", errors="surrogateescape") as file:
            lines = tuple(line.rstrip("\n") for line in file)
    except OSError as e:
        raise RexecError(f"--each {each}: {e.strerror}; name a file that you may read") from e
    if not 1 <= len(lines) <= record.MOST_JOBS:
        raise RexecError(f"--each {each}: it has {len(lines)} lines, and 1 to {record.MOST_JOBS} will do")
    return lines


def _given(directory: Path, told: str, number: int, *, engine: str, **_: object) -> str:
    if engine == LOCAL:
        return ""
    return _to_condor(directory, told) if engine == CONDOR else _to_slurm(directory, told, number)


def put_pilot(directory: Path) -> None:
    """Have the program there that HTCondor runs in a place."""
    pilot = directory / condor.PILOT
    pilot.write_bytes(b"#!/usr/bin/env python3\n" + bootstrap.pilot_source())
    pilot.chmod(0o755)


def _to_condor(directory: Path, told: str) -> str:
    """Submit what HTCondor is told; returns the cluster. Raises RexecError, OSError."""
    put_pilot(directory)
    (directory / "condor.sub").write_text(told)
    return condor.submit(str(directory))


def _to_slurm(directory: Path, told: str, number: int) -> str:
    """Give Slurm as many jobs as may wait there; returns what it calls them. Raises RexecError, OSError."""
    (directory / slurm.SCRIPT).write_text(told)
    arrays = Arrays()
    arrays.add(slurm.submit(str(directory), min(number, CHUNK)), range(min(number, CHUNK)))
    return str(arrays)


def act(verb: str, word: str, **more: int) -> None:
    """Do something to a batch, or to one job of it; `more`: as asking.ask has it. Raises RexecError."""
    directory, job = record.find(word)
    asking.ask(directory, verb, job, **more)
    click.echo(f"{word}: {story.PAST[verb]}")


def resumed(words: list[str] | None) -> list[str]:
    """Start the supervisors of these batches, or of all, that have jobs left and none. Raises RexecError."""
    found = record.every() if words is None else [record.find(word)[0] for word in words]
    return [each.name for each in found if not each.story().over() and process.start(each)]


def log(word: str, as_json: bool) -> None:
    """Print what has happened to a batch, or to one job of it. Raises RexecError."""
    directory, job = record.find(word)
    nodes = directory.batch().names
    for row, _ in story.rows(directory.journal()):
        if job is not None and row.get("job", job) != job:
            continue
        if nodes and "job" in row and row["job"] is not None:
            row["node"] = nodes[row["job"]]
        click.echo(json.dumps(row) if as_json else _line(directory, row))


def _line(directory: Directory, row: dict[str, Any]) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.get("at", 0)))
    job = row.get("job")
    name = directory.name if job is None else f"{directory.name}.{job}"
    status = row.get("status")
    said = [
        f"node {row['node']}" if "node" in row else "",
        str(row.get("host") or ""),
        f"job {row['id']}" if "id" in row else "",
        "" if status is None else f"status {status}",
        f"as {row['engine']}" if "engine" in row else "",
        str(row["priority"]) if "priority" in row else "",
        str(row.get("why") or ""),
    ]
    asked = f"asked: {row['ask']}" if "ask" in row else "submitted" if "engine" in row else ""
    what = row.get("is") or asked or ("priority" if "priority" in row else "answered")
    return f"{at}  {name:<10}  {what}  {printable(', '.join(filter(None, said)), None)}".rstrip()
