"""Samples to medians, ratios and text. Pure: no clock, no file, no process."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench.cases import Case

STREAMS = ("read", "write", "find", "tar", "untar")
STARTS = ("true", "numpy", "gcc")
_RATE_NAMES = {
    "stat_first": "stat, first time /s",
    "stat": "stat, again /s",
    "open_read_close": "open+read+close /s",
    "read": "read MB/s",
    "write": "write MB/s",
    "alone": "alone ms",
    "beside_reads": "beside reads ms",
    "beside_guesses": "beside guesses ms",
}


@dataclass(slots=True)
class Cell:
    """One contender in one case: seconds of each measured run, the first (warm-up) run, rates, or an error.

    `inside`: the command's own seconds; `total`: from the start of the program at home to its end; `cut`: a run was
    ended after so many seconds.
    """

    total: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)
    rates: list[Mapping[str, float]] = field(default_factory=list)
    first: float | None = None
    error: str | None = None
    cut: float | None = None

    @property
    def over(self) -> bool:
        """Is it measured no more?"""
        return self.error is not None or self.cut is not None

    def median(self, kind: str) -> float | None:
        """The median of `total`, `inside` or of one rate; None where there is none, or where a run failed."""
        values = self.values(kind)
        return statistics.median(values) if values and not self.over else None

    def values(self, kind: str) -> list[float]:
        """The measured values of one kind."""
        if kind in ("total", "inside"):
            return self.total if kind == "total" else self.inside
        return [rates[kind] for rates in self.rates]


Cells = Mapping[tuple[str, str], Cell]
"""(case name, contender name) → what was measured."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """One figure of the promise: `value` must be at most `wanted`; value is None where a part is missing."""

    name: str
    value: float | None
    wanted: float


def ratios(cells: Cells, cases: Sequence[str]) -> list[Ratio]:
    """rexec against sshfs in the file cases, and its overhead against outrun's in the others."""

    def at(case: str, contender: str, kind: str) -> float | None:
        cell = cells.get((case, contender))
        return cell.median(kind) if cell else None

    found = []
    for case in (name for name in STREAMS if name in cases):
        for peer in ("sshfs", "sshfs-aes"):
            if (case, peer) not in cells:
                continue
            for kind in ("total", "inside"):
                ours, theirs = at(case, "rexec", kind), at(case, peer, kind)
                found.append(Ratio(f"{case}: rexec / {peer}, {kind}", ours / theirs if ours and theirs else None, 1.0))
    if "cpu" in cases:
        ours, theirs = at("cpu", "rexec", "inside"), at("cpu", "local", "inside")
        found.append(Ratio("cpu: rexec / local, inside", ours / theirs if ours and theirs else None, 1.01))
    for case in (name for name in STARTS if name in cases):
        floor, local = at("true", "ssh", "total"), at(case, "local", "total")
        ours, theirs = at(case, "rexec", "total"), at(case, "outrun", "total")
        value = None
        if floor and local and ours and theirs:
            value = (ours - floor - local) / (theirs - floor - local)
        found.append(Ratio(f"{case}: (rexec - ssh - local) / (outrun - ssh - local)", value, 1 / 3))
    return found


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def _block(case: Case, cells: Cells, names: Sequence[str]) -> list[str]:
    rows = [(name, cells[case.name, name]) for name in names if (case.name, name) in cells]
    columns = case.rates if case.rates else ("total", "inside") if case.inside else ("total",)
    titles = [_RATE_NAMES.get(column, f"{column} s") for column in columns]
    head = f"{case.what:28}" + "".join(f"{title:>27}" for title in titles)
    lines = [head + ("" if case.bulk else f"{'first s':>10}")]
    for name, cell in rows:
        if cell.over:
            lines.append(f"  {name:26}  {cell.error or f'> {cell.cut:.0f}'}")
            continue
        line = f"  {name:26}"
        for column in columns:
            values = cell.values(column)
            line += f"{_spread(values, 0 if column in case.rates else 3) if values else '-':>27}"
        lines.append(line + (f"{cell.first:10.3f}" if cell.first is not None else ""))
    return [*lines, ""]


def text(cells: Cells, cases: Sequence[Case], names: Mapping[str, str], facts: Mapping[str, str]) -> str:
    """The whole report for a terminal. `names`: contender → what it is; `facts`: circumstances."""
    lines = [f"{key}: {value}" for key, value in facts.items()]
    lines += ["", *(f"{name:14}{what}" for name, what in names.items()), "", "median (min-max)"]
    for case in cases:
        lines += _block(case, cells, list(names))
    found = ratios(cells, [case.name for case in cases])
    if found:
        lines.append(f"{'ratio of medians':60}{'measured':>10}{'wanted':>10}")
    for ratio in found:
        value = "-" if ratio.value is None else f"{ratio.value:.2f}"
        verdict = "" if ratio.value is None else "  ok" if ratio.value <= ratio.wanted else "  NOT REACHED"
        lines.append(f"{ratio.name:60}{value:>10}{'<= ' + format(ratio.wanted, '.2f'):>10}{verdict}")
    return "\n".join(lines).rstrip() + "\n"


def record(cells: Cells, cases: Sequence[Case], facts: Mapping[str, str]) -> dict[str, object]:
    """The same for programs: every sample, seconds and rates (MB/s, files/s), the ratios, the circumstances."""
    measured: dict[str, dict[str, object]] = {case.name: {} for case in cases}
    for (case, contender), cell in cells.items():
        measured[case][contender] = {
            "total": cell.total,
            "inside": cell.inside,
            "rates": [dict(rates) for rates in cell.rates],
            "first": cell.first,
            "error": cell.error,
            "cut": cell.cut,
        }
    found = ratios(cells, [case.name for case in cases])
    return {
        "facts": dict(facts),
        "cases": measured,
        "ratios": [{"name": ratio.name, "value": ratio.value, "wanted": ratio.wanted} for ratio in found],
    }
