"""Which host a job goes to next: the user's own choice as it is, others by what they say of themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from checkpoint.wire import compat
from checkpoint.wire.manifest import Manifest
from remoteio.errors import RexecError
from shim.submit.hosts import candidates as candidates_of
from shim.submit.hosts import config, survey
from shim.submit.hosts.config import Host, Hosts
from shim.submit.hosts.ranking import Candidate
from shim.submit.hosts.ranking import choose as rank
from shim.submit.hosts.survey import Report
from shim.submit.job.placement_actions import Choose
from shim.submit.job.placement_events import Chosen, NoHost
from shim.submit.job.record import ANY

Survey = Callable[[Sequence[Host]], list[Report]]


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """Where the user lets a job go: `--on` names in order, or ("any",); `owner`: the policy of `--owner`, or empty."""

    names: tuple[str, ...]
    owner: str


def is_named(name: str, wish: AllowedHosts, choose_driven: frozenset[str], wanted: str) -> bool:
    """Tell whether the user named this very host, and its owner has not driven the job out since."""
    return name == wanted or (name in wish.names and name not in choose_driven)


def candidates(wish: AllowedHosts, choose: Choose, known: Hosts) -> list[Host]:
    """Return the hosts that come into question, the wanted one first. Raises HostsError."""
    every = wish.names == (ANY,)
    found = list(known.hosts) if every else [config.resolve(name, known) for name in wish.names]
    if choose.wanted:
        found = [config.resolve(choose.wanted, known), *(host for host in found if host.name != choose.wanted)]
    barred = {name for name, _ in choose.avoid}
    return [host for host in found if host.name not in barred]


def choose_host(
    choose: Choose, wish: AllowedHosts, known: Hosts, image: Manifest | None, ask: Survey = survey.ask_all,
    only: str | None = None,
) -> Chosen | NoHost:  # fmt: skip
    """Choose the next host; `only`: that one or none.

    One that the user named is taken as it is: who goes there finds out whether it will do.
    """
    try:
        found = [host for host in candidates(wish, choose, known) if only in (None, host.name)]
        for host in found:
            if is_named(host.name, wish, choose.driven, choose.wanted):
                return Chosen(choose.turn, host.name)
        offers = [candidate(report, wish, choose, known, image) for report in ask(found)]
    except RexecError as error:
        return NoHost(choose.turn, str(error), hopeless=True)
    choice = rank(offers, 0 if image is None else image.size)
    if choice.order:
        return Chosen(choose.turn, choice.order[0])
    refused = {**dict(choose.avoid), **choice.refused}
    if not refused:
        return NoHost(choose.turn, "hosts.toml names no host: add one, or say --on HOST", hopeless=True)
    why = "; ".join(
        reason if any(name in reason for name in names) else f"{', '.join(names)}: {reason}"
        for reason, names in _by_reason(refused).items()
    )
    return NoHost(
        choose.turn,
        why if len(refused) == 1 else f"no host will do ({why})",
        hopeless=bool(choose.avoid) and not choice.refused,
    )


def _by_reason(refused: Mapping[str, str]) -> dict[str, list[str]]:
    """What several hosts say alike is said once."""
    found: dict[str, list[str]] = {}
    for name, reason in refused.items():
        found.setdefault(reason, []).append(name)
    return found


def candidate(report: Report, wish: AllowedHosts, choose: Choose, known: Hosts, image: Manifest | None) -> Candidate:
    """Return a host's report as it is ranked for this job. Raises PolicyError."""
    host = report.host
    found = candidates_of.candidate(
        report,
        candidates_of.owner_of(host, wish.owner, known),
        named=is_named(host.name, wish, choose.driven, choose.wanted),
        incompatible=() if report.error or image is None else tuple(differences(image, report.facts)),
    )
    word = (report.facts.get("owner") or {}).get("word") or {}
    return replace(found, barred=found.barred or word.get("full"))  # who waits for room looks again, and soon


def differences(image: Manifest, facts: Mapping[str, Any]) -> list[str]:
    """Tell why the image cannot go on at a host with these facts, as far as they tell."""
    here = facts.get("compat")
    if here is None or not image.facts:
        return []
    try:
        # Which criu there is, or is brought, shows when the job arrives.
        criu = {"criu": image.facts.get("criu")}
        return compat.differences(compat.from_plain(image.facts), compat.from_plain({**here, **criu}), image.size)
    except ValueError as error:
        return [str(error)]
