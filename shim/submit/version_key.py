"""Keep the key with which versions of files are named (remoteio/submit/export/version_names.py).

Each user here has one. It lies in his cache, which no job is shown: without it, hosts are told other names, and keep
what they read anew.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from checkpoint.submit import xdg
from remoteio.submit.export.version_names import VersionNames

_SIZE = 32


def version_key() -> bytes:
    """Read the key, or make it; b"": it can be neither."""
    try:
        path = xdg.cache() / "versions.key"
        return _read(path) or _made(path)
    except (OSError, RuntimeError):  # RuntimeError: who has no home
        return b""


def version_names() -> VersionNames:
    """Make what names versions by it."""
    return VersionNames(version_key())


def _read(path: Path) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as f:
            st, key = os.fstat(f.fileno()), f.read(_SIZE + 1)
    except FileNotFoundError:
        return b""
    return key if len(key) == _SIZE and st.st_uid == os.geteuid() and not st.st_mode & 0o77 else b""


def _made(path: Path) -> bytes:
    """Make it, whole under its name: of two who do so at once one is first, and both have his."""
    xdg.make(path.parent)
    work = path.with_name(f"{path.name}.{os.urandom(8).hex()}")
    try:
        with open(os.open(work, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as f:
            f.write(os.urandom(_SIZE))
        with suppress(FileExistsError):
            os.link(work, path)
    finally:
        work.unlink(missing_ok=True)
    return _read(path)
