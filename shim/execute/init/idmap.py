"""Which ids a job's user namespace maps, and to what. Shipped; pure but for ``subordinate``.

Sources: user_namespaces(7), newuidmap(1), subuid(5).
"""

from __future__ import annotations

WHOLE = 65536  # ids a distribution uses for people and services
ALL = (0, 0, (1 << 32) - 1)
SPARE = 0xFFFF_FFF0  # nobody's id on any host: below what kernels, NFS and systemd take for nobody
# A job's uid 0 is none of the host's, and has no right to what is root's there; every other id is itself.
NOT_ROOT = [(0, SPARE, 1), (1, 1, SPARE - 1)]
ROOT, BOTH, OWN, ZERO = "root", "both", "own", "zero"  # see checkpoint/wire/compat.py


def plan(inside: int, outside: int, ranges: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Make (inside, outside, count) lines: `inside` is the login's own id, all others below 65536 come from `ranges`.

    With too few subordinate ids the own id alone is mapped, which needs no privilege at all.
    """
    first = next((start for start, count in ranges if count >= WHOLE), None)
    if first is None:
        return [(inside, outside, 1)]
    lines = [(inside, outside, 1)]
    if inside:
        lines.insert(0, (0, first, min(inside, WHOLE)))
    if inside + 1 < WHOLE:
        lines.append((inside + 1, first + inside + 1, WHOLE - inside - 1))
    return lines


def subordinate(path: str, names: tuple[str, ...] | None) -> list[tuple[int, int]]:
    """Read the (first, count) ranges of `path` (/etc/subuid, /etc/subgid) for users of these `names`, None: for all."""
    ranges = []
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            lines = f.read().splitlines()
    except OSError:
        return []
    for line in lines:
        owner, _, rest = line.partition(":")
        first, _, count = rest.partition(":")
        if (names is None or owner in names) and first.isdigit() and count.strip().isdigit():
            ranges.append((int(first), int(count)))
    return ranges


def text(lines: list[tuple[int, int, int]]) -> str:
    """Write it as /proc/PID/uid_map takes it."""
    return "".join("%d %d %d\n" % line for line in lines)
