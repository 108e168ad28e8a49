"""Draws the life of a job: SVG, as text.

By hand, as the benchmark's bars are: a plotting library and the dozen packages below it are more than this needs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from xml.sax.saxutils import escape

from remoteio.printable import printable
from shim.submit import lives
from shim.submit.lives import Life, Stay
from shim.submit.units import size, span

_COLOURS = {
    lives.RUNNING: "#4f772d",
    lives.FROZEN: "#5b8fb9",
    lives.MOVING: "#8d6a9f",
    lives.WAITING: "#c9cdd2",
    lives.HELD: "#c8b273",
}
_LOST, _FILES, _IMAGE, _INK, _GRID = "#c8553d", "#d98c3f", "#222", "#333", "#e4e4e4"
_NOWHERE = "no host"
_LEFT, _RIGHT, _TOP, _LANE, _BAR, _WIDTH = 170, 40, 92, 46, 18, 960
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
_LEAST = 1.0  # a unit of the drawing: what was shorter is seen all the same


def draw(life: Life, command: str) -> str:
    """Draw a lane for each host, and one for the times between; below each stay, what of it was computed and waited."""
    seconds = max(life.end - life.begin, 0.001)
    hosts = list(dict.fromkeys(stay.host for stay in life.stays))
    between = [_NOWHERE] if any(span.state not in lives.ON_HOST for span in life.spans) else []
    lanes = {lane: _TOP + number * _LANE for number, lane in enumerate([*between, *hosts])}
    bottom = _TOP + max(len(lanes), 1) * _LANE

    def at(moment: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(max((moment - life.begin) / seconds, 0.0), 1.0)

    body = [*_grid(seconds, bottom, at, life.begin), *_names(lanes)]
    for each in life.spans:
        lane = each.host if each.state in lives.ON_HOST else _NOWHERE
        told = f"{each.state}{f' on {each.host}' if each.host else ''}: {span(each.end - each.begin)}"
        body.append(_box(at(each.begin), lanes[lane], at(each.end), _BAR, _COLOURS[each.state], told))
    for stay in life.stays:
        body += _stay(stay, lanes[stay.host] + _BAR + 2, at)
    for image in life.images:
        on = [stay.host for stay in life.stays if stay.begin <= image.at] or [_NOWHERE]
        body.append(
            _mark(at(image.at), lanes.get(on[-1], _TOP), f"image at {_clock(image.at)}, {size(image.size)} new")
        )
    return _whole([*_head(life, command), *body], bottom + 40)


def _head(life: Life, command: str) -> list[str]:
    moves = max(len(life.stays) - 1, 0)
    lost, ran = sum(stay.lost for stay in life.stays), sum(stay.ran for stay in life.stays)
    said = [
        f"{time.strftime('%Y-%m-%d', time.localtime(life.begin))}, {span(life.end - life.begin)}",
        f"ran {span(ran)}",
        f"lost {span(lost)}" if lost else "",
        f"{moves} move{'' if moves == 1 else 's'}",
        f"{len(life.images)} image{'' if len(life.images) == 1 else 's'}",
        life.how if life.over else "goes on",
    ]
    title = f"{life.name}: {printable(command, 90)}"
    lines = [_text(12, 24, title, "start", 'font-size="15" font-weight="bold"')]
    lines.append(_text(12, 44, " · ".join(filter(None, said)), "start"))
    keys = [(colour, state) for state, colour in _COLOURS.items() if any(each.state == state for each in life.spans)]
    keys += [(_LOST, "lost")] if lost else []
    keys += [("#7fa35c", "computed"), (_FILES, "waited for files")] if any(stay.cost for stay in life.stays) else []
    x = 12.0
    for colour, name in keys:
        lines += [_box(x, 56, x + 11, 11, colour, name), _text(x + 16, 66, name, "start")]
        x += 34 + 6.6 * len(name)
    return [*lines, *([_mark(x + 5, 65, "", 3), _text(x + 16, 66, "image", "start")] if life.images else [])]


def _grid(seconds: float, bottom: float, at: Callable[[float], float], begin: float) -> list[str]:
    step = next((step for step in _STEPS if seconds / step <= 9), 86400 * math.ceil(seconds / 86400 / 9))
    lines = []
    for number in range(int(seconds // step) + 1):
        x = at(begin + number * step)
        lines.append(f'<line x1="{x:.1f}" y1="{_TOP - 8}" x2="{x:.1f}" y2="{bottom}" stroke="{_GRID}"/>')
        lines.append(_text(x, bottom + 16, span(number * step) if number else _clock(begin), "middle"))
    return lines


def _names(lanes: Mapping[str, float]) -> list[str]:
    return [_text(_LEFT - 10, y + _BAR - 5, printable(name, 22), "end") for name, y in lanes.items()]


def _stay(stay: Stay, y: float, at: Callable[[float], float]) -> list[str]:
    """Draw what was lost of it at its end, and how its running time divides: computed, waited for files, neither."""
    boxes, begin, end = [], at(stay.begin), at(stay.end)
    if stay.lost:
        boxes.append(_box(at(stay.end - stay.lost), y, end, 4, _LOST, f"lost: {span(stay.lost)}"))
    if stay.cost is not None and stay.ran:
        whole = max(stay.ran, stay.cost.cpu + stay.cost.waited)  # several threads spend and wait at once
        computed = begin + (end - begin) * stay.cost.cpu / whole
        waited = computed + (end - begin) * stay.cost.waited / whole
        boxes.append(_box(begin, y + 5, computed, 8, "#7fa35c", f"computed: {span(stay.cost.cpu)}"))
        told = f"waited for files: {span(stay.cost.waited)}, {size(stay.cost.carried)}"
        boxes.append(_box(computed, y + 5, waited, 8, _FILES, told))
        boxes.append(f'<rect x="{begin:.1f}" y="{y + 5}" width="{max(end - begin, _LEAST):.1f}" height="8" '
                     f'fill="none" stroke="#999" stroke-width="0.6"/>')  # fmt: skip
    return boxes


def _mark(x: float, y: float, told: str, height: float = _BAR) -> str:
    return (
        f'<path d="M{x:.1f} {y - 1} l4 -7 h-8 z M{x:.1f} {y} v{height}" fill="{_IMAGE}" stroke="{_IMAGE}" '
        f'stroke-width="0.8">{_title(told)}</path>'
    )


def _box(x: float, y: float, to: float, height: float, colour: str, told: str) -> str:
    width = max(to - x, _LEAST)
    where = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}"'
    return f'<rect {where} fill="{colour}">{_title(told)}</rect>'


def _title(told: str) -> str:
    return f"<title>{_escaped(told)}</title>" if told else ""


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{_escaped(text)}</text>'


def _escaped(text: str) -> str:
    return escape(printable(text, None))


def _clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment))


def _whole(lines: list[str], height: float) -> str:
    box = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="sans-serif" font-size="12" fill="{_INK}">'
    return "\n".join([head, f'<rect width="{_WIDTH}" height="{height}" fill="white"/>', *lines, "</svg>"]) + "\n"
