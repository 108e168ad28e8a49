"""Which network a machine's programs are in. Pure but for two files of /proc. Shipped."""

from __future__ import annotations

import os

RESOLVER = "/etc/resolv.conf"
LARGEST = 1 << 16  # bytes of a RESOLVER


def name() -> bytes:
    """Name this process's network: the same on two machines only if they are one, and share it; else empty.

    Sources: proc(5), sys/kernel/random/boot_id; network_namespaces(7).
    """
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as f:
            return f.read().strip() + b" " + os.fsencode(os.readlink("/proc/self/ns/net"))
    except OSError:
        return b""  # a container may hide them: it is another network than any other machine's


def resolver() -> bytes | None:
    """Read RESOLVER, by which names are asked here: resolv.conf(5). None: there is none, or none that can be right."""
    try:
        with open(RESOLVER, "rb") as f:
            found = f.read(LARGEST + 1)
    except OSError:
        return None  # the C library asks the machine itself then
    return found if len(found) <= LARGEST else None
