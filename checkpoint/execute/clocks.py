"""What a tree's clocks show in its image: CLOCK_MONOTONIC and CLOCK_BOOTTIME. Shipped.

Both count from a machine's own start, and a job that goes on on another machine must see neither of them jump: what
waits until a moment of theirs (Python's sleep, all timers) would wake at once, or not for days. criu says in the image
what they showed, and as root has them go on from there in a time namespace (time_namespaces(7)); an ordinary user's
criu does not.
"""

from __future__ import annotations

import os

from checkpoint.execute import criu_images
from checkpoint.execute.criu import CriuError
from checkpoint.wire import protobuf

_FILE = "timens-0.img"  # of a tree that has criu's own time namespace: images/timens.proto
_MONOTONIC, _BOOTTIME, _SECONDS, _NANOSECONDS = 1, 2, 1, 2


def shown(spool: str) -> tuple[int, int] | None:
    """Read what the image's clocks show, monotonic and since the boot, in nanoseconds; None: it does not say.

    Raises CriuError, OSError.
    """
    path = os.path.join(spool, _FILE)
    if not os.path.exists(path):
        return None
    with open(path, "rb") as f:
        entry, _ = criu_images.first(f.read(), criu_images.TIME_NAMESPACE)
    try:
        clocks = protobuf.decode(entry)
        return _time(clocks, _MONOTONIC), _time(clocks, _BOOTTIME)
    except protobuf.ProtobufError as e:
        raise CriuError(f"the clocks of it: an entry {e}") from e


def _time(clocks: protobuf.Fields, number: int) -> int:
    time = protobuf.decode(protobuf.content(clocks, number))
    return (protobuf.integer(time, _SECONDS) or 0) * 10**9 + (protobuf.integer(time, _NANOSECONDS) or 0)
