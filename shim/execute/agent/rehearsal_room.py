"""Whether this host has the memory to restore an image beside the job that runs here. Shipped."""

from __future__ import annotations

from remoteio.execute import machine

_TIMES = 2  # the tree's memory; and its image, where that is kept in memory too


def lacking(size: int) -> str:
    """Say why an image of `size` bytes is not to be restored here now; empty: there is room for it. Raises OSError."""
    with open("/proc/meminfo") as f:
        free = available(f.read())
    return "" if free >= _TIMES * size else "%s has not twice the image's memory to spare" % machine.name()


def available(meminfo: str) -> int:
    """Return the bytes that programs can have without swapping: proc_meminfo(5), MemAvailable; 0: it does not say."""
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0
