"""The tables of docs/placement.md, made from the placement table. `python -m tests.placement_doc` writes them anew."""

from __future__ import annotations

import inspect
from pathlib import Path

from shim.submit.job import placement
from shim.submit.job.phase import Phase
from tests.protocol_doc import filled

FILE = Path(__file__).parent.parent / "docs" / "placement.md"


def _what_it_does(handler: placement.Handler) -> str:
    return " ".join((inspect.getdoc(handler) or "").split())


def tables() -> dict[str, str]:
    """The body of each generated part, by its name."""
    rows = list(dict.fromkeys(row for phase in placement.PHASES.values() for row in phase))
    columns = {**placement.PHASES, "source": placement.SOURCE}
    phases = [*Phase, "source"]
    grid = [f"| event | {' | '.join(phases)} |", "| --- " * (len(phases) + 1) + "|"]
    handlers: dict[str, placement.Handler] = {}
    for row in rows:
        cells = []
        for phase in phases:
            handler = columns[phase].get(row, "")
            if callable(handler):
                handlers.setdefault(handler.__name__, handler)
            cells.append(handler.__name__ if callable(handler) else "-" if handler is None else "")
        grid.append(f"| {placement.name(row)} | {' | '.join(cells)} |")
    steps = ["| handler | what it does |", "| --- | --- |"]
    steps += [f"| {name} | {_what_it_does(handlers[name])} |" for name in sorted(handlers)]
    return {"phases": "\n".join(grid), "handlers": "\n".join(steps)}


def render(text: str) -> str:
    """`text` with every generated part as the code has it."""
    return filled(text, tables())


if __name__ == "__main__":
    FILE.write_text(render(FILE.read_text()))
