"""Files whose versions have names: only some filesystems tell of each change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from remoteio import syscalls
from remoteio.submit.export.version_names import TIMED, VersionNames
from tests.until import until

ANY = VersionNames(b"any")


def until_named(path: Path, names: VersionNames = ANY) -> bytes:
    """The name of a file's version, once it was not changed just now; skips the test where there is none."""
    with path.open("rb") as file:
        if syscalls.fstatfs(file.fileno())[0] not in TIMED:
            pytest.skip(f"{path} lies on a filesystem that does not tell of each change")
        return until(lambda: names.of(file.fileno(), os.fstat(file.fileno())), "it was not changed just now")
