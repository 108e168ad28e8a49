"""Options that say for how long, for who imports no click."""

from __future__ import annotations

import math
import os


def lease(text: str | None, checkpoint: bool) -> int:
    """Return the seconds of --lease; None: as many as there are unless somebody says otherwise. Raises PolicyError."""
    from shim.wire import lease

    if text is None:
        return lease.IMAGES if checkpoint else lease.LEASE
    from shim.wire.owner_policy import parse_duration

    return round(parse_duration(text, "--lease"))


def keep(text: str | None) -> int:
    """Return the seconds of --keep of a plain run; None: those of $REXEC_KEEP, or as ever. Raises PolicyError."""
    from shim.submit.hosts import kept

    key, text = ("REXEC_KEEP", os.environ.get("REXEC_KEEP")) if text is None else ("--keep", text)
    if not text:
        return kept.SECONDS
    from shim.wire.owner_policy import parse_duration

    return math.ceil(parse_duration(text, key))
