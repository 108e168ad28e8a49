"""A slot on a host of the desk for one run: which hosts will do, what waiting there was, and the slot itself.

Hosts are asked for their facts by one run for all: what they said is kept for FRESH seconds, in a file.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from math import inf
from typing import Any

from remoteio.errors import RexecError
from shim.submit.desk.line import Member, Room, turns, waiting
from shim.submit.desk.members import Changes, Members
from shim.submit.desk.wanted import Wanted
from shim.submit.hosts import ad, config, matching, ranking, survey
from shim.submit.hosts.ad import Ad
from shim.submit.hosts.config import Host, Hosts
from shim.submit.hosts.matching import Matching
from shim.submit.hosts.survey import Report
from shim.submit.job import next_host
from shim.submit.job.placement_actions import Choose
from shim.submit.job.record import ANY
from shim.submit.units import size

FRESH = 15.0
"""Seconds for which hosts are believed, and after which a run that waits has them asked again."""

Survey = Callable[[Sequence[Host]], list[Report]]


@dataclass(frozen=True, slots=True)
class Offer:
    """What a host is for the runs of a desk.

    at      when it was asked, seconds of CLOCK_BOOTTIME
    has     its slots, and its memory
    load    its load by processor, as it was then
    broken  why nothing can run there, or empty
    unfit   why a run that did not name it may not go there now, or empty
    ad      what it says of itself
    barred  that is what its owner says there, and holds for one that did name it too
    """

    at: float
    has: Room
    load: float
    broken: str
    unfit: str
    ad: Ad
    barred: bool


class NoPlace(RexecError):
    """No host of those that were allowed will do."""


def offer(report: Report, known: Hosts, at: float) -> Offer:
    """Return what a host is that has said so much. Raises PolicyError."""
    new = Choose(turn=0, image=0, wanted="", avoid=(), driven=frozenset())
    found = next_host.candidate(report, next_host.AllowedHosts((ANY,), ""), new, known, None)
    load = 0.0 if found.around is None else (found.around.load or 0.0) / max(found.cores, 1)
    word = (report.facts.get("owner") or {}).get("word") or {}
    slots = min(report.host.slots or found.cores, word.get("slots") or 1 << 20)
    room = Room(slots, report.facts.get("memory_total") or 0)
    why = ranking.refusal(found) or ""
    return Offer(at, room, load, found.unusable or "", why, ad.of(report), barred=bool(found.barred))


class Place:
    """Gets a slot for a run. Use it in a ``with``: the slot is given back with it.

    hosts     names of hosts, or ("any",): those of hosts.toml
    wanted    what the run wants of one of them
    waits     gives what shows a person the line that it is called with, as long as that is so
    """

    def __init__(
        self, hosts: tuple[str, ...], wanted: Wanted, command: tuple[str, ...],
        waits: Callable[[str], AbstractContextManager[object]], ask: Survey = survey.ask_all,
    ) -> None:  # fmt: skip
        self._matching = Matching(wanted.require, wanted.rank)
        self._known = config.load()
        self._named = hosts != (ANY,)
        self._hosts = [config.resolve(name, self._known) for name in hosts] if self._named else list(self._known.hosts)
        if not self._hosts:
            raise NoPlace("hosts.toml names no host: add one, or say --on HOST")
        self._waits, self._ask = waits, ask
        self._members = Members()
        self._passed: dict[str, tuple[float, str]] = {}  # host -> until when it is passed over, and why
        names = tuple(host.name for host in self._hosts)
        group = str(os.getsid(0))
        member = Member(0, group, wanted.priority, wanted.cpus, names, command=command, memory=wanted.memory)
        if strangers := self._matching.strangers(ad.names(self._known)):
            raise RexecError(matching.said(strangers))
        self._own = self._members.join(member)

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self._own.leave()

    def take(self) -> Host:
        """Wait for a slot; return where it is. Raises NoPlace."""
        changes = Changes(self._members)
        try:
            while True:
                offers = self._offers()
                members = self._own.take(self._may(offers), partial(self._turns, offers))
                host = self._own.member.host
                if host:
                    return next(each for each in self._hosts if each.name == host)
                with self._waits(self._says(members, offers)):
                    changes.wait(FRESH)
        finally:
            changes.close()

    def failed(self, host: Host, why: str) -> None:
        """Take note that the host, where this run has its slot, could not be reached: it wants one elsewhere."""
        self._pass_over(host, why, inf)

    def refused(self, host: Host, why: str) -> None:
        """Take note that the host's owner lets no job begin there just now: it wants a slot elsewhere, or later."""
        self._pass_over(host, why, time.monotonic() + FRESH)

    def _pass_over(self, host: Host, why: str, until: float) -> None:
        self._passed[host.name] = until, why
        self._own.give_back()

    def _failed(self) -> dict[str, str]:
        return {name: why for name, (until, why) in self._passed.items() if until > time.monotonic()}

    def _may(self, offers: dict[str, Offer]) -> dict[str, float]:
        """Return the hosts that will do for this run, and how much it wants each."""
        failed = self._failed()
        left = {name: each.ad for name, each in offers.items() if name not in failed}
        return {name: self._matching.rank(said) for name, said in left.items() if not self._matching.unmet(said)}

    def _turns(self, offers: dict[str, Offer], members: list[Member]) -> dict[int, str]:
        better = sorted(offers, key=lambda name: offers[name].load)
        unfit = {name for name, each in offers.items() if each.broken or self._unfit(each)}
        return turns(members, {name: each.has for name, each in offers.items() if name not in unfit}, better)

    def _says(self, members: list[Member], offers: dict[str, Offer]) -> str:
        failed = self._failed()
        left = {name: each for name, each in offers.items() if name not in failed}
        broken = {**failed, **{name: each.broken for name, each in left.items() if each.broken}}
        usable = {name: each for name, each in left.items() if not each.broken}
        if not usable and any(self._passed[name][0] < inf for name in failed):
            return "waiting for a host: " + "; ".join(f"{name}: {why}" for name, why in broken.items())
        if not usable:
            raise NoPlace("no host will do: " + "; ".join(f"{name}: {why}" for name, why in broken.items()))
        self._refuse_what_never_fits({name: each.has for name, each in usable.items()})
        unfit = {
            name: why for name, each in usable.items() if (why := self._unfit(each) or self._matching.unmet(each.ad))
        }
        if len(unfit) == len(usable):
            return "waiting for a host: " + "; ".join(f"{name}: {why}" for name, why in unfit.items())
        line = [each.number for each in waiting(members)]
        return f"waiting for a slot: {ordinal(line.index(self._own.member.number) + 1)} in line"

    def _unfit(self, offer: Offer) -> str:
        return offer.unfit if offer.barred or not self._named else ""

    def _refuse_what_never_fits(self, usable: dict[str, Room]) -> None:
        wants = self._own.member
        most = max(usable, key=lambda name: usable[name].slots)
        if usable[most].slots < wants.slots:
            raise NoPlace(
                f"no host has {wants.slots} slots ({most} has {usable[most].slots}): ask for fewer with --cpus, or "
                "give it more with slots = N in hosts.toml"
            )
        most = max(usable, key=lambda name: usable[name].memory)
        if usable[most].memory < wants.memory:
            have = f"{most} has {size(usable[most].memory)}"
            raise NoPlace(f"no host has {size(wants.memory)} of memory ({have}): ask for less with --memory")
        if not any(each.holds(wants) for each in usable.values()):
            both = f"{wants.slots} slots and {size(wants.memory)} of memory"
            raise NoPlace(f"no host has {both} at once: ask for less with --cpus or --memory")

    def _offers(self) -> dict[str, Offer]:
        """Return what the hosts are, as they said within the last FRESH seconds, or say now."""
        with self._members.turn("hosts") as fd:  # who comes while they are being asked waits for what they say
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            known = {key: each for key, each in _parsed(os.read(fd, 1 << 20)).items() if each.at >= now - FRESH}
            if old := [host for host in self._hosts if _key(host) not in known]:
                known.update((_key(each.host), offer(each, self._known, now)) for each in self._ask(old))
                os.ftruncate(fd, 0)
                os.pwrite(fd, json.dumps({key: asdict(each) for key, each in known.items()}).encode(), 0)
            return {host.name: known[_key(host)] for host in self._hosts}


def ordinal(number: int) -> str:
    """Write 1 as 1st."""
    last = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{last}"


def _key(host: Host) -> str:
    return repr(host)


def _parsed(text: bytes) -> dict[str, Offer]:
    """What was kept of hosts; of what cannot be read, nothing: they are asked again."""
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        found: dict[str, Any] = json.loads(text)
        return {key: Offer(**{**each, "has": Room(*each["has"])}) for key, each in found.items()}
    return {}
