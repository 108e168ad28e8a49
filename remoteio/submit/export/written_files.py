"""Which files a job has written or holds open, as a checkpoint must know them."""

from __future__ import annotations

import os
import stat

from remoteio.submit.export.changes import Changes, File
from remoteio.submit.export.inodes import Inodes
from remoteio.submit.export.nodes import Node

# (path, size in bytes, mtime in ns, inode number)
Row = tuple[bytes, int, int, int]


class WrittenFiles:
    """Keeps each file that was opened for writing; asked at a checkpoint, when the job stands still."""

    __slots__ = ("_changes", "_nodes")

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._nodes: dict[int, Node] = {}

    def add(self, node: Node) -> File:
        """Keep `node`, which may be written from now on: it is kept for good, and so follows its renames."""
        if node.changes is None:
            node.lookups += 1  # what nobody refers to would be dropped, and its next name not be known
            self._nodes[node.id] = node
            node.changes = self._changes.file((node.dev, node.ino))
        return node.changes

    def known(self, st: os.stat_result) -> File | None:
        """See Changes.known."""
        return self._changes.known(st)

    def rows(self) -> list[Row]:
        """List the files as they are now, but those that have no name any more: their contents are in the image."""
        rows = []
        for node in tuple(self._nodes.values()):
            path = _path(node)
            try:
                st = os.stat(path, follow_symlinks=False)
            except OSError:
                continue  # it was removed, by the job or by somebody else
            if (st.st_dev, st.st_ino) == (node.dev, node.ino):
                rows.append((path, st.st_size, st.st_mtime_ns, st.st_ino))
        return rows


def opened(inodes: Inodes) -> list[tuple[bytes, int, bool]]:
    """List (path, inode number, for writing?) of each regular file that is open or mapped."""
    found: dict[int, tuple[bytes, int, bool]] = {}
    for handle in tuple(inodes.handles.values()):
        node = handle.node
        if node.kind == stat.S_IFREG:
            before = found.get(node.id)
            found[node.id] = _path(node), node.ino, handle.writable or (before is not None and before[2])
    return sorted(found.values())


def _path(node: Node) -> bytes:
    names = []
    while node.parent is not None:
        names.append(node.name)
        node = node.parent
    return b"/" + b"/".join(reversed(names))
