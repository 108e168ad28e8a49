"""The conditions of an owner policy that need no owner: load, hours, battery, memory. Pure; used at both ends."""

from __future__ import annotations

from checkpoint.value import Value
from shim.wire.owner_policy import OwnerPolicy, show_hours, within_hours


class Surroundings(Value):
    """What the conditions of a policy are held against, as measured on a host.

    load          cores busy with other work than ours; None: not known
    minute        minute of the day there, 0 to 1439
    on_battery    is it running on battery; a machine without one is not
    free_memory   bytes available (MemAvailable)
    """

    __slots__ = ("free_memory", "load", "minute", "on_battery")
    load: float | None
    minute: int
    on_battery: bool
    free_memory: int

    def __init__(self, load: float | None, minute: int, on_battery: bool, free_memory: int) -> None:
        self._set(load=load, minute=minute, on_battery=on_battery, free_memory=free_memory)


def broken_condition(policy: OwnerPolicy, around: Surroundings) -> str | None:
    """Return the first condition of the policy that does not hold, as text to follow a host's name, or None."""
    if not within_hours(policy.hours, around.minute):
        clock = f"{around.minute // 60:02d}:{around.minute % 60:02d}"
        return f"it is {clock} there, and {policy.name} allows {show_hours(policy.hours)}"
    if around.on_battery and not policy.battery:
        return "it runs on battery"
    if around.free_memory < policy.min_free_memory:
        free, kept = mib(around.free_memory), mib(policy.min_free_memory)
        return f"{free} of memory are free there, and {policy.name} keeps {kept}"
    if policy.max_load is not None:
        if around.load is None:
            return f"its load is not known, and {policy.name} allows {policy.max_load:g}"
        if around.load > policy.max_load:
            return f"others keep {around.load:.1f} cores busy there, and {policy.name} allows {policy.max_load:g}"
    return None


def mib(count: int) -> str:
    """Say a number of bytes in whole MiB."""
    return f"{count >> 20} MiB"
