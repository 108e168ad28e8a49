"""Which programs of this machine rexec runs: chosen once."""

from __future__ import annotations

import os
from functools import cache


def find(name: str) -> str | None:
    """Return the path of a program of PATH, as it was when first asked; None: there is none.

    A job may write to a directory of the user's own, ~/bin for one, that comes earlier there.
    """
    return _find(name, os.environ.get("PATH", os.defpath))


@cache
def _find(name: str, path: str) -> str | None:
    for directory in path.split(os.pathsep):  # as shutil.which, which each run would wait 2 ms for
        found = os.path.join(directory or os.curdir, name)
        if os.path.isfile(found) and os.access(found, os.X_OK):
            return found
    return None
