"""Submit side: have the job's kernel let go of files that it came by long ago. It has no need to while it has memory.

Each that it knows costs half a KiB here: a job that had looked at a million files took half a GiB. Linux 6.18 lets go
of those that it is told, but for what is in use. Older ones are left alone: to tell them that a name is another file's
would take what is in use from under the job's feet (``getcwd``, ``/proc/self/exe``).
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

from remoteio.submit.export.inodes import Inodes
from remoteio.submit.export.nodes import Node
from remoteio.wire import fuse_abi as abi

MOST_KEPT = 1 << 17  # files that it may know, for as long as it likes; twice as many as the relay knows by name
AT_ONCE = 1 << 14  # that it is told to let go of: some are in use, or the relay may tell of them again
_KINDS = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)  # the others have something in that kernel beside their names


class Pruning:
    """Chooses what the job's kernel is to let go of. Threads: one asks what is `due`."""

    def __init__(self, inodes: Inodes) -> None:
        self.able = False  # the kernel has said that it is new enough
        self._inodes = inodes
        self._left: Iterator[int] = iter(())

    def due(self) -> bytes:
        """Make what tells the kernel to let go of those that it has known longest; b"": they are not too many."""
        if not self.able or len(self._inodes.nodes) <= MOST_KEPT:
            return b""
        chosen: list[int] = []
        began = False
        while len(chosen) < AT_ONCE:
            number = next(self._left, 0)
            if not number:
                if began:
                    break
                self._left, began = iter(tuple(self._inodes.nodes)), True  # in the order in which they were met
            elif (node := self._inodes.nodes.get(number)) is not None and _may_go(node):
                chosen.append(number)
        return abi.prune(chosen) if chosen else b""


def _may_go(node: Node) -> bool:
    return node.parent is not None and node.kind in _KINDS and not node.handles
