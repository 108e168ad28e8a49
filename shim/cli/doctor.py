"""``rexec hosts`` and ``rexec doctor``: which machines can be used, what they lack, and the command that mends it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from checkpoint.submit import xdg
from remoteio.errors import RexecError
from remoteio.submit.transport.stream import last_line
from shim.cli import completion
from shim.submit.hosts import config, survey
from shim.submit.hosts.checks import BAD, NOTE, OK, checks, known_size, latency, usable
from shim.submit.hosts.config import Host
from shim.submit.hosts.survey import Report

if TYPE_CHECKING:
    from checkpoint.submit.obtain_criu import Bundle


def as_data(report: Report) -> dict[str, Any]:
    """A report as plain data for JSON."""
    started = report.started
    return {
        "name": report.host.name,
        "ssh": report.host.ssh,
        "owner": report.host.owner,
        "usable": usable(report),
        "error": report.error or None,
        "python": None if started is None else ".".join(map(str, started.python)),
        "latency": None if started is None else round(report.latency, 6),
        "clock_offset": None if started is None else round(report.clock, 3) + 0.0,
        "facts": dict(report.facts),
        "checks": [
            {"state": check.state, "what": check.what, "text": check.text, "mend": check.mend or None}
            for check in checks(report)
        ],
    }


def table(reports: Sequence[Report]) -> str:
    """The reports as a table, a line each."""
    rows: list[tuple[str, ...]] = [
        ("HOST", "LATENCY", "PYTHON", "KERNEL", "CORES", "MEMORY", "LOAD", "OWNER", "IDLE", "STATE")
    ]
    for report in reports:
        facts, bad = report.facts, [check for check in checks(report) if check.state == BAD]
        state = f"{bad[0].what}: {bad[0].text}" if bad else "ok"
        if report.started is None:
            rows.append((report.host.name, *["-"] * 6, report.host.owner, "-", report.error))
            continue
        rows.append(
            (
                report.host.name,
                latency(report.latency),
                ".".join(map(str, report.started.python)),
                facts["kernel"],
                str(facts["cores"]),
                f"{known_size(facts['memory_available'])} of {known_size(facts['memory_total'])}",
                f"{facts['load']:.2f}",
                report.host.owner,
                _idle(facts["owner"]["idle"]),
                state,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def why(report: Report) -> str:
    """What tells of a host's owner, a line a source: what it saw last, or why it sees nothing. Pure."""
    if report.error:
        return f"{report.host.name}: {report.error}"
    seen = report.facts["owner"]
    told = f"its owner has been idle for {_idle(seen['idle'])}" if seen["unknown"] is None else seen["unknown"]
    lines = [f"{report.host.name}: {told} (policy: {report.host.owner})"]
    for source in seen["sources"]:
        text = f"idle for {_idle(source['idle'])}" if source["present"] else f"not there: {source['why']}"
        lines.append(f"  {source['source']:<10} {text}")
    return "\n".join(lines)


def advice(report: Report) -> str:
    """The doctor's lines for one host, each ok, or what is wrong and how to mend it."""
    lines = [report.host.name]
    for check in checks(report):
        lines.append(f"  {check.state:<5} {check.what}: {check.text}")
        if check.mend:
            lines.append(f"        {check.mend}")
    return "\n".join(lines)


def _host_names(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem[Any]]:
    return completion.hosts(begun)


@click.command("hosts")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: everything that was found out.")
@click.option(
    "--why",
    "asked",
    metavar="HOST",
    shell_complete=_host_names,
    help="Say what tells of HOST's owner, source by source.",
)
def hosts_command(as_json: bool, asked: str | None) -> None:
    """Show the hosts known, whether each can be used, and since when its owner has not touched it.

    OWNER is the policy by which a job started with --checkpoint leaves it (docs/owner.md).
    """
    if asked is not None:
        click.echo(why(survey.ask(config.resolve(asked, config.load()), batch=False, deadline=150.0)))
        return
    reports = survey.ask_all(_known())
    click.echo(json.dumps([as_data(report) for report in reports], indent=2) if as_json else table(reports))


@click.command("doctor")
@click.option(
    "--fix", is_flag=True, help="Obtain the criu that jobs with --checkpoint need, unless one is kept already."
)
@click.option(
    "--mirror", metavar="ADDRESS", help="With --fix: the Debian archive, if not that of apt here or $REXEC_MIRROR."
)
@click.argument("host", required=False, shell_complete=_host_names)
@click.pass_context
def doctor_command(context: click.Context, fix: bool, mirror: str | None, host: str | None) -> None:
    """Check everything rexec needs on HOST (default: all hosts known), and say how to mend what is wrong.

    The exit status is 1 if a job could not run on one of them.
    """
    if mirror and not fix:
        raise RexecError("--mirror is where a criu is obtained: say --fix too")
    if fix:
        click.echo(criu_here(mirror or ""))
    if host is None:
        reports = survey.ask_all(_known())
    else:
        # A person asks about one host: ssh may ask for a password, and gets the time to.
        reports = [survey.ask(config.resolve(host, config.load()), batch=False, deadline=150.0)]
    click.echo("\n".join([*map(advice, reports), _here()]))
    context.exit(0 if all(map(usable, reports)) else 1)


def _here() -> str:
    """What this machine has for hosts that lack it, in advice's form."""
    from checkpoint.submit import obtain_criu

    if obtain_criu.kept(obtain_criu.home()) is not None:
        lines = ["here", f"  {OK:<5} criu: one is kept, for hosts that have none that works"]
    else:
        why = "none is kept for hosts that have none that works, which rexec --checkpoint needs"
        lines = ["here", f"  {NOTE:<5} criu: {why}", "        rexec doctor --fix"]
    wide = open_to_others()
    if wide:
        lines.append(
            f"  {BAD:<5} directories: any user here may write into {', '.join(wide)}, as an earlier rexec made them"
        )
        lines.append(f"        chmod go-w {' '.join(map(shlex.quote, wide))}")
    return "\n".join(lines)


def open_to_others() -> list[str]:
    """The directories of this user's that rexec keeps its own in, or beneath, and that any user may write into."""
    places = [xdg.state(), xdg.data(), xdg.cache()]
    home = Path.home()
    ways = {path for place in places for path in (place, *place.parents) if home in path.parents}
    modes = {path: path.stat() for path in sorted(ways) if path.is_dir()}
    return [str(path) for path, st in modes.items() if st.st_uid == os.geteuid() and st.st_mode & 0o1002 == 0o002]


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


def _idle(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _known() -> list[Host]:
    return [*config.load().hosts, Host(config.LOCAL, None)]
