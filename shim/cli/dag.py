"""``rexec dag``: commands that depend on each other, run by HTCondor's DAGMan, each as a job of rexec's."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import click

from remoteio.errors import RexecError
from shim.cli import submit
from shim.submit.batch.record import CONDOR, Batch
from shim.submit.engines import dagman, personal
from shim.submit.engines.dagman import Node


@click.command("dag")
@click.option("--env", metavar="NAME[=VALUE]", multiple=True, help="Pass or set an environment variable.")
@click.option(
    "--print", "prints", is_flag=True, help="Print what DAGMan would be given around FILE, and submit nothing."
)
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
def dag_command(file: str, env: tuple[str, ...], prints: bool) -> None:
    """Run the commands of FILE on an HTCondor pool, each when those that it depends on are done.

    FILE is in the language of DAGMan, HTCondor's own, which runs it. A node of which `rexec` is the submit description
    is a job of rexec's, and its variable cmd the command, for a shell; cpus, memory, require and rank are as for rexec
    submit. What it prints goes to NODE.out and NODE.err, anew each time that FILE is run.

    Prints the batch's name, such as b7, and does not wait. RETRY, scripts, PRIORITY, MAXJOBS and the like are DAGMan's,
    and so is the rescue file of a DAG that failed: say rexec dag FILE again, and it goes on where it was.

    \b
    Example:
      JOB prepare rexec
      JOB sim1 rexec
      JOB sim2 rexec
      VARS prepare cmd="./prepare.sh >cases"
      VARS ALL_NODES memory="2G"
      VARS sim1 cmd="./sim 1 <cases"
      VARS sim2 cmd="./sim 2 <cases" cpus="4"
      PARENT prepare CHILD sim1 sim2
      RETRY sim1 2
    """
    nodes = dagman.parse(_read(file), file)
    directory, name = os.path.split(os.path.abspath(file))
    if prints:
        click.echo(dagman.around(name, "/BATCH"), nl=False)
        return

    def give(batch: Path) -> str:
        submit.put_pilot(batch)
        made = os.path.join(directory, f"{name}.{dagman.WORD}")
        try:
            Path(made).write_text(dagman.around(name, str(batch)))
        except OSError as e:
            raise RexecError(f"{made} cannot be written: {e.strerror}; DAGMan keeps its files beside FILE") from e
        return dagman.submit(os.path.basename(made), directory)

    personal.use()
    submit.begin(_batch(file, directory, nodes, env), give)


def _batch(file: str, directory: str, nodes: Sequence[Node], env: tuple[str, ...]) -> Batch:
    umask = os.umask(0o077)
    os.umask(umask)
    options = tuple(word for item in env for word in ("--env", item))
    if personal.used(os.environ):
        options += ("--lease", personal.LEASE)
    return Batch(
        ("dag", file), len(nodes), tuple(node.command for node in nodes), CONDOR, "", options, "{}.out", "{}.err",
        directory, tuple(f"{key}={value}" for key, value in os.environ.items()), umask, time.time(),
        dag=f"{os.path.basename(file)}.{dagman.WORD}", names=tuple(node.name for node in nodes),
    )  # fmt: skip


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, ValueError) as e:
        raise RexecError(f"{file} cannot be read: {e}") from e
