"""Which moments a journal knows, and which image stands for each. Pure.

A *moment* begins with a dump's look at the files, and is an image's once that is committed. What is written down from
then on, up to the next moment, is its *segment*. A moment that never became an image's is part of the one before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple


class Moment(NamedTuple):
    """The number of a segment; the image that saw the files as they were when it was begun, 0: none."""

    segment: int
    image: int


Moments = tuple[Moment, ...]


def bound(moments: Moments, segment: int, image: int) -> Moments:
    """The same, where that segment is that image's, and no other is."""
    others = (moment._replace(image=0) if moment.image == image else moment for moment in moments)
    return tuple(moment._replace(image=image) if moment.segment == segment else moment for moment in others)


def since(moments: Moments, image: int) -> Moments | None:
    """The moments from that image's on; None: it has none, so what was done since is not known."""
    for at, moment in enumerate(moments):
        if moment.image == image:
            return moments[at:]
    return None


def needed(moments: Moments, images: Iterable[int]) -> Moments:
    """Those that one of `images`, or a dump that is under way, goes back by."""
    kept = set(images)
    for at, moment in enumerate(moments):
        if moment.image in kept and moment.image:
            return moments[at:]
    return moments[-1:]


def before(moments: Moments, image: int) -> Moments:
    """Those before that image's: what is left once the files are as it saw them."""
    found = since(moments, image)
    return () if found is None else moments[: len(moments) - len(found)]


def written(moments: Moments) -> bytes:
    """Write them as JSON."""
    return json.dumps([list(each) for each in moments]).encode()


def read(data: bytes) -> Moments:
    """Read what `written` wrote; of anything else: none, so that nothing is known."""
    try:
        rows = json.loads(data)
    except ValueError:
        return ()
    whole = isinstance(rows, list) and all(
        isinstance(row, list) and len(row) == 2 and all(type(n) is int and n >= 0 for n in row) for row in rows
    )
    return tuple(Moment(*row) for row in rows) if whole else ()
