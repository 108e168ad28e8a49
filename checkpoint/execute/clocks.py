"""What a tree's clocks show in its image: CLOCK_MONOTONIC and CLOCK_BOOTTIME. Shipped.

Both count from a machine's own start, and a job that goes on on another machine must see neither of them jump: what
waits until a moment of theirs (Python's sleep, all timers) would wake at once, or not for days. criu says in the image
what they showed, and as root has them go on from there in a time namespace (time_namespaces(7)); an ordinary user's
criu does not.
"""

from __future__ import annotations

from checkpoint.execute import criu_images
from checkpoint.execute.criu import CriuError
from checkpoint.execute.spool import Spool
from checkpoint.wire import protobuf

_FILE = "timens-0.img"  # of a tree that has criu's own time namespace: images/timens.proto
_MONOTONIC, _BOOTTIME, _SECONDS, _NANOSECONDS = 1, 2, 1, 2


def shown(spool: Spool) -> tuple[int, int] | None:
    """Read what the image's clocks show, monotonic and since the boot, in nanoseconds; None: it does not say.

    Raises CriuError, OSError.
    """
    if _FILE not in spool.names():
        return None
    entry, _ = criu_images.first(spool.read(_FILE), criu_images.TIME_NAMESPACE)
    try:
        clocks = protobuf.decode(entry)
        return _time(clocks, _MONOTONIC), _time(clocks, _BOOTTIME)
    except protobuf.ProtobufError as e:
        raise CriuError(f"the clocks of it: an entry {e}") from e


def _time(clocks: protobuf.Fields, number: int) -> int:
    time = protobuf.decode(protobuf.content(clocks, number))
    return (protobuf.integer(time, _SECONDS) or 0) * 10**9 + (protobuf.integer(time, _NANOSECONDS) or 0)
