"""``rexec hosts`` and ``rexec doctor``: which machines can be used, what they lack, and the command that mends it."""

from __future__ import annotations

import json
import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from checkpoint import xdg
from remoteio.errors import RexecError
from shim import completion, hosts, survey
from shim.hosts import Host
from shim.progress import size
from shim.survey import Report
from shim.sysctl import forbidden_by

if TYPE_CHECKING:
    from checkpoint.bundle import Bundle

OK, NOTE, BAD = "ok", "note", "bad"
# FUSE 7.31, the oldest that the export speaks, came with it.
_OLDEST_KERNEL = (5, 4)
_CLOCK_SECONDS = 2.0
_CACHE_BYTES = 16 << 20
_MEMORY_BYTES = 256 << 20
_IDS = 65536


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor: ``state`` is OK, NOTE (works, but) or BAD; ``mend`` the command or deed that helps."""

    state: str
    what: str
    text: str
    mend: str = ""


def checks(report: Report) -> list[Check]:
    """Everything rexec needs of a host, in the order in which a run would meet it. Pure."""
    if report.error or report.started is None:
        return [Check(BAD, "reach", report.error)]
    facts = report.facts
    user = bool(facts["uid"])
    found = [
        Check(OK, "reach", f"as {facts['login']} in {report.connected:.2f} s, round trip {_latency(report.latency)}"),
        Check(OK, "python", ".".join(map(str, report.started.python))),
        _runtime(report),
        _kernel(facts),
        _fuse(facts["fuse"]),
        _namespaces(facts["namespaces"], facts["settings"]),
    ]
    if user:
        found.append(_ids(facts))
    return [*found, _memory(facts), _clock(report.clock)]


def usable(report: Report) -> bool:
    """Whether a job can run there."""
    return all(check.state != BAD for check in checks(report))


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
                _latency(report.latency),
                ".".join(map(str, report.started.python)),
                facts["kernel"],
                str(facts["cores"]),
                f"{_size(facts['memory_available'])} of {_size(facts['memory_total'])}",
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
        click.echo(why(survey.ask(hosts.resolve(asked, hosts.load()), batch=False, deadline=150.0)))
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
        reports = [survey.ask(hosts.resolve(host, hosts.load()), batch=False, deadline=150.0)]
    click.echo("\n".join([*map(advice, reports), _here()]))
    context.exit(0 if all(map(usable, reports)) else 1)


def _here() -> str:
    """What this machine has for hosts that lack it, in advice's form."""
    from checkpoint import bundle

    if bundle.kept(bundle.home()) is not None:
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
    from checkpoint import bundle, unbundle

    try:
        kept = bundle.kept(bundle.home())
        if kept is not None and not _fault(kept):
            return f"a criu that works here is kept already in {kept.archive}"
        fetched = bundle.obtain(bundle.home(), mirror)
        fault = _fault(fetched)
    except unbundle.BundleError as error:
        raise RexecError(str(error)) from error
    if fault:
        raise RexecError(f"the criu in {fetched.archive} does not work on this machine: {fault}")
    return f"a criu that works here was fetched, and is kept in {fetched.archive}"


def _fault(criu: Bundle) -> str:
    from checkpoint import selftest, unbundle

    with tempfile.TemporaryDirectory(prefix="rexec-criu-") as place:
        return selftest.run(unbundle.unpack(criu.read(), criu.hash, place), os.geteuid() != 0)


def _idle(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _known() -> list[Host]:
    return [*hosts.load().hosts, Host(hosts.LOCAL, None)]


def _runtime(report: Report) -> Check:
    started, free = report.started, report.facts["cache_free"]
    if started is not None and started.runtime == "memory":
        return Check(
            NOTE,
            "runtime",
            f"sent anew for each run, since it could not be kept there ({started.note})",
            "there: make ~/.cache/rexec yours and writable, or set XDG_CACHE_HOME",
        )
    if free is not None and free < _CACHE_BYTES:
        return Check(NOTE, "runtime", f"only {_size(free)} are free for its cache", "there: rm -r ~/.cache/rexec")
    return Check(OK, "runtime", "kept there")


def _kernel(facts: Mapping[str, Any]) -> Check:
    text = f"{facts['kernel']} {facts['arch']}"
    numbers = tuple(int(part) for part in facts["kernel"].replace("-", ".").split(".")[:2] if part.isdecimal())
    if numbers < _OLDEST_KERNEL:
        return Check(BAD, "kernel", f"{text} is too old; Linux 5.4 is needed", "there: upgrade the kernel")
    return Check(OK, "kernel", text)


def _fuse(fuse: Mapping[str, Any]) -> Check:
    if not fuse["error"]:
        return Check(OK, "/dev/fuse", "opens")
    if not fuse["mode"]:
        return Check(BAD, "/dev/fuse", "is not there", "there, as root: modprobe fuse")
    mend = "there, as root: chmod 666 /dev/fuse"
    if fuse["error"] != "Permission denied":
        mend = "there, as root: modprobe fuse; in a container, allow it the device /dev/fuse"
    return Check(BAD, "/dev/fuse", f"does not open: {fuse['error']} (mode {fuse['mode'][2:]})", mend)


def _namespaces(tried: Mapping[str, str], settings: Mapping[str, str | None]) -> Check:
    if not tried["step"]:
        return Check(OK, "namespaces", "made, with proc and FUSE mounted within")
    text = f"{tried['step']} failed: {tried['error']}"
    found = forbidden_by(settings.get)
    if found is not None:
        name, bad, good = found
        mend = f"there, as root: sysctl -w {name}={good}  (and a line in /etc/sysctl.d to keep it)"
        return Check(BAD, "namespaces", f"{tried['step']} is forbidden, since {name} is {bad}", mend)
    if tried["step"] == "mount fuse":
        return Check(BAD, "namespaces", text, "mend /dev/fuse; in a container, allow it the device and mount(2)")
    return Check(BAD, "namespaces", text, "there: a container or security module forbids it; let it allow namespaces")


def _ids(facts: Mapping[str, Any]) -> Check:
    login = facts["login"]
    ranges = all(any(count >= _IDS for _, count in facts[name]) for name in ("subuid", "subgid"))
    if facts["id_tools"] and ranges:
        return Check(OK, "ids", "newuidmap and 65536 subordinate ids: a job has the ids that it has here")
    mends = [] if facts["id_tools"] else ["apt-get install uidmap"]
    if not ranges:
        free = f"{facts['subordinate_end']}-{facts['subordinate_end'] + _IDS - 1}"  # nobody else's
        mends.append(f"usermod --add-subuids {free} --add-subgids {free} {shlex.quote(login)}")
    text = "one user id is mapped there: files of others look like nobody's, a --checkpoint job sees itself as uid 0"
    return Check(NOTE, "ids", text, f"there, as root: {' && '.join(mends)}")


def _memory(facts: Mapping[str, Any]) -> Check:
    free, total = facts["memory_available"], facts["memory_total"]
    text = f"{_size(free)} of {_size(total)} available, {facts['cores']} cores, load {facts['load']:.2f}"
    state = NOTE if free is not None and free < _MEMORY_BYTES else OK
    return Check(state, "room", text)


def _clock(offset: float) -> Check:
    if abs(offset) < _CLOCK_SECONDS:
        return Check(OK, "clock", f"{round(offset, 3) + 0.0:+.3f} s")  # never -0.000
    text = f"{offset:+.0f} s off this machine's; programs that compare times may wonder"
    return Check(NOTE, "clock", text, "there, as root: timedatectl set-ntp true")


def _latency(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _size(count: int | None) -> str:
    return "?" if count is None else size(count)
