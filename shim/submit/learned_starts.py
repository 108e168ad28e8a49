"""Keep, for each command and directory, which names it looked up as it started (remoteio/submit/export/first_names.py).

A file each in the user's cache, readable by nobody else: names alone, which say nothing by themselves. What is not as
it was written is ignored, and written anew; so is what is old, or else names that are needed no more would stay.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from checkpoint.submit import xdg
from remoteio.submit.export.first_names import MOST_NAMES
from shim.submit.scope import Scope

MOST_STARTS = 256
MOST_BYTES = 1 << 17
OLD_S = 7 * 24 * 3600.0
_PATH_MAX = 4096  # bytes: linux/limits.h
_HEAD = b"rexec names 1"


class LearnedStart:
    """The names of one command, started in one directory with what is of one scope.

    Each scope has its own: what a job with more rights looked up is no business of a host that has fewer.
    """

    def __init__(self, argv: Sequence[bytes], cwd: bytes, scope: Scope) -> None:
        key = hashlib.sha256(b"\0".join([os.fsencode(repr(scope)), cwd, *argv[:2]])).hexdigest()[:32]
        try:
            self._path: Path | None = xdg.cache() / "starts" / key
        except RuntimeError:  # who has no home
            self._path = None

    def names(self) -> list[bytes]:
        """Read them; none, if nothing that can be used is kept."""
        if self._path is None:
            return []
        try:
            with open(self._path, "rb") as f:
                old = time.time() - os.fstat(f.fileno()).st_mtime > OLD_S
                text = f.read(MOST_BYTES + 1)
        except OSError:
            return []
        head, *names = text.split(b"\0")
        if old or head != _HEAD or len(text) > MOST_BYTES or not 0 < len(names) <= MOST_NAMES:
            return []
        return names if all(map(_usable, names)) else []

    def keep(self, names: list[bytes]) -> None:
        """Write them; where that cannot be done, the next start is told nothing."""
        text = b"\0".join([_HEAD, *names])
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


def _usable(name: bytes) -> bool:
    return name.startswith(b"/") and len(name) <= _PATH_MAX and not {b"", b".", b".."} & {*name[1:].split(b"/")}
