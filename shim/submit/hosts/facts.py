"""Submit side: what a host says of itself when it is asked (shim/execute/probe.py), checked. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shim.submit.shapes import Shape, flag, listed, mapping, maybe, number, table, text, tuple_of, whole

_SIZE = whole()
_ID = whole(0, (1 << 32) - 1)
_RANGES = listed(tuple_of(_ID, _ID), 1000)
_IDLE = number(0, 1e12)
_OWNER = table(
    {
        "idle": maybe(_IDLE),
        "unknown": maybe(text(300)),
        "sources": listed(
            table({"source": text(32), "present": flag, "why": maybe(text(300)), "idle": maybe(_IDLE)}), 32
        ),
        "around": tuple_of(maybe(number(0, 1e9)), whole(0, 1439), flag, _SIZE),
        "word": maybe(
            table(
                {
                    "file": text(300), "refused": maybe(text(500)), "slots": maybe(whole(1, 1 << 20)),
                    "rank": listed(text(500), 1 << 15), "full": maybe(text(500)),
                }
            )
        ),
    }
)  # fmt: skip
# what checkpoint/wire/compat.py has of a host
COMPAT: Mapping[str, Shape] = {
    "machine": text(64), "flags": listed(text(64), 4096), "xsave": _SIZE, "page": _SIZE, "kernel": listed(_SIZE, 8),
    "criu": listed(_SIZE, 8), "memory": _SIZE, "namespaces": listed(text(64), 64), "uid_map": text(64),
}  # fmt: skip
_FACTS = table(
    {
        "hostname": text(255), "kernel": text(100), "arch": text(64), "cores": whole(1, 1 << 20),
        "memory_total": maybe(_SIZE), "memory_available": maybe(_SIZE), "load": number(0, 1e9),
        "cache_free": maybe(_SIZE), "scratch_free": maybe(_SIZE), "gpu": flag, "criu": flag, "page_size": _SIZE,
        "cpu_flags": text(1 << 14), "uid": _ID, "login": text(64),
        "fuse": table({"error": text(200), "mode": text(16)}),
        "namespaces": table({"step": text(64), "error": text(300)}),
        "settings": mapping(text(64), maybe(text(64)), 16), "logout": flag, "id_tools": flag,
        "subuid": _RANGES, "subgid": _RANGES, "subordinate_end": whole(0, 1 << 33), "encrypts": flag, "owner": _OWNER,
        "compat": table(COMPAT),
    }
)  # fmt: skip
_TIME = number(-1e12, 1e12)


def facts(said: object) -> Mapping[str, Any]:
    """Check the table of shim.execute.probe.facts. Raises ShapeError."""
    told: dict[str, Any] = _FACTS(said, "its answer")
    return told


def time(said: object) -> float:
    """Check the seconds since 1970 of a host's clock. Raises ShapeError."""
    told: float = _TIME(said, "its time")
    return told
