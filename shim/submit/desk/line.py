"""Whose turn it is, and on which host: for runs that want slots of a desk. Pure.

Those of higher priority come first. Among equals each group (the runs of one shell, of one make) has its turn when it
has fewer slots than the others, counting those that it would be given before: so who starts fifty runs does not keep
out who starts one. A run that fits nowhere just now keeps the hosts that it may use for itself: smaller ones that come
behind it wait too, else a wide one would wait for ever.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


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
    """

    number: int
    group: str
    priority: int
    slots: int
    hosts: tuple[str, ...]
    host: str = ""
    command: tuple[str, ...] = ()


def waiting(members: Iterable[Member]) -> list[Member]:
    """List those that wait, in the order in which they have their turn."""
    has: Counter[str] = Counter()
    queues: dict[int, dict[str, deque[Member]]] = defaultdict(lambda: defaultdict(deque))
    for each in sorted(members, key=lambda member: member.number):
        if each.host:
            has[each.group] += each.slots
        else:
            queues[each.priority][each.group].append(each)
    found = []
    for priority in sorted(queues, reverse=True):
        groups = queues[priority]
        heap = [(has[group], queue[0].number, group) for group, queue in groups.items()]
        heapq.heapify(heap)
        while heap:
            _, _, group = heapq.heappop(heap)
            found.append(groups[group].popleft())
            has[group] += found[-1].slots
            if groups[group]:
                heapq.heappush(heap, (has[group], groups[group][0].number, group))
    return found


def free(members: Iterable[Member], slots: Mapping[str, int]) -> dict[str, int]:
    """Return how many of each host's `slots` nobody has."""
    taken = Counter[str]()
    for each in members:
        taken[each.host] += each.slots
    return {host: most - taken[host] for host, most in slots.items()}


def turns(members: Sequence[Member], slots: Mapping[str, int], rank: Sequence[str]) -> dict[int, str]:
    """Return who of those that wait may go now, and where: number → host.

    `slots`: of each host that will do; `rank`: the same hosts, best first. A run that named its hosts takes them in its
    own order as far as they have room; one with several that are as free goes to the better one.
    """
    room, found = free(members, slots), {}
    better = {host: k for k, host in enumerate(rank)}
    for each in waiting(members):
        may = [host for host in each.hosts if slots.get(host, 0) >= each.slots]
        fits = [host for host in may if room[host] >= each.slots]
        if fits:
            host = max(fits, key=lambda name: (room[name] / slots[name], -better[name]))
            found[each.number] = host
            room[host] -= each.slots
        else:
            for host in may:
                room[host] = 0
    return found
