"""Which bytes of a file that others have changed as well are the job's, and whether others have changed those, too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Union

from remoteio.submit.undo.cover import BLOCK
from remoteio.submit.undo.records import Data, Hole
from remoteio.submit.undo.sums import KnownSums, Sum

_WINDOW = 1 << 24  # bytes of the file looked at together
Kept = Union[Data, Hole]


def own(sums: KnownSums, record: Kept) -> list[tuple[int, int]]:
    """List what of the record's bytes the job has changed, as (start, end) in the file."""
    found: list[tuple[int, int]] = []
    for _, start, end, _ in _blocks(sums, record):
        if found and found[-1][1] == start:
            found[-1] = found[-1][0], end
        elif start < end:
            found.append((start, end))
    return found


def overlaps(fd: int, layers: list[tuple[KnownSums, Kept, int]]) -> bool:
    """Have others changed what the job has, in the file that is open as `fd`?

    `layers`: what was kept of it, the newest first, each with the file in which it is. Where it is not known what the
    job has left, they may have.
    """
    windows: dict[int, list[tuple[KnownSums, Kept, int]]] = {}
    for layer in layers:
        at = layer[1].at
        for window in range(at // _WINDOW, (at + layer[1].length - 1) // _WINDOW + 1):
            windows.setdefault(window, []).append(layer)
    return any(_overlaps(fd, window * _WINDOW, found) for window, found in windows.items())


def _overlaps(fd: int, start: int, layers: list[tuple[KnownSums, Kept, int]]) -> bool:
    shown: dict[int, bytearray] = {}  # blocks, as they are once what is newer has been put back
    for sums, record, source in layers:
        for block, first, last, left in _blocks(sums, record, start, start + _WINDOW):
            if block not in shown:
                shown[block] = bytearray(os.pread(fd, BLOCK, block))
            if not left.is_of(shown[block]):
                return True
            was = _was(record, source, first, last)
            shown[block][first - block : first - block + len(was)] = was
    return False


def _was(record: Kept, source: int, start: int, end: int) -> bytes:
    if isinstance(record, Hole):
        return bytes(end - start)
    place = record.place if record.place >= 0 else -1 - record.place
    return os.pread(source, end - start, place + start - record.at)


def _blocks(sums: KnownSums, record: Kept, start: int = 0, end: int = 1 << 63) -> Iterator[tuple[int, int, int, Sum]]:
    """List the blocks of a record that begin in [start, end), with what of each is the job's: all that is not known."""
    base = record.at // BLOCK
    for block in range(max(base * BLOCK, start), min(record.at + record.length, end), BLOCK):
        left = sums.of(record.sums + block // BLOCK - base if record.sums >= 0 else -1)
        first, last = (left.start, left.end) if left.end else (0, BLOCK)
        yield block, max(block + first, record.at), min(block + last, record.at + record.length), left
