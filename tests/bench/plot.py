"""Draws seconds as bars, on a logarithmic scale: SVG, as text. Pure.

By hand, as a plotting library (matplotlib and the dozen packages below it) is more than one kind of plot needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

LEAST = 0.01
"""Seconds at which a bar begins."""

_BAR, _GAP, _LEFT, _RIGHT, _TOP, _WIDTH = 12, 14, 260, 70, 64, 900
_COLOURS = ("#9aa0a6", "#c8b273", "#5b8fb9", "#8d6a9f", "#c8553d", "#4f772d")


@dataclass(frozen=True, slots=True)
class Bar:
    """What one contender took; `cut`: it was ended then, and would have taken longer."""

    seconds: float
    cut: bool = False


def bars(title: str, contenders: Sequence[str], rows: Sequence[tuple[str, Sequence[Bar | None]]]) -> str:
    """Draw a group of bars for each row, one of each contender who was measured in it."""
    longest = max((bar.seconds for _, found in rows for bar in found if bar), default=1.0)
    most = max(math.ceil(math.log10(longest / LEAST)), 1)  # powers of ten

    def at(seconds: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * max(math.log10(seconds / LEAST), 0.0) / most if seconds else _LEFT

    body, y = [], _TOP
    for name, found in rows:
        drawn = [(place, bar) for place, bar in enumerate(found) if bar]
        middle = y + len(drawn) * _BAR / 2 + 4
        body.append(_text(_LEFT - 8, middle, name.replace("`", ""), "end"))
        for place, bar in drawn:
            width = max(at(bar.seconds) - _LEFT, 1.0)
            colour = _COLOURS[place % len(_COLOURS)]
            body.append(f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR - 2}" fill="{colour}"/>')
            body.append(_text(_LEFT + width + 4, y + _BAR - 3, _seconds(bar), "start"))
            y += _BAR
        y += _GAP
    grid = []
    for power in range(most + 1):
        x = at(LEAST * 10**power)
        grid.append(f'<line x1="{x:.1f}" y1="{_TOP - 8}" x2="{x:.1f}" y2="{y - _GAP}" stroke="#ddd"/>')
        grid.append(_text(x, y + 4, f"{LEAST * 10**power:g} s", "middle"))
    legend, x = [], _LEFT
    for place, name in enumerate(contenders):
        legend.append(f'<rect x="{x}" y="30" width="10" height="10" fill="{_COLOURS[place % len(_COLOURS)]}"/>')
        legend.append(_text(x + 14, 39, name, "start"))
        x += 30 + 7 * len(name)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y + 14}" font-family="sans-serif" '
    lines = [f'{head}font-size="11">', f'<rect width="{_WIDTH}" height="{y + 14}" fill="white"/>']
    return "\n".join([*lines, _text(_LEFT, 18, title, "start"), *legend, *grid, *body, "</svg>"]) + "\n"


def _seconds(bar: Bar) -> str:
    return f"> {bar.seconds:.0f}" if bar.cut else f"{bar.seconds:.2g}" if bar.seconds < 10 else f"{bar.seconds:.0f}"


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
