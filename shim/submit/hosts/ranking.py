"""Which host a job goes to, best first, and why not to the others. Pure: no clock, no I/O."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from shim.wire.conditions import Surroundings, broken_condition, mib
from shim.wire.owner_policy import OwnerPolicy


@dataclass(frozen=True, slots=True)
class Candidate:
    """A host as a place to go.

    name          as in hosts.toml or on the command line
    policy        its owner policy
    named         the user asked for this very host with --on: its owner's idle time is not waited for
    unusable      why nothing can run there (unreachable, no python3, …), or None
    incompatible  reasons why this image cannot go on there; () if it can, or there is no image
    idle          seconds since its owner's last input; None: nothing tells
    unknown       if idle is None: why nothing tells
    around        Surroundings, or None where unusable
    cores         number of processors
    word          its owner says on the host itself who may be there, which holds over `policy` and `named`
    barred        why that lets no job begin now, or None
    """

    name: str
    policy: OwnerPolicy
    _: KW_ONLY
    named: bool = False
    unusable: str | None = None
    incompatible: tuple[str, ...] = ()
    idle: float | None = None
    unknown: str = "no source tells whether its owner is there"
    around: Surroundings | None = None
    cores: int = 1
    word: bool = False
    barred: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """Where to go: `order`, names, best first, and `refused`, name → why not, as a clause that follows the name."""

    order: tuple[str, ...]
    refused: dict[str, str]


def choose(candidates: list[Candidate], memory: int = 0) -> Choice:
    """Choose the hosts that a job may go to, best first, and say of each other one the reason.

    Hosts that the user named come first, in the user's order; then the ones with the least busy share of their cores,
    then the longest idle. `memory` is the bytes the job needs free there.
    """
    fit: list[tuple[tuple[float, ...], str]] = []
    refused: dict[str, str] = {}
    for position, candidate in enumerate(candidates):
        reason = refusal(candidate, memory)
        if reason is not None:
            refused[candidate.name] = reason
            continue
        if candidate.named:
            rank: tuple[float, ...] = (0.0, float(position))
        else:
            load = candidate.around.load if candidate.around is not None else None
            rank = (1.0, (load or 0.0) / max(candidate.cores, 1), -(candidate.idle or 0.0), float(position))
        fit.append((rank, candidate.name))
    return Choice(tuple(name for _, name in sorted(fit)), refused)


def refusal(candidate: Candidate, memory: int = 0) -> str | None:
    """Say why a job of this many bytes may not go to this host now, or None."""
    if candidate.unusable is not None:
        return candidate.unusable
    if candidate.incompatible:
        return "; ".join(candidate.incompatible)
    around = candidate.around
    if around is not None and around.free_memory < memory:
        return f"{mib(around.free_memory)} of memory are free there, and the job needs {mib(memory)}"
    if candidate.named or candidate.word:
        return candidate.barred
    policy, idle = candidate.policy, candidate.idle
    if policy.watched:
        if idle is None:
            return f'{candidate.unknown}: set owner = "none" for it if it has no owner'
        if idle < policy.start_idle:
            return f"its owner was there {idle:.0f} s ago, and {policy.name} waits {policy.start_idle:.0f} s"
    return broken_condition(policy, around) if around is not None else None
