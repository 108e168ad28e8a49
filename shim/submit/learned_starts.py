"""Keep, for each command and directory, what it used as it started (remoteio/submit/export/first_names.py).

A file each in the user's cache, readable by nobody else: names, and which ranges of the files were read, which say
nothing by themselves. What is not as it was written is ignored, and written anew; so is what is old, or else what is
needed no more would stay.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from checkpoint.submit import xdg
from remoteio.submit.export.first_names import MOST_NAMES, MOST_RANGES, Ranges, Uses
from shim.submit.scope import Scope

try:
    from _blake2 import blake2b  # hashlib would import OpenSSL, which takes 5 ms
except ImportError:
    from hashlib import blake2b

MOST_STARTS = 256
MOST_BYTES = 1 << 18
OLD_S = 7 * 24 * 3600.0
_PATH_MAX = 4096  # bytes: linux/limits.h
_HEAD = b"rexec start 2"


class LearnedStart:
    """What one command uses, started in one directory with what is of one scope.

    Each scope has its own: what a job with more rights looked up is no business of a host that has fewer.
    """

    def __init__(self, argv: Sequence[bytes], cwd: bytes, scope: Scope) -> None:
        words = argv[: 3 if argv[1:2] in ([b"-c"], [b"-C"], [b"-m"]) else 2]  # sh -c, git -C, python -m
        told = b"\0".join([os.fsencode(repr(scope)), cwd, *words])
        key = blake2b(told, digest_size=16).hexdigest()
        try:
            self._path: Path | None = xdg.cache() / "starts" / key
        except RuntimeError:  # who has no home
            self._path = None

    def uses(self) -> Uses:
        """Read it; nothing, if nothing that can be used is kept."""
        if self._path is None:
            return {}
        try:
            with open(self._path, "rb") as f:
                old = time.time() - os.fstat(f.fileno()).st_mtime > OLD_S
                text = f.read(MOST_BYTES + 1)
        except OSError:
            return {}
        head, *items = text.split(b"\0")
        if old or head != _HEAD or len(text) > MOST_BYTES or not 0 < len(items) <= MOST_NAMES:
            return {}
        found = [_use(item) for item in items]
        return {use[0]: use[1] for use in found if use is not None} if None not in found else {}

    def keep(self, uses: Uses) -> None:
        """Write it; where that cannot be done, the next start is told nothing."""
        text = b"\0".join([_HEAD, *(_item(name, ranges) for name, ranges in uses.items())])
        if self._path is None or len(text) > MOST_BYTES:
            return
        work = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            xdg.make(self._path.parent)
            with open(os.open(work, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as f:
                f.write(text)
            os.replace(work, self._path)
            kept = sorted(self._path.parent.iterdir(), key=lambda each: each.stat().st_mtime)
            for each in kept[: max(len(kept) - MOST_STARTS, 0)]:
                each.unlink(missing_ok=True)
        except OSError:
            return


def _item(name: bytes, ranges: Ranges | None) -> bytes:
    return name if ranges is None else b",".join(b"%d-%d" % each for each in ranges) + b" " + name


def _use(item: bytes) -> tuple[bytes, Ranges | None] | None:
    """The path and what was read of it; None: it is not as it was written."""
    told, space, rest = item.partition(b" /")
    if item.startswith(b"/") or not space:
        return (item, None) if _usable(item) else None
    ranges = []
    for each in told.split(b",") if told else ():
        begin, _, end = each.partition(b"-")
        if not (begin.isdigit() and end.isdigit() and len(each) < 40 and int(begin) < int(end)):
            return None
        ranges.append((int(begin), int(end)))
    name = b"/" + rest
    return (name, ranges) if _usable(name) and len(ranges) <= MOST_RANGES else None


def _usable(name: bytes) -> bool:
    return name.startswith(b"/") and len(name) <= _PATH_MAX and not {b"", b".", b".."} & {*name[1:].split(b"/")}
