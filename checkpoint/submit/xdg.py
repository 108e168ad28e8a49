"""Where this user's own of rexec is kept here: XDG Base Directory Specification. Raises RuntimeError without a home."""

from __future__ import annotations

import os
from pathlib import Path


def state() -> Path:
    """Name `$XDG_STATE_HOME/rexec`, by default under `~/.local/state`: images and jobs."""
    return _base("XDG_STATE_HOME", ".local/state") / "rexec"


def data() -> Path:
    """Name `$XDG_DATA_HOME/rexec`, by default under `~/.local/share`: the criu that is sent to hosts."""
    return _base("XDG_DATA_HOME", ".local/share") / "rexec"


def cache() -> Path:
    """Name `$XDG_CACHE_HOME/rexec`, by default under `~/.cache`: what a job run here keeps (shim/execute/stage.py)."""
    return _base("XDG_CACHE_HOME", ".cache") / "rexec"


def make(directory: Path) -> None:
    """Make the directory and what is missing above it, each for this user alone, whatever the umask. Raises OSError.

    Path.mkdir gives the mode only to the last.
    """
    for each in (*reversed(directory.parents), directory):
        if not each.is_dir():
            each.mkdir(0o700, exist_ok=True)


def _base(variable: str, default: str) -> Path:
    given = os.environ.get(variable, "")
    return Path(given) if given.startswith("/") else Path.home() / default
