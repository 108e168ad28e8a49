"""Tables of /proc that say what a machine has. Pure; shipped. Sources: proc_meminfo(5), proc_cpuinfo(5)."""

from __future__ import annotations


def memory(meminfo: str) -> dict[str, int]:
    """Parse /proc/meminfo into {name: bytes}: "MemTotal", "MemAvailable", …; what is no size is left out."""
    lines = [line.replace(":", " ").split() for line in meminfo.splitlines()]
    return {line[0]: int(line[1]) << 10 for line in lines if line[2:] == ["kB"]}


def cpu_features(cpuinfo: str) -> frozenset[str]:
    """Parse /proc/cpuinfo into the features that every CPU has, since a job runs on any of them."""
    found = [
        frozenset(line.split(":", 1)[1].split())
        for line in cpuinfo.splitlines()
        if line.split(":")[0].strip() in ("flags", "Features")
    ]
    return frozenset.intersection(*found) if found else frozenset()
