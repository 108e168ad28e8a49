"""The directories that criu makes above what it makes again of removed files and directories. Shipped.

It takes away what it has made of those themselves; above them it leaves what was not there, empty.
"""

from __future__ import annotations

import errno
import os


def missing(directories: list[str]) -> list[str]:
    """List those that there are not, in their order."""
    return [path for path in directories if not os.path.lexists(path)]


def remove(directories: list[str]) -> None:
    """Remove those of them that have been made meanwhile, and have nothing in them. Raises OSError."""
    for path in directories:
        try:
            os.rmdir(path)
        except OSError as e:
            if e.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST):
                raise
