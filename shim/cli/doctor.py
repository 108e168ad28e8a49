"""``rexec doctor``: what rexec needs, on each host and here, and the command that mends what is wrong."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from checkpoint.submit import xdg
from remoteio.errors import RexecError
from remoteio.submit.sandbox import threads
from remoteio.submit.transport.stream import last_line
from shim.cli.hosts import as_data, ask_in_person, checks_as_data
from shim.cli.parameters import host_names
from shim.submit.api.host_reports import HostReport, hosts
from shim.submit.foreground.progress import Waiting
from shim.submit.hosts import config
from shim.submit.hosts.checks import BAD, NOTE, OK, Check

if TYPE_CHECKING:
    from checkpoint.submit.obtain_criu import Bundle


def advice(report: HostReport) -> str:
    """Write the doctor's lines for one host, each ok, or what is wrong and how to mend it."""
    return _lines(report.name, report.checks)


def _lines(name: str, found: Sequence[Check]) -> str:
    lines = [name]
    for check in found:
        lines.append(f"  {check.state:<5} {check.what}: {check.text}")
        if check.mend:
            lines.append(f"        {check.mend}")
    return "\n".join(lines)


@click.command("doctor")
@click.option(
    "--fix", is_flag=True, help="Obtain the criu that jobs with --checkpoint need, unless one is kept already."
)
@click.option(
    "--mirror", metavar="ADDRESS", help="With --fix: the Debian archive, if not that of apt here or $REXEC_MIRROR."
)
@click.option("--access", metavar="PATH", help="Say what a job on HOST may do with PATH here, and by which rule.")
@click.option(
    "--engine",
    type=click.Choice(["condor", "slurm"]),
    help="Check the pool of this machine, each HOST being one of it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --access, one object a line.")
@click.argument("names", metavar="[HOST]...", nargs=-1, shell_complete=host_names)
@click.pass_context
def doctor_command(
    context: click.Context, fix: bool, mirror: str | None, access: str | None, engine: str | None, as_json: bool,
    names: tuple[str, ...],
) -> None:  # fmt: skip
    """Check everything rexec needs on each HOST (default: all hosts known), and say how to mend what is wrong.

    The exit status is 1 if a job could not run on one of them. For a single HOST ssh may ask for a password.

    With --engine: what an HTCondor pool or a Slurm cluster lacks. A place is asked for on each HOST (by default on
    some of each kind), for a minute at most, and what is there is looked at from within.
    """
    if engine is not None:
        if fix or access is not None:
            raise RexecError("--engine looks at a pool alone: say --fix or --access without it")
        context.exit(_pool(engine, tuple(dict.fromkeys(names)), as_json))
    if access is not None:
        known = config.load()
        _explain(access, [config.resolve(name, known) for name in names] or config.known(), as_json)
        return
    if mirror and not fix:
        raise RexecError("--mirror is where a criu is obtained: say --fix too")
    if fix:
        with Waiting("fetching criu, unless one is kept that works"):
            done = criu_here(mirror or "")
        click.echo(done, err=as_json)
    if len(names) == 1:
        reports = [ask_in_person(names[0])]
    else:
        with Waiting("asking the hosts"):
            reports = hosts(*dict.fromkeys(names))
    if as_json:
        data = {"hosts": [as_data(report) for report in reports], "here": checks_as_data(_here())}
        click.echo(json.dumps(data, indent=2))
    else:
        click.echo("\n".join([*map(advice, reports), _lines("here", _here())]))
    context.exit(0 if all(report.usable for report in reports) else 1)


def _pool(engine: str, names: Sequence[str], as_json: bool) -> int:
    """Print what a pool lacks. Returns an exit status. Raises RexecError."""
    from shim.submit.hosts import pool_checks, pool_trial

    with Waiting(f"waiting for {pool_checks.NAMES[engine]} to give places to look at"):
        found = pool_trial.look(engine, names)
    if as_json:
        nodes = [{"name": name, "checks": checks_as_data(each)} for name, each in found.nodes.items()]
        data = {"pool": checks_as_data(found.pool), "nodes": nodes, "here": checks_as_data(_here())}
        click.echo(json.dumps(data, indent=2))
    else:
        parts = {pool_checks.NAMES[engine]: found.pool, **found.nodes, "here": _here()}
        click.echo("\n".join(_lines(name, each) for name, each in parts.items()))
        if found.untried:
            click.echo(f"{found.untried} more were not tried: name them, to have them looked at")
    return int(any(check.state == BAD for each in (found.pool, *found.nodes.values()) for check in each))


def _explain(path: str, hosts: Sequence[config.Host], as_json: bool) -> None:
    from shim.submit import access

    for host in hosts:
        found = access.look(host.name, host.trust, path)
        click.echo(json.dumps(found.row()) if as_json else found.sentence())


def _here() -> list[Check]:
    """Check what this machine has for hosts that lack it, and how it serves them."""
    from checkpoint.submit import obtain_criu

    if obtain_criu.kept(obtain_criu.home()) is not None:
        found = [Check(OK, "criu", "one is kept, for hosts that have none that works")]
    else:
        why = "none is kept for hosts that have none that works, which rexec --checkpoint needs"
        found = [Check(NOTE, "criu", why, "rexec doctor --fix")]
    found.append(_serving())
    wide = open_to_others()
    if wide:
        text = f"any user here may write into {', '.join(wide)}, as an earlier rexec made them"
        found.append(Check(BAD, "directories", text, f"chmod go-w {' '.join(map(shlex.quote, wide))}"))
    return found


def _serving() -> Check:
    """Check how far the kernel here holds the threads that serve files."""
    lacking = threads.what_lacks()
    if not lacking:
        text = "by threads that can start no program, open no socket and look into no process"
        return Check(OK, "serving files", text)
    return Check(NOTE, "serving files", f"by threads that this kernel does not hold to that: {'; '.join(lacking)}")


def open_to_others() -> list[str]:
    """Find this user's directories that rexec keeps its own in, or beneath, and that any user may write into."""
    places = [xdg.state(), xdg.data(), xdg.cache()]
    home = Path.home()
    ways = {path for place in places for path in (place, *place.parents) if home in path.parents}
    return [str(path) for path in sorted(ways) if _open_to_others(path)]


def _open_to_others(path: Path) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False  # it is not there, or is beneath a directory that we cannot enter, which is looked at itself
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and found.st_mode & 0o1002 == 0o002


def criu_here(mirror: str = "") -> str:
    """Have a criu that works here, to be sent to hosts that lack one; what was done, in a sentence. Raises RexecError.

    It comes from a newer Debian's packages, into a private directory; nothing is installed. `mirror`: see mirror.find.
    """
    from checkpoint.submit import obtain_criu

    kept = obtain_criu.kept(obtain_criu.home())
    if kept is not None and not _fault(kept):
        return f"a criu that works here is kept already in {kept.archive}"
    fetched = obtain_criu.obtain(obtain_criu.home(), mirror)
    fault = _fault(fetched)
    if fault:
        raise RexecError(f"the criu in {fetched.archive} does not work on this machine: {fault}")
    return f"a criu that works here was fetched, and is kept in {fetched.archive}"


def _fault(criu: Bundle) -> str:
    from checkpoint.wire import criu_bundle

    with tempfile.TemporaryDirectory(prefix="rexec-criu-") as place:
        bundle = criu_bundle.unpack(criu.read(), criu.hash, place)
        # What is tried is an execute host's part, here as there in a process of its own.
        tried = subprocess.run(
            [sys.executable, "-Pm", "checkpoint.execute.selftest", bundle], capture_output=True, text=True, check=False
        )
    return tried.stdout.strip() if tried.returncode == 0 else last_line(tried.stderr)
