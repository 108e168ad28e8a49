"""Ranges of addresses: sorted lists of (start, end) that neither touch nor overlap. Pure; shipped."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from checkpoint.wire.manifest import WINDOW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

Ranges = list[tuple[int, int]]


def joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Join what touches or overlaps, of ranges in any order."""
    out: Ranges = []
    for start, end in sorted(ranges):
        if start >= end:
            continue
        if out and start <= out[-1][1]:
            if end > out[-1][1]:
                out[-1] = (out[-1][0], end)
        else:
            out.append((start, end))
    return out


def without(ranges: Ranges, taken: Ranges) -> Ranges:
    """Return what of `ranges` is in none of `taken`."""
    out: Ranges = []
    at = 0
    for start, end in ranges:
        while at < len(taken) and taken[at][1] <= start:
            at += 1
        look = at
        while look < len(taken) and taken[look][0] < end:
            if taken[look][0] > start:
                out.append((start, taken[look][0]))
            start = taken[look][1]
            look += 1
        if start < end:
            out.append((start, end))
    return out


def shared(ranges: Ranges, others: Ranges) -> Ranges:
    """Return what is in both."""
    out: Ranges = []
    at = 0
    for start, end in ranges:
        while at < len(others) and others[at][1] <= start:
            at += 1
        look = at
        while look < len(others) and others[look][0] < end:
            out.append((max(start, others[look][0]), min(end, others[look][1])))
            look += 1
    return out


def within(ranges: Ranges, start: int, end: int) -> Ranges:
    """Return those that reach into what is from `start` to `end`, whole: a process may have ten thousand."""
    first = bisect_right(ranges, (start, 1 << 64))
    if first and ranges[first - 1][1] > start:
        first -= 1
    return ranges[first : bisect_left(ranges, (end, 0))]


def add(ranges: Ranges, more: Ranges) -> None:
    """Add ranges to `ranges` itself; cheap where they come behind all others, or are there already."""
    more = without(more, within(ranges, more[0][0], more[-1][1])) if more else []
    if more and ranges and more[0][0] <= ranges[-1][1]:
        ranges[:] = joined(ranges + more)
    else:
        ranges += more


def windows(ranges: Ranges) -> Ranges:
    """Widen each range to the windows that it is in."""
    return joined((start // WINDOW * WINDOW, -(-end // WINDOW) * WINDOW) for start, end in ranges)


def unchanged(present: Ranges, clean: Ranges, before: Ranges, start: int, end: int) -> Ranges:
    """Return which of the pages `present` are in windows that hold what they held at the last image.

    present     the pages from `start` to `end` that would be in an image
    clean       pages that were not written since the last one
    before      the pages that were in it

    A window of which a part is beyond start or end, has a page more or fewer, or one that is not clean, is none.
    """
    inside = (-(-start // WINDOW) * WINDOW, end // WINDOW * WINDOW)
    if inside[0] >= inside[1]:
        return []
    now, then = shared(present, [inside]), shared(within(before, *inside), [inside])
    changed = without(now, within(clean, *inside)) + without(now, then) + without(then, now)
    return without(now, windows(changed))
