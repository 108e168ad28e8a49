"""Whose turn it is, and on which host: for runs that want slots of a desk. Pure.

Those of higher priority come first, and among these a job that moves: it has run already. Among equals each group (the
runs of one shell, of one make) has its turn when it has fewer slots than the others, counting those that it would be
given before: so who starts fifty runs does not keep out who starts one. A run that fits nowhere just now keeps for
itself the hosts that it may use: smaller ones that come behind it wait too, else a wide one would wait for ever.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Room(NamedTuple):
    """What a host has for runs: slots, and bytes of memory."""

    slots: int
    memory: int

    def less(self, member: Member) -> Room:
        """Return what is left of it beside that run."""
        return Room(self.slots - member.slots, self.memory - member.memory)

    def holds(self, member: Member) -> bool:
        """Tell whether there is enough for that run."""
        return self.slots >= member.slots and self.memory >= member.memory


@dataclass(frozen=True, slots=True)
class Member:
    """A run that has slots, or waits for them.

    number    in the order in which they came
    group     with which it shares its turns
    priority  higher is sooner
    slots     how many it wants
    hosts     where it may run, in the user's order
    host      where it has its slots; empty: it waits
    command   what it runs, for people to read
    memory    how many bytes it wants
    ranks     of each of its hosts, how much it wants that: more is better; (): one as much as another
    job       the number of the job with --checkpoint that it is; 0: none
    began     it has run already, and moves: it goes before those of its priority that have not
    """

    number: int
    group: str
    priority: int
    slots: int
    hosts: tuple[str, ...]
    host: str = ""
    command: tuple[str, ...] = ()
    memory: int = 0
    ranks: tuple[float, ...] = ()
    job: int = 0
    began: bool = False


def in_short(command: Sequence[str]) -> tuple[str, ...]:
    """Return as much of a command as a table has room for."""
    return tuple(word[:200] for word in command[:20])


def waiting(members: Iterable[Member]) -> list[Member]:
    """List those that wait, in the order in which they have their turn."""
    has: Counter[str] = Counter()
    queues: dict[tuple[int, bool], dict[str, deque[Member]]] = defaultdict(lambda: defaultdict(deque))
    for each in sorted(members, key=lambda member: member.number):
        if each.host:
            has[each.group] += each.slots
        else:
            queues[each.priority, each.began][each.group].append(each)
    found = []
    for key in sorted(queues, reverse=True):
        groups = queues[key]
        heap = [(has[group], queue[0].number, group) for group, queue in groups.items()]
        heapq.heapify(heap)
        while heap:
            _, _, group = heapq.heappop(heap)
            found.append(groups[group].popleft())
            has[group] += found[-1].slots
            if groups[group]:
                heapq.heappush(heap, (has[group], groups[group][0].number, group))
    return found


def free(members: Iterable[Member], has: Mapping[str, Room]) -> dict[str, Room]:
    """Return what nobody has of each host."""
    left = dict(has)
    for each in members:
        if each.host in left:
            left[each.host] = left[each.host].less(each)
    return left


def turns(members: Sequence[Member], has: Mapping[str, Room], better: Sequence[str]) -> dict[int, str]:
    """Return who of those that wait may go now, and where: number → host.

    `has`: of each host that will do; `better`: the same hosts, best first. A run goes where it wants to most; among
    hosts that it ranks alike to the one with the largest share of its slots free, and then to the better one.
    """
    room, found = free(members, has), {}
    place = {host: -k for k, host in enumerate(better)}
    for each in waiting(members):
        may = [host for host in each.hosts if host in has and has[host].holds(each)]
        fits = [host for host in may if room[host].holds(each)]
        if fits:
            rank = dict(zip(each.hosts, each.ranks, strict=False))
            host = max(fits, key=lambda name: (rank.get(name, 0), room[name].slots / has[name].slots, place[name]))
            found[each.number] = host
            room[host] = room[host].less(each)
        else:
            for host in may:
                room[host] = Room(0, 0)
    return found


def ordinal(number: int) -> str:
    """Write 1 as 1st."""
    last = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{last}"
