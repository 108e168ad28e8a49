"""What a run wants of a desk: said on its command line. Pure."""

from __future__ import annotations

from typing import NamedTuple

FOR_SLOTS = "--cpus, --memory, --priority, --require and --rank"


class Wanted(NamedTuple):
    """Slots of one host, and which hosts will do.

    cpus      how many slots
    memory    bytes; 0: none are counted for it
    priority  among those who wait: higher is sooner
    require   a ClassAd expression that holds on a host that will do; empty: any will
    rank      one that is larger on a host that is better; empty: the one with most room
    """

    cpus: int = 1
    memory: int = 0
    priority: int = 0
    require: str = ""
    rank: str = ""
