"""Numbers for people."""

from __future__ import annotations


def size(count: float) -> str:
    """Say a number of bytes as people do: 1.5 GiB."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
