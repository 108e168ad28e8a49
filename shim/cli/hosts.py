"""``rexec hosts``: the machines known, whether each can be used, and what tells of its owner."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from remoteio.errors import RexecError
from shim.cli import tables
from shim.cli.parameters import Alone, host_names
from shim.submit.api.host_reports import HostReport, hosts, report_of
from shim.submit.foreground.progress import Waiting
from shim.submit.hosts import config, survey
from shim.submit.hosts.ad import lines, names
from shim.submit.hosts.checks import Check, known_size, latency
from shim.submit.hosts.matching import Matching, said

_STATE = 30  # characters of why a host cannot be used before other columns go


def as_data(report: HostReport) -> dict[str, Any]:
    """Turn a report into plain data for JSON."""
    return {
        "name": report.name,
        "ssh": report.ssh,
        "owner": report.owner,
        "usable": report.usable,
        "left_out": report.left_out or None,
        "error": report.why if report.python is None else None,
        "python": report.python,
        "latency": None if report.latency is None else round(report.latency, 6),
        "clock_offset": None if report.clock_offset is None else round(report.clock_offset, 3) + 0.0,
        "facts": dict(report.facts),
        "ad": dict(report.ad),
        "checks": checks_as_data(report.checks),
    }


def checks_as_data(found: Sequence[Check]) -> list[dict[str, Any]]:
    """Turn the doctor's lines into plain data for JSON."""
    return [
        {"state": check.state, "what": check.what, "text": check.text, "mend": check.mend or None} for check in found
    ]


def table(reports: Sequence[HostReport], wide: int | None = None) -> str:
    """Write the reports as a table, a line each of at most so many columns; `rexec doctor` says all of one."""
    rows: list[tuple[str, ...]] = [
        ("HOST", "LATENCY", "PYTHON", "KERNEL", "CORES", "MEMORY", "LOAD", "OWNER", "IDLE", "STATE")
    ]
    for report in reports:
        facts = report.facts
        if report.python is None or report.latency is None:
            rows.append((report.name, *["-"] * 6, report.owner, "-", report.why))
            continue
        rows.append(
            (
                report.name,
                latency(report.latency),
                report.python,
                facts["kernel"],
                str(facts["cores"]),
                f"{known_size(facts['memory_available'])} of {known_size(facts['memory_total'])}",
                f"{facts['load']:.2f}",
                report.owner,
                _idle(facts["owner"]["idle"]),
                report.why or ("ok" if not report.left_out else f"ok; `--on any` leaves it out: {report.left_out}"),
            )
        )
    return "\n".join(tables.lines(rows, wide, ("KERNEL", "PYTHON", "LATENCY", "MEMORY", "LOAD"), least=_STATE))


def why(report: HostReport) -> str:
    """Say what tells of a host's owner, a line a source: what it saw last, or why it sees nothing. Pure.

    And last, what keeps a job off: a condition of the host's policy, or what the host lacks.
    """
    if report.python is None:
        return f"{report.name}: {report.why}"
    seen = report.facts["owner"]
    told = f"its owner has been idle for {_idle(seen['idle'])}" if seen["unknown"] is None else seen["unknown"]
    lines = [f"{report.name}: {told} (policy: {report.owner})"]
    for source in seen["sources"]:
        text = f"idle for {_idle(source['idle'])}" if source["present"] else f"not there: {source['why']}"
        lines.append(f"  {source['source']:<10} {text}")
    if (word := seen["word"]) and word["rank"]:
        first = ", then of ".join(word["rank"])
        full = f"; {word['full']}" if word["full"] else ""
        lines.append(f"  its {word['slots']} slots: jobs of {first}, then all others'{full}")
    reason = report.why or report.left_out
    lines.append(f"  `--on any` leaves it out: {reason}" if reason else "  `--on any` may choose it")
    return "\n".join(lines)


def matches(reports: Sequence[HostReport], require: str) -> str:
    """Say of each host which clauses of a requirement do not hold there. Raises RexecError."""
    wanted, width = Matching(require), max(len(report.name) for report in reports)
    lines = []
    for report in reports:
        wrong = [f"{each.text} {each.wrong}" for each in wanted.look(report.ad) if each.wrong]
        said = [report.why] if report.why else wrong or ["all holds"]
        lines += [
            f"{name:<{width}}  {text}" for name, text in zip([report.name, *[""] * len(said)], said, strict=False)
        ]
    return "\n".join(lines)


def ask_in_person(name: str) -> HostReport:
    """Ask one host as `hosts` of the Python door does, but that ssh may ask the person in front for a password.

    So it is given more time. Raises HostsError.
    """
    with Waiting(f"connecting to {name}"):
        known = config.load()
        return report_of(survey.ask(config.resolve(name, known), batch=False, deadline=150.0), known)


@click.command("hosts", cls=Alone, instead="`rexec doctor {}` shows one host")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: everything that was found out.")
@click.option(
    "--why",
    "asked",
    metavar="HOST",
    shell_complete=host_names,
    help="Say what tells of HOST's owner, source by source, and what keeps a job off.",
)
@click.option("--ad", "described", metavar="HOST", shell_complete=host_names, help="Print what --require sees of HOST.")
@click.option("--require", metavar="EXPR", help="Say of each host which clauses of the ClassAd EXPR do not hold there.")
def hosts_command(as_json: bool, asked: str | None, described: str | None, require: str | None) -> None:
    """Show the hosts known, whether each can be used, and since when its owner has not touched it.

    OWNER is the policy by which a job started with --checkpoint leaves it (docs/owner.md).
    """
    if asked is not None:
        click.echo(why(ask_in_person(asked)))
        return
    if described is not None:
        report = ask_in_person(described)
        if not report.ad:
            raise RexecError(f"{report.name}: {report.why}")
        click.echo("\n".join(lines(report.ad)))
        return
    if require is not None:
        strangers = Matching(require).strangers(names(config.load()))
        if strangers:
            raise RexecError(said(strangers))
    with Waiting("asking the hosts"):
        reports = hosts()
    if as_json:
        click.echo(json.dumps([as_data(report) for report in reports], indent=2))
    else:
        click.echo(table(reports, tables.room()) if require is None else matches(reports, require))


def _idle(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
