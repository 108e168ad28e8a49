"""``rexec pool``: a personal HTCondor of one's own hosts, with nothing of it on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import click

from remoteio.errors import RexecError
from shim.cli import parameters
from shim.submit.batch import record
from shim.submit.batch.record import Directory
from shim.submit.engines import personal
from shim.submit.engines.personal import Room
from shim.submit.foreground.progress import Waiting
from shim.submit.hosts import checks, config, survey
from shim.submit.hosts.checks import BAD
from shim.submit.hosts.survey import Report

_SETTLES = 30.0  # seconds that HTCondor has to end what keeps the places of jobs that have ended
_PAUSE = 0.2


@click.group("pool")
def pool_command() -> None:
    """Have a personal HTCondor of your own hosts, for `rexec submit --engine condor` and `rexec dag`.

    All of it runs on this machine as you, from HTCondor's own packages; nothing is installed on the hosts.
    """


@pool_command.command("up")
@click.option(
    "--on", metavar="HOST,…", default=config.ANY, shell_complete=parameters.host_names,
    help="Which hosts; all of hosts.toml by default.",
)  # fmt: skip
def up_command(on: str) -> None:
    """Start it, with the slots and the memory that these hosts have, and wait until it is there."""
    known = config.load()
    names = [host.name for host in known.hosts] if on == config.ANY else on.split(",")
    hosts = [config.resolve(name, known) for name in dict.fromkeys(filter(None, names))]
    if not hosts:
        raise RexecError("hosts.toml names no host: say --on HOST,HOST…")
    for host in hosts:
        personal.check(host.name)
    with Waiting("asking the hosts"):
        rooms = {report.host.name: _room(report) for report in survey.ask_all(hosts)}
    with Waiting("starting HTCondor here"):
        personal.up(rooms)
    slots = sum(room.slots for room in rooms.values())
    click.echo(f"a pool of {len(rooms)} hosts is up, with {slots} slots: rexec submit --engine condor")


def _room(report: Report) -> Room:
    """Tell what a host has for jobs. Raises RexecError."""
    for check in checks.checks(report):
        if check.state == BAD:
            raise RexecError(f"{report.host.name}: {check.what}: {check.text}; see `rexec doctor {report.host.name}`")
    memory = report.facts["memory_total"] or 1 << 30
    return Room(report.host.slots or report.facts["cores"], memory >> 20)


@pool_command.command("down")
def down_command() -> None:
    """End it, and remove what it had. Batches in it that have jobs left have to be killed before."""
    if not personal.directory().exists():
        raise RexecError("no pool is up")
    mark = f"{personal.VARIABLE}={personal.config()}"
    batches = [each for each in record.every() if mark in each.batch().environ]
    _check_over(batches)
    with Waiting("waiting until all places are given back"):
        _await_supervisors(batches, lambda: not personal.runs())
    _check_over(batches)  # DAGMan may have tried a node again
    with Waiting("ending HTCondor here"):
        personal.down()
        _await_supervisors(batches, lambda: False)
    click.echo("the pool is down")


def _check_over(batches: Iterable[Directory]) -> None:
    for each in batches:
        if not each.story().over():
            first = "" if personal.runs() else "`rexec pool up`, for HTCondor has died, and then "
            raise RexecError(
                f"batch {each.name} has jobs left in it: say {first}`rexec kill {each.name}`, or wait for them"
            )


def _await_supervisors(batches: Iterable[Directory], vain: Callable[[], bool]) -> None:
    """Wait until these have no supervisor; not for ever, and not while it is in vain."""
    until = time.monotonic() + _SETTLES
    while any(each.supervised() for each in batches) and time.monotonic() < until and not vain():
        time.sleep(_PAUSE)
