"""Writes what was measured into a document that has other parts as well. Pure, but for `write`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.cases import Bound, Case
from tests.bench.plot import Bar, bars
from tests.bench.report import Cell, Cells, ratios

ORDER = ("Over 20 ms", "Over 100 ms", "Over a narrow line", "Near by", "Many jobs, many files", "Images and moves")
"""The document's parts, each by the beginning of its heading; what has another comes after them."""

_HEADING = re.compile(r"^# (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a document: its heading, what is below it, and the plots that it shows, by name."""

    heading: str
    text: str
    plots: Mapping[str, str]


def merged(document: str, part: Part) -> str:
    """Put a part in its place, or in that of the one of the same heading. All others stay as they are."""
    found = [(each[1], each.start()) for each in _HEADING.finditer(document)]
    ends = [*(start for _, start in found[1:]), len(document)][: len(found)]
    parts = [(heading, document[start:end]) for (heading, start), end in zip(found, ends, strict=True)]
    before = document[: found[0][1]] if found else document
    new = (part.heading, f"# {part.heading}\n\n{part.text.strip()}\n\n")
    if part.heading in (heading for heading, _ in parts):
        parts = [new if heading == part.heading else (heading, text) for heading, text in parts]
    else:
        place = next((i for i, (heading, _) in enumerate(parts) if _rank(heading) > _rank(part.heading)), len(parts))
        if place == len(parts) and parts:
            parts[-1] = (parts[-1][0], parts[-1][1].rstrip() + "\n\n")
        parts.insert(place, new)
    return (before + "".join(text for _, text in parts)).rstrip() + "\n"


def _rank(heading: str) -> int:
    return next((i for i, begins in enumerate(ORDER) if heading.startswith(begins)), len(ORDER))


def write(path: Path, part: Part) -> None:
    """Have the part in the document, and its plots beside that."""
    path.write_text(merged(path.read_text() if path.exists() else "", part))
    for name, drawn in part.plots.items():
        path.with_name(name).write_text(drawn)


def section(
    cells: Cells, cases: Sequence[Case], names: Mapping[str, str], facts: Mapping[str, str], rtt: int, rate: int,
    command: str,
) -> Part:  # fmt: skip
    """Make the part of what was measured so far away, by that command. `names`: contender → what it is."""
    far = f"Over {rtt} ms" if rtt else "Near by"
    heading = f"Over a narrow line: {rtt} ms, {rate} Mbit/s" if rate else far
    timed = [case for case in cases if not case.rates]
    shown = [name for name in names if any((case.name, name) in cells for case in timed)]
    goals = rtt == 20 and not rate
    rows = [["work, first / again", *shown, *(["to reach"] if goals else [])]]
    for case in timed:
        row = [case.what, *(_cell(cells.get((case.name, name))) for name in shown)]
        rows.append([*row, _goal(case, cells)] if goals else row)
    text = [
        f"`{command}` wrote this ([what runs, and how to read it](../tests/bench/README.md)): seconds from the start "
        "of the program at home to its end, the first run and the next; one figure is of who is as he was the first "
        "time. `> 30`: it was ended after 30 s.",
        "; ".join(f"{name}: {value}" for name, value in facts.items()) + ".",
    ]
    plots = {}
    if len(rows) > 1:
        text.append(table(rows))
    if rtt and not rate and timed:
        name = f"benchmarks-{rtt}ms.svg"
        plots[name] = bars(f"seconds, again, {rtt} ms away", shown, [(c.what, _bars(c, shown, cells)) for c in timed])
        text.append(f"![{heading}, seconds of the next run]({name})")
    text += [_rates(case, names, cells) for case in cases if case.rates]
    if not (rtt or rate):
        text.append(_ratios(cells, cases))
    return Part(heading, "\n\n".join(filter(None, text)), plots)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Write rows as a table, the first of which is its head."""
    head, *rest = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *rest])


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    if cell.error:
        return "failed" if cell.total or cell.first is not None else "-"
    if cell.cut is not None:
        cut = f"> {cell.cut:.0f}"
        return cut if cell.first is None else f"{seconds(cell.first)} / {cut}"
    again = cell.median("total")
    return " / ".join(seconds(each) for each in (cell.first, again) if each is not None) or "-"


def seconds(value: float) -> str:
    """Write seconds with as many digits as say something."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _goal(case: Case, cells: Cells) -> str:
    if case.goal is None:
        return ""
    cell = cells.get((case.name, "rexec"), Cell())
    said = []
    for bound, is_first in ((case.goal.first, True), (case.goal.again, False)):
        if bound is None:
            said.append("")
            continue
        reached = cell.cut is None and not cell.error
        value, most = (cell.first if is_first else cell.median("total")), _most(bound, case, cells, is_first)
        reached = reached and value is not None and most is not None and value <= most
        said.append(f"{_words(bound)}{' ✓' if reached else ''}")
    return " / ".join(said).strip(" /")


def _words(bound: Bound) -> str:
    if not bound.of:
        return f"{bound.plus:g}"
    of = bound.of if bound.times == 1 else f"{bound.times:.3g} of {bound.of}"
    return f"{of} + {bound.plus:g}" if bound.plus else of


def _most(bound: Bound, case: Case, cells: Cells, is_first: bool) -> float | None:
    if not bound.of:
        return bound.plus
    cell = cells.get((case.name, bound.of), Cell())
    base = cell.first if is_first else cell.median("total")
    return None if base is None else bound.times * base + bound.plus


def _bars(case: Case, names: Sequence[str], cells: Cells) -> list[Bar | None]:
    found: list[Bar | None] = []
    for cell in (cells.get((case.name, name)) for name in names):
        if cell is None or cell.error:
            found.append(None)
        elif cell.cut is not None:
            found.append(Bar(cell.cut, cut=True))
        else:
            value = cell.median("total")
            value = cell.first if value is None else value
            found.append(None if value is None else Bar(value))
    return found


def _rates(case: Case, names: Mapping[str, str], cells: Cells) -> str:
    rows = [[case.what, *(rate.replace("_", " ") for rate in case.rates)]]
    for name in names:
        cell = cells.get((case.name, name))
        if cell is not None and not cell.over and cell.rates:
            rows.append([name, *(f"{cell.median(rate):,.0f}" for rate in case.rates)])
    return table(rows) if len(rows) > 1 else ""


def _ratios(cells: Cells, cases: Sequence[Case]) -> str:
    found = [ratio for ratio in ratios(cells, [case.name for case in cases]) if ratio.value is not None]
    rows = [["ratio of medians", "measured", "wanted"]]
    rows += [[ratio.name, f"{ratio.value:.2f}", f"≤ {ratio.wanted:.2f}"] for ratio in found]
    return table(rows) if found else ""
