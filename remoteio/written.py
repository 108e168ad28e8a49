"""Which files a job has written or holds open for writing, as a checkpoint must know them."""

from __future__ import annotations

import os

from remoteio.inodes import Node

# (path, size in bytes, mtime in ns, inode number)
Row = tuple[bytes, int, int, int]


class Written:
    """Told by the export of each file that is opened for writing; asked at a checkpoint, when the job stands still."""

    __slots__ = ("_nodes",)

    def __init__(self) -> None:
        self._nodes: dict[int, Node] = {}

    def add(self, node: Node) -> None:
        """`node` may be written from now on. Its node is kept for good, and so follows its renames."""
        if node.id not in self._nodes:
            node.lookups += 1  # what nobody refers to would be dropped, and its next name not be known
            self._nodes[node.id] = node

    def rows(self) -> list[Row]:
        """The files as they are now. One that has no name any more is left out: its contents are in the image."""
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


def _path(node: Node) -> bytes:
    names = []
    while node.parent is not None:
        names.append(node.name)
        node = node.parent
    return b"/" + b"/".join(reversed(names))
