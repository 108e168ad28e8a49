"""The execute host's load without our own share, its memory and its battery. Shipped: bare python3 >= 3.9.

The load average cannot be split by who causes it, and counts what waits for disks. So load is measured as processor
time: all that the machine spent (/proc/stat), less what our own processes spent (/proc/PID/stat), in cores, smoothed
over a minute as the load average is. Sources: proc(5), the kernel's Documentation/filesystems/proc.rst.
"""

from __future__ import annotations

import math
import os
import time

from checkpoint import procfs
from shim.wire.conditions import Surroundings

SMOOTHING = 60.0
_IDLE, _IOWAIT = 3, 4
# guest and guest_nice are counted in user and nice already.
_FIELDS = 8


class Sample:
    """Processor time since boot, in seconds: `at` monotonic time, `busy` all processors, `own` our processes."""

    __slots__ = ("at", "busy", "own")

    def __init__(self, at: float, busy: float, own: float) -> None:
        self.at = at
        self.busy = busy
        self.own = own


def others_load(before: Sample, after: Sample) -> float | None:
    """Count the cores that others kept busy between two samples; None if no time has passed."""
    passed = after.at - before.at
    if passed <= 0:
        return None
    # A process of ours that was not reaped by one of ours takes its time with it: then our share seems to shrink.
    own = max(after.own - before.own, 0.0)
    return max(after.busy - before.busy - own, 0.0) / passed


class OthersLoad:
    """others_load, smoothed over a minute; `value` is None until two samples have come."""

    __slots__ = ("_before", "value")

    def __init__(self) -> None:
        self._before: Sample | None = None
        self.value: float | None = None

    def add(self, sample: Sample) -> float | None:
        """Takes the next sample; the smoothed load."""
        before, self._before = self._before, sample
        if before is None:
            return None
        load = others_load(before, sample)
        if load is not None and self.value is not None:
            weight = math.exp(-(sample.at - before.at) / SMOOTHING)
            self.value = self.value * weight + load * (1 - weight)
        elif load is not None:
            self.value = load
        return self.value


def parse_busy(stat: str, hertz: int) -> float:
    """Return the seconds that all processors were busy since boot, from /proc/stat."""
    ticks = [int(field) for field in stat.split("\n", 1)[0].split()[1 : 1 + _FIELDS]]
    return (sum(ticks) - ticks[_IDLE] - ticks[_IOWAIT]) / hertz


def parse_own(stat: str, hertz: int) -> float:
    """Return the seconds that a process and its reaped children used, from /proc/PID/stat."""
    # The name in parentheses may hold spaces and parentheses of its own.
    fields = stat.rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / hertz


def below(pid: int) -> float:
    """Return the seconds that all below a process have used, those that have ended among them."""
    hertz = os.sysconf("SC_CLK_TCK")
    used = sum(parse_own(stat, hertz) for each in tree([pid]) if (stat := _text(f"/proc/{each}/stat")))
    own = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()[11:13]
    return max(used - sum(map(int, own)) / hertz, 0.0)


def tree(roots: list[int]) -> set[int]:
    """List these processes and all below them, by /proc/PID/task/TID/children; what ends meanwhile is left out."""
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid in found:
            continue
        found.add(pid)
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except OSError:
            found.discard(pid)
            continue
        for thread in threads:
            waiting += [int(child) for child in _text(f"/proc/{pid}/task/{thread}/children").split()]
    return found


def sample(roots: list[int]) -> Sample:
    """Return a sample now; `roots` are our own processes on this host (the agent, and with it the job)."""
    hertz = os.sysconf("SC_CLK_TCK")
    own = 0.0
    for pid in tree(roots):
        stat = _text(f"/proc/{pid}/stat")
        if stat:
            own += parse_own(stat, hertz)
    return Sample(time.monotonic(), parse_busy(_text("/proc/stat"), hertz), own)


def _text(path: str) -> str:
    """A file of /proc; "" if its process has ended."""
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def on_battery(sys: str = "/sys") -> bool:
    """Tell whether the machine runs on battery: a system battery discharges, and no mains adapter is online."""
    base = os.path.join(sys, "class/power_supply")
    try:
        supplies = [os.path.join(base, name) for name in os.listdir(base)]
    except FileNotFoundError:
        return False
    discharging = False
    for supply in supplies:
        kind = _text(os.path.join(supply, "type")).strip()
        if kind in ("Mains", "USB") and _text(os.path.join(supply, "online")).strip() == "1":
            return False
        # A mouse or a headset has a battery too: its scope is Device.
        if kind == "Battery" and _text(os.path.join(supply, "scope")).strip() != "Device":
            discharging = discharging or _text(os.path.join(supply, "status")).strip() == "Discharging"
    return discharging


def surroundings(load: float | None) -> Surroundings:
    """Measure what an owner policy's conditions are held against, now, with the load as measured by the caller."""
    clock = time.localtime()
    free = procfs.memory(_text("/proc/meminfo"))["MemAvailable"]
    return Surroundings(load, clock.tm_hour * 60 + clock.tm_min, on_battery(), free)
