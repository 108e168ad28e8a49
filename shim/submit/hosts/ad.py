"""What a host is, as a ClassAd: attributes of HTCondor's machines, as far as it tells, and the user's tags. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from shim.submit.hosts.config import Hosts
from shim.submit.hosts.survey import Report

Value = str | int | float | bool
Ad = Mapping[str, Value]
ATTRIBUTES = (
    "Name", "Machine", "OpSys", "Arch", "Microarch", "Kernel", "Cpus", "Slots", "LoadAvg", "Memory", "Disk",
    "KeyboardIdle", "HasGPU", "Criu",
)  # fmt: skip
# What each level of x86-64 adds to the one before (x86-64 psABI, 3.1.1), as /proc/cpuinfo calls it.
_LEVELS = (
    "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3",
    "abm avx avx2 bmi1 bmi2 f16c fma movbe xsave",
    "avx512bw avx512cd avx512dq avx512f avx512vl",
)


def of(report: Report) -> dict[str, Value]:
    """Make the ad of a host; empty: it could not be asked. Memory is in MiB, Disk in KiB, as HTCondor has them."""
    facts, host = report.facts, report.host
    if report.error or not facts:
        return {}
    found: dict[str, Value | None] = {
        "Name": host.name,
        "Machine": facts["hostname"],
        "OpSys": "LINUX",
        "Arch": {"x86_64": "X86_64"}.get(facts["arch"], facts["arch"]),
        "Microarch": microarchitecture(facts["arch"], facts["cpu_flags"].split()),
        "Kernel": facts["kernel"],
        "Cpus": facts["cores"],
        "Slots": host.slots or facts["cores"],
        "LoadAvg": float(facts["load"]),
        "Memory": _parts(facts["memory_total"], 20),
        "Disk": _parts(facts["scratch_free"], 10),
        "KeyboardIdle": None if facts["owner"]["idle"] is None else int(facts["owner"]["idle"]),
        "HasGPU": facts["gpu"],
        "Criu": facts["criu"],
    }
    return {**{name: value for name, value in found.items() if value is not None}, **dict(host.tags)}


def _parts(count: int | None, shift: int) -> int | None:
    return None if count is None else count >> shift


def microarchitecture(arch: str, flags: Iterable[str]) -> str | None:
    """Name the highest level of x86-64 that a processor of these flags has: "x86_64-v3"; None: it is no x86-64."""
    if arch != "x86_64":
        return None
    has, level = set(flags), 1
    for needs in _LEVELS:
        if not has.issuperset(needs.split()):
            break
        level += 1
    return f"x86_64-v{level}"


def names(known: Hosts) -> set[str]:
    """Return all attributes that an ad may have, by hosts.toml, in lower case."""
    return {name.lower() for name in (*ATTRIBUTES, *(tag for host in known.hosts for tag, _ in host.tags))}


def lines(ad: Ad) -> list[str]:
    """Write an ad as HTCondor's tools do, an attribute a line."""
    return [f"{name} = {json.dumps(value)}" for name, value in ad.items()]
