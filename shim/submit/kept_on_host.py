"""Keep, for each host, what of files it has kept (remoteio/submit/export/kept_there.py).

A file each in the user's cache, readable by nobody else: marks of versions and ranges, which say nothing by themselves.
What was learned or used last stands last.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from checkpoint.submit import xdg
from remoteio.submit.export.kept_there import ALWAYS, MARK, Marks

try:
    from _blake2 import blake2b  # hashlib would import OpenSSL, which takes 5 ms
except ImportError:
    from hashlib import blake2b

MOST_HOSTS = 256
MOST_MARKS = 4096  # as many versions as a host keeps
OLD_S = 7 * 24 * 3600.0
_HEAD = b"rexec kept 1\n"
_ROW = MARK + 1


class KeptOnHost:
    """Reads and writes what is known of one host, by its name here."""

    def __init__(self, host: bytes) -> None:
        self._path: Path | None = None
        with suppress(RuntimeError):  # who has no home
            self._path = xdg.cache() / "sent" / blake2b(host, digest_size=16).hexdigest()

    def marks(self) -> Marks:
        """Read it; nothing, if nothing that can be used is kept."""
        if self._path is None:
            return {}
        try:
            with open(self._path, "rb") as f:
                old = time.time() - os.fstat(f.fileno()).st_mtime > OLD_S
                text = f.read(len(_HEAD) + MOST_MARKS * _ROW + 1)
        except OSError:
            return {}
        rows = text[len(_HEAD) :]
        if old or text[: len(_HEAD)] != _HEAD or len(rows) % _ROW or len(rows) > MOST_MARKS * _ROW:
            return {}
        found = {rows[at : at + MARK]: rows[at + MARK] for at in range(0, len(rows), _ROW)}
        return found if max(found.values(), default=0) <= ALWAYS else {}

    def keep(self, marks: Mapping[bytes, int]) -> None:
        """Add these; where that cannot be done, it is sent once more."""
        if self._path is None:
            return
        found = {mark: each for mark, each in self.marks().items() if mark not in marks}
        found.update(marks)
        rows = [mark + bytes((count,)) for mark, count in found.items()]
        work = self._path.with_name(f"{self._path.name}.{threading.get_native_id()}")
        try:
            xdg.make(self._path.parent)
            with open(os.open(work, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as f:
                f.write(_HEAD + b"".join(rows[-MOST_MARKS:]))
            os.replace(work, self._path)
            hosts = sorted(self._path.parent.iterdir(), key=lambda each: each.stat().st_mtime)
            for each in hosts[: max(len(hosts) - MOST_HOSTS, 0)]:
                each.unlink(missing_ok=True)
        except OSError:
            return
