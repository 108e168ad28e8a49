"""What a host that has been asked is for a job, as hosts are ranked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shim.submit.hosts.checks import BAD, checks
from shim.submit.hosts.config import Host, Hosts
from shim.submit.hosts.ranking import Candidate, refusal
from shim.submit.hosts.survey import Report
from shim.wire.conditions import Surroundings
from shim.wire.owner_policy import OwnerPolicy, named_policy


def owner_of(host: Host, owner: str, known: Hosts) -> OwnerPolicy:
    """Return the policy that holds for a job on that host; `owner`: what its user said of it. Raises PolicyError."""
    tables: dict[str, object] = dict(known.owners)
    return named_policy(owner or ("none" if host.ssh is None else host.owner), tables)


def candidate(
    report: Report, owner: OwnerPolicy, *, named: bool = False, incompatible: tuple[str, ...] = ()
) -> Candidate:
    """Return a host's report as it is ranked; for `named` and `incompatible` see Candidate."""
    host, facts = report.host, report.facts
    unusable = report.error or next((check.text for check in checks(report) if check.state == BAD), None)
    told: Mapping[str, Any] = facts.get("owner") or {}
    around, word = told.get("around"), told.get("word")
    return Candidate(
        host.name,
        owner,
        named=named,
        unusable=unusable,
        incompatible=() if unusable else incompatible,
        idle=told.get("idle"),
        unknown=str(told.get("unknown") or "no source tells whether its owner is there"),
        around=None if around is None else Surroundings(*around),
        cores=int(facts.get("cores") or 1),
        word=word is not None,
        barred=None if word is None else word["refused"],
    )


def left_out(report: Report, known: Hosts) -> str:
    """Say why a new job that may go to any host leaves this one out now; empty: it may go there. Raises PolicyError."""
    return refusal(candidate(report, owner_of(report.host, "", known))) or ""
