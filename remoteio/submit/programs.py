"""Which programs of this machine rexec runs: chosen once."""

from __future__ import annotations

import os
import shutil
from functools import cache


def find(name: str) -> str | None:
    """Return the path of a program of PATH, as it was when first asked; None: there is none.

    A job may write to a directory of the user's own, ~/bin for one, that comes earlier there.
    """
    return _find(name, os.environ.get("PATH", os.defpath))


@cache
def _find(name: str, path: str) -> str | None:
    return shutil.which(name, path=path)
