"""Lives of jobs: where each ran and for how long, what stood still, what was lost, and what it cost. Pure.

They are made from a job's log (shim/submit/job/life.py) or from a batch's journal (shim/submit/batch/life.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

WAITING, RUNNING, FROZEN, MOVING, HELD = STATES = ("waiting", "running", "frozen", "moving", "held")
ON_HOST = frozenset((RUNNING, FROZEN))


class Cost(NamedTuple):
    """What a stay on a host cost, as that has told: seconds of processor time, seconds that files were waited for, and
    bytes to and fro."""

    cpu: float = 0.0
    waited: float = 0.0
    carried: int = 0

    def and_of(self, other: Cost) -> Cost:
        """Add another's."""
        return Cost(self.cpu + other.cpu, self.waited + other.waited, self.carried + other.carried)


FREE = Cost()


class Span(NamedTuple):
    """A time in one state, in seconds since 1970; `host`: where, if it was on one."""

    state: str
    host: str
    begin: float
    end: float


class Image(NamedTuple):
    """An image that was made: when, and how many bytes of it were new."""

    at: float
    size: int


@dataclass(slots=True)
class Stay:
    """A job's time on one host.

    ran, frozen   seconds
    lost          seconds of `ran` whose work nothing was left of
    taken         the job left before its own end
    cost          None: its host has not told
    """

    host: str
    begin: float
    end: float = 0.0
    ran: float = 0.0
    frozen: float = 0.0
    lost: float = 0.0
    taken: bool = False
    cost: Cost | None = None


@dataclass(slots=True)
class Life:
    """One job's: `end` is when it ended, or was looked at; `over`: it has ended; `how`: in a word or two, then."""

    name: str
    begin: float = 0.0
    end: float = 0.0
    over: bool = False
    how: str = ""
    spans: list[Span] = field(default_factory=list)
    stays: list[Stay] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)


class Teller:
    """Makes the life of a job from what became of it, told in order."""

    def __init__(self, name: str) -> None:
        self.life = Life(name)
        self._state, self._host, self._since = "", "", 0.0
        self._unsaved = 0.0  # seconds that it ran on this host since its last image

    @property
    def state(self) -> str:
        """The state that it is in; empty: it has not begun, or has ended."""
        return self._state

    def becomes(self, state: str, at: float, host: str = "") -> None:
        """Take note that it is in that state from `at` on, on `host` if on one; another host begins another stay."""
        at = self._close(at)
        self.life.begin = self.life.begin or at
        self.life.over = False  # one that had ended may go on from an image
        if state in ON_HOST and (self._state not in ON_HOST or host != self._host):
            if self._state in ON_HOST:
                self.life.stays[-1].taken = True
            self.life.stays.append(Stay(host, at, at))
            self._unsaved = 0.0
        self._state, self._host, self._since = state, host if state in ON_HOST else "", at

    def saved(self, at: float, size: int) -> None:
        """Take note of an image, which has all that it did up to now."""
        at = self._close(at)
        self._unsaved = 0.0
        self.life.images.append(Image(at, size))

    def leaves(self, at: float, *, saved: bool, state: str = MOVING) -> None:
        """Take note that it is on no host any more: with all it did in an image, or with what it did since lost."""
        if self._state in ON_HOST:
            self.life.stays[-1].taken = True
        if saved and self._state in ON_HOST and self.life.images and self.life.images[-1].at == self._since:
            self._state, self._host = MOVING, ""  # it has stood still there since that image
        self._close(at)
        if self._state in ON_HOST and not saved:
            self.life.stays[-1].lost += self._unsaved
        self._unsaved = 0.0
        self.becomes(state, at)

    def cost(self, cost: Cost) -> None:
        """Take note of what its stay has cost by now."""
        if self.life.stays:
            self.life.stays[-1].cost = cost

    def ends(self, at: float, how: str, *, lost: bool) -> None:
        """Take note of its end; `lost`: nothing is left of what it did since its last image."""
        at = self._close(at)
        if self._state in ON_HOST:
            self.life.stays[-1].taken = lost
            self.life.stays[-1].lost += self._unsaved if lost else 0.0
        self._state, self._host, self._unsaved = "", "", 0.0
        self.life.over, self.life.how, self.life.end = True, how, at

    def told(self, now: float) -> Life:
        """Return the life up to `now`, when it is looked at."""
        if not self.life.over:
            self.life.end = self._close(now)
        return self.life

    def _close(self, at: float) -> float:
        """End the span that is open: by `at`, or when the last did, as a clock may be set back; returns which."""
        at = max(at, self._since)
        if self._state and at > self._since:
            self._join(Span(self._state, self._host, self._since, at))
            if self._state in ON_HOST:
                self._on_host(at)
        self._since = self.life.end = at
        return at

    def _join(self, span: Span) -> None:
        spans = self.life.spans
        if spans and spans[-1][:2] == span[:2] and spans[-1].end == span.begin:
            spans[-1] = spans[-1]._replace(end=span.end)
        else:
            spans.append(span)

    def _on_host(self, end: float) -> None:
        stay, seconds = self.life.stays[-1], end - self._since
        stay.end = end
        if self._state == RUNNING:
            stay.ran += seconds
            self._unsaved += seconds
        else:
            stay.frozen += seconds


@dataclass(frozen=True, slots=True)
class Sum:
    """What some stays come to: how many, of how many jobs, as Stay has it; and how many told what they cost."""

    stays: int = 0
    jobs: int = 0
    taken: int = 0
    ran: float = 0.0
    frozen: float = 0.0
    lost: float = 0.0
    told: int = 0
    cost: Cost = FREE

    def _with(self, stay: Stay) -> Sum:
        told = self.told + (stay.cost is not None)
        return replace(
            self, stays=self.stays + 1, taken=self.taken + stay.taken, ran=self.ran + stay.ran,
            frozen=self.frozen + stay.frozen, lost=self.lost + stay.lost, told=told,
            cost=self.cost.and_of(stay.cost or Cost()),
        )  # fmt: skip


def by_host(lives: Iterable[Life]) -> Mapping[str, Sum]:
    """Sum up the stays on each host, and all of them by the name ""."""
    found: dict[str, Sum] = {"": Sum()}
    for life in lives:
        for stay in life.stays:
            for host in ("", stay.host):
                found[host] = found.get(host, Sum())._with(stay)
        for host in {each for stay in life.stays for each in ("", stay.host)}:
            found[host] = replace(found[host], jobs=found[host].jobs + 1)
    return found
