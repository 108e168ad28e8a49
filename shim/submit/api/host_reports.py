"""Asks hosts what they have, and says of each whether a job can run there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shim.submit.api import arguments
from shim.submit.hosts import ad, candidates, config, survey
from shim.submit.hosts import checks as all_checks
from shim.submit.hosts.ad import Ad
from shim.submit.hosts.checks import BAD, Check
from shim.submit.hosts.config import Hosts
from shim.submit.hosts.survey import Report


@dataclass(frozen=True, slots=True)
class HostReport:
    """What is known of a host.

    name          as `on` and `hosts` take it
    ssh           the destination of ssh; None: this machine
    owner         the policy by which a job leaves it: "keyboard", "none" or a table of hosts.toml; its own owner.toml
    usable        whether a job can run there
    why           why none can; empty where one can
    left_out      why a job with hosts=("any",) leaves it out now, although one can; empty where it does not
    python        the version of its python3; None where it could not be asked, as are the next two
    latency       seconds of a round trip, the median of some
    clock_offset  seconds that its clock is ahead of ours
    facts         what it says of itself: cores, memory, kernel, … ; empty where it could not be asked
    checks        everything that rexec needs of it, in the order in which a run would meet it
    ad            what it is, as --require and --rank see it; empty where it could not be asked
    """

    name: str
    ssh: str | None
    owner: str
    usable: bool
    why: str
    left_out: str
    python: str | None
    latency: float | None
    clock_offset: float | None
    facts: Mapping[str, Any]
    checks: tuple[Check, ...]
    ad: Ad


def hosts(*names: str) -> list[HostReport]:
    """Ask all hosts of hosts.toml and this machine, or those named, at once; blocks for 20 s at most.

    A host that cannot be reached is not usable, and says why. Raises HostsError where hosts.toml cannot be used, or a
    name is none.
    """
    known = config.load()
    asked = [config.resolve(arguments.host(name, "a host") or "", known) for name in names] or config.known()
    return [report_of(each, known) for each in survey.ask_all(asked)]


def report_of(found: Report, known: Hosts) -> HostReport:
    """Judge what a host has said; `known` has the owner policies. Pure. Raises PolicyError."""
    host, started, verdicts = found.host, found.started, tuple(all_checks.checks(found))
    bad = [check for check in verdicts if check.state == BAD]
    return HostReport(
        name=host.name,
        ssh=host.ssh,
        owner=_owner(found),
        usable=not bad,
        why="" if not bad else found.error or f"{bad[0].what}: {bad[0].text}",
        left_out="" if bad else candidates.left_out(found, known),
        python=None if started is None else ".".join(map(str, started.python)),
        latency=None if started is None else found.latency,
        clock_offset=None if started is None else found.clock,
        facts=found.facts,
        checks=verdicts,
        ad=ad.of(found),
    )


def _owner(found: Report) -> str:
    word = found.facts["owner"]["word"] if found.facts else None
    return found.host.owner if word is None else str(word["file"])
