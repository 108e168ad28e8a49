"""Tables for people: a line for each row, none longer than a terminal is wide. What goes elsewhere is whole."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

_BETWEEN = 2
_LEAST = 12  # characters of the last column before others go


def room() -> int | None:
    """Return how many columns standard output has; None: it is no terminal, or does not say."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except OSError:
        return None


def lines(
    rows: Sequence[Sequence[str]], wide: int | None, spare: Sequence[str] = (), right: Sequence[str] = (),
    least: int = _LEAST,
) -> list[str]:  # fmt: skip
    """Write rows, of which the first has the heads, as lines of at most `wide` characters. Pure.

    The last column is cut; where less than `least` would be left of it, those that are called as in `spare` go first,
    in that order. `right`: those whose cells stand at their right.
    """
    heads = list(rows[0])
    columns = dict(zip(heads, map(list, zip(*rows, strict=True)), strict=True))
    last = heads[-1]
    least = min(least, max(map(len, columns[last])))
    for name in spare:
        if wide is None or wide - _before(columns, last) >= least:
            break
        del columns[name]
    if wide is not None:
        left = max(wide - _before(columns, last), 1)
        columns[last] = [cell if len(cell) <= left else cell[: left - 1] + "…" for cell in columns[last]]
    widths = {name: max(map(len, column)) for name, column in columns.items()}
    laid = [
        [cell.rjust(widths[name]) if name in right else cell.ljust(widths[name]) for cell in column]
        for name, column in columns.items()
    ]
    return [(" " * _BETWEEN).join(row).rstrip() for row in zip(*laid, strict=True)]


def _before(columns: dict[str, list[str]], last: str) -> int:
    return sum(max(map(len, column)) + _BETWEEN for name, column in columns.items() if name != last)
