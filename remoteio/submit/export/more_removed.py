"""Decide where a job may be told that a name is gone before it is taken away here (remoteio/wire/makes.py: REMOVE).

That must be known to succeed. The job's kernel has asked for permission as it is shown there; here it is asked again,
as ids may be shown otherwise, and of all that it is not told: whether the filesystem may be written to, the directory
and what is in it may be changed at all (chattr +i, +a), others' files may be removed there (the sticky bit), something
is mounted there, or a socket is bound. The directory is leased, so that who changes its rights takes all this back.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Collection

from remoteio import syscalls
from remoteio.submit.export.confine import Key
from remoteio.submit.export.nodes import Node
from remoteio.submit.export.rights import folded
from remoteio.wire.coherence import TTL

_LARGE = 1 << 20  # bytes of a directory whose names are looked at: some 20,000 of them
_KNOWN = 1024  # directories of which that is remembered
_FEW = 64  # names that are kept
_FIXED = syscalls.IMMUTABLE | syscalls.APPEND

Kept = tuple[tuple[bytes, ...], bool]


class MoreRemoved:
    """Says of a directory whether any name in it may be taken away, but for a few. `hidden`: files that are, by number.

    Threads: any. Two may look through one directory at once, and tell the same.
    """

    def __init__(self, hidden: Collection[Key]) -> None:
        self._hidden = hidden
        self._kept: dict[int, tuple[float, Kept | None]] = {}  # by node, until when that is so

    def kept(self, node: Node, at: int) -> Kept | None:
        """Return which names may not, folded, in a directory that is open as `at`, and whether the job is shown all
        that is in it; None: none may. Raises OSError.

        Of what is in it this may be as old as all that is told of a file.
        """
        st, path = os.fstat(at), "/proc/self/fd/%d" % at
        if st.st_mode & stat.S_ISVTX and st.st_uid != os.geteuid():
            return None
        if not os.access(path, os.W_OK | os.X_OK, effective_ids=True) or syscalls.marks(at) & _FIXED:
            return None
        until, kept = self._kept.get(node.id, (0.0, None))
        if until < time.monotonic():
            kept = self._look(node, path, at) if st.st_size <= _LARGE else None
            if len(self._kept) >= _KNOWN:
                self._kept.clear()
            self._kept[node.id] = time.monotonic() + TTL, kept
        return kept

    def forget(self) -> None:
        """Look anew from now on."""
        self._kept.clear()

    def _look(self, node: Node, path: str, at: int) -> Kept | None:
        names, shown = [], not (node.rights.hides or node.rights.closed)
        with os.scandir(os.fsencode(path)) as entries:
            for entry in entries:
                try:
                    marks = syscalls.marks(at, entry.name)
                except FileNotFoundError:
                    continue
                if marks & (_FIXED | syscalls.MOUNTED | syscalls.SOCKET):
                    names.append(folded(entry.name))
                shown = shown and (node.dev, entry.inode()) not in self._hidden
        return (tuple(names), shown) if len(names) <= _FEW else None
