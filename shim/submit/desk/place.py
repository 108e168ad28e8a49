"""A slot on a host of the desk for one run: which hosts will do, what waiting there was, and the slot itself.

Hosts are asked for their facts by one run for all: what they said is kept for FRESH seconds, in a file.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import inf
from typing import Any

from remoteio.errors import RexecError
from shim.submit.desk.line import Member, Room, ordinal, turns, waiting
from shim.submit.desk.members import Changes, Members
from shim.submit.desk.wanted import Wanted
from shim.submit.hosts import ad, candidates, config, matching, ranking, survey
from shim.submit.hosts.ad import Ad
from shim.submit.hosts.config import ANY, Host, Hosts
from shim.submit.hosts.matching import Matching
from shim.submit.hosts.survey import Report
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


def check(wanted: Wanted, known: Hosts) -> None:
    """Look whether hosts have what is asked of them at all. Raises RexecError."""
    _check(Matching(wanted.require, wanted.rank), known)


def _check(asked: Matching, known: Hosts) -> None:
    if strangers := asked.strangers(ad.names(known)):
        raise RexecError(matching.said(strangers))


class NoPlace(RexecError):
    """No host of those that were allowed will do."""


def offer(report: Report, known: Hosts, at: float) -> Offer:
    """Return what a host is that has said so much. Raises PolicyError."""
    found = candidates.candidate(report, candidates.owner_of(report.host, "", known))
    load = 0.0 if found.around is None else (found.around.load or 0.0) / max(found.cores, 1)
    word = (report.facts.get("owner") or {}).get("word") or {}
    slots = min(report.host.slots or found.cores, word.get("slots") or 1 << 20)
    room = Room(slots, report.facts.get("memory_total") or 0)
    why = ranking.refusal(found) or ""
    return Offer(at, room, load, found.unusable or "", why, ad.of(report), barred=bool(found.barred))


class NeverFits(NoPlace):
    """No host is as large as what is wanted."""


class Place:
    """Gets a slot for a run. Use it in a ``with``: the slot is given back with it.

    hosts     names of hosts, or ("any",): those of hosts.toml
    wanted    what the run wants of one of them
    waits     gives what shows a person the line that it is called with, as long as that is so
    own       what else is known of the run as a member of the desk
    """

    def __init__(
        self, hosts: tuple[str, ...], wanted: Wanted, command: tuple[str, ...],
        waits: Callable[[str], AbstractContextManager[object]] = lambda line: nullcontext(),
        ask: Survey = survey.ask_all, **own: Any,
    ) -> None:  # fmt: skip
        self._matching = Matching(wanted.require, wanted.rank)
        self._names = hosts
        self._as_they_are = hosts != (ANY,) or "job" in own  # they are named, or a job looks at them by itself
        self._read()
        self._waits, self._ask = waits, ask
        self._members = Members()
        self._passed: dict[str, tuple[float, str]] = {}  # host -> until when it is passed over, and why
        self._avoided: dict[str, str] = {}
        names = tuple(host.name for host in self._hosts)
        own = {"group": str(os.getsid(0)), **own}
        member = Member(0, own.pop("group"), wanted.priority, wanted.cpus, names, command=command, **own)
        self._own = self._members.join(replace(member, memory=wanted.memory))

    def _read(self) -> None:
        """Read hosts.toml. Raises NoPlace, and RexecError for an expression that names what no host has."""
        known = self._known = config.load()
        every = self._names == (ANY,)
        self._hosts = list(known.hosts) if every else [config.resolve(name, known) for name in self._names]
        if not self._hosts:
            raise NoPlace("hosts.toml names no host: add one, or say --on HOST")
        _check(self._matching, known)

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def take(self) -> Host:
        """Wait for a slot; return where it is. Raises NoPlace."""
        with closing(Changes(self._members)) as changes:
            while isinstance(found := self._look(), str):
                with self._waits(found):
                    changes.wait(FRESH)
        return found

    def _look(self) -> Host | str:
        """Take a slot, and return where; or say what is waited for. Raises NoPlace."""
        offers = self._offers()
        members = self._own.take(self._may(offers), partial(self._turns, offers))
        host = self._own.member.host
        return next((each for each in self._hosts if each.name == host), None) or self._says(members, offers)

    def look(self, avoid: Mapping[str, str]) -> Host | str:
        """Take a slot, and return where; or say what is waited for. For a job; `avoid`: not there, and why.

        What has slots already keeps them. Raises NoPlace, and RexecError where hosts.toml is wrong.
        """
        self._avoided = dict(avoid)
        self._read()
        return self._look()

    def wait(self) -> Changes:
        """Return what tells of changes from now on; to be closed."""
        return Changes(self._members)

    def claim(self, host: str) -> None:
        """Have slots on that host, whoever else has some there: what wants them runs there."""
        if self._own.member.host != host:
            self._own.claim(host)

    def give_back(self, *, began: bool) -> None:
        """Wait in the line again; `began`: ahead of those that have not begun yet."""
        self._own.give_back(began=began)

    def leave(self) -> None:
        """Give the slots, or the place in the line, to others, for good."""
        self._own.leave()

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
        passed = {name: why for name, (until, why) in self._passed.items() if until > time.monotonic()}
        return {**self._avoided, **passed}

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
        if not usable and any(until < inf for name, (until, _) in self._passed.items() if name in failed):
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
        return offer.unfit if offer.barred or not self._as_they_are else ""

    def _refuse_what_never_fits(self, usable: dict[str, Room]) -> None:
        wants = self._own.member
        most = max(usable, key=lambda name: usable[name].slots)
        if usable[most].slots < wants.slots:
            raise NeverFits(
                f"no host has {wants.slots} slots ({most} has {usable[most].slots}): ask for fewer with --cpus, or "
                "give it more with slots = N in hosts.toml"
            )
        most = max(usable, key=lambda name: usable[name].memory)
        if usable[most].memory < wants.memory:
            have = f"{most} has {size(usable[most].memory)}"
            raise NeverFits(f"no host has {size(wants.memory)} of memory ({have}): ask for less with --memory")
        if not any(each.holds(wants) for each in usable.values()):
            both = f"{wants.slots} slots and {size(wants.memory)} of memory"
            raise NeverFits(f"no host has {both} at once: ask for less with --cpus or --memory")

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


def _key(host: Host) -> str:
    return repr(host)


def _parsed(text: bytes) -> dict[str, Offer]:
    """What was kept of hosts; of what cannot be read, nothing: they are asked again."""
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        found: dict[str, Any] = json.loads(text)
        return {key: Offer(**{**each, "has": Room(*each["has"])}) for key, each in found.items()}
    return {}
