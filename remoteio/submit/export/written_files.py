"""Which files a job has written or holds open, as a checkpoint must know them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from remoteio.submit.export import nodes
from remoteio.submit.export.changes import Changes, File
from remoteio.submit.export.inodes import Inodes
from remoteio.submit.export.node_log import NodeLog
from remoteio.submit.export.nodes import Node
from remoteio.submit.export.pinned import Pin, Pinned

TYPE_CHECKING = False  # only a job of which images are made has a journal, and each run would wait for its modules
if TYPE_CHECKING:
    from remoteio.submit.undo.watch import Watch

_REMOVED = b" (deleted)"  # how the kernel ends a name that is gone
# (path, size in bytes, mtime in ns, inode number)
Row = tuple[bytes, int, int, int]


class WrittenFiles:
    """Keeps each file that was opened for writing; asked at a checkpoint, when the job stands still.

    pinned  files that the job has still though their names are others' by now
    log     of which node is which file, for a process after this one; None: there is none
    """

    __slots__ = ("_changes", "_nodes", "log", "pinned", "watch")

    def __init__(self, changes: Changes, watch: Watch | None = None, log: NodeLog | None = None) -> None:
        """`watch`: keeps what must be kept of any file before it is changed; None: nothing is to be undone."""
        self._changes, self.watch, self.pinned = changes, watch, Pinned()
        self._nodes: dict[int, Node] = {}
        self.log = log

    def add(self, node: Node) -> File:
        """Keep `node`, which may be written from now on: it is kept for good, and so follows its renames."""
        if node.changes is None:
            node.lookups += 1  # what nobody refers to would be dropped, and its next name not be known
            self._nodes[node.id] = node
            if self.log is not None:
                self.log.written(node)
            node.changes = self._changes.file((node.dev, node.ino))
            if self.watch is not None:
                node.changes.watch = self.watch.file((node.dev, node.ino))
        return node.changes

    def known(self, st: os.stat_result) -> File | None:
        """See Changes.known."""
        return self._changes.known(st)

    def moves(self, parent: Node, name: bytes) -> list[tuple[File, str]]:
        """See Changes.moves, for the directory of that name."""
        return self._changes.moves(path_of(parent, name))

    def rows(self) -> list[Row]:
        """List the files as they are now, but those that have no name any more: their contents are in the image."""
        rows = []
        for node in tuple(self._nodes.values()):
            for path in _paths(node):
                try:
                    st = os.stat(path, follow_symlinks=False)
                except OSError:
                    continue  # it was removed, by the job or by somebody else
                if (st.st_dev, st.st_ino) == (node.dev, node.ino):
                    rows.append((path, st.st_size, st.st_mtime_ns, st.st_ino))
                    break
        return rows


class OpenFiles:
    """The regular files that are open or mapped, as the job's dump saw them.

    rows    (path, inode number, for writing?) of each that has a name
    moved   (path, removed altogether?) of each that the image has by a name, which leads to another file or to none
    called  (path, path): a name that is nobody's any more, by which the image may have the file; one that it still has
    read    those of `rows` that are open to be read only, and not locked: path, and how they are
    pinned  those of `rows` whose bytes are kept ones, and a descriptor of these
    """

    __slots__ = ("called", "moved", "pinned", "read", "rows")

    def __init__(
        self,
        rows: list[tuple[bytes, int, bool]],
        moved: list[tuple[bytes, bool]],
        called: list[tuple[bytes, bytes]] | None = None,
        read: list[tuple[bytes, os.stat_result]] | None = None,
        pinned: list[tuple[Pin, int]] | None = None,
    ) -> None:
        self.rows, self.moved = rows, moved
        self.called, self.read, self.pinned = called or [], read or [], pinned or []

    def __eq__(self, other: object) -> bool:
        """Compare what is noted of the files; how those of `read` are is looked at when it counts."""
        return isinstance(other, OpenFiles) and self._noted() == other._noted()

    __hash__ = None  # type: ignore[assignment]

    def _noted(self) -> tuple[object, ...]:
        return self.rows, self.moved, self.called, self.pinned


def opened(inodes: Inodes, shown: Pinned | None = None, lost: Iterable[bytes] = ()) -> OpenFiles:
    """List the files that are open or mapped, those `shown` by kept bytes among them; the job stands still.

    `lost`: names of what it has open as well, which is not to be found by them any more.

    A name is right if it leads to (device, inode number) of the open file. This compares two looks of the same moment:
    what is stored and compared later is the inode number alone, since device numbers change.
    """
    found: dict[int, tuple[bytes, int, bool]] = {}
    moved = {(path, False) for path in lost}
    called: dict[bytes, bytes] = {}
    pinned: dict[int, tuple[Pin, int]] = {}
    looks: dict[int, tuple[bytes, os.stat_result]] = {}
    for handle in tuple(inodes.handles.values()):
        node = handle.node
        if node.kind != stat.S_IFREG or node.fd >= 0:  # that is shown instead of a file here
            if shown is not None and (pin := shown.of(node)) is not None:
                found[node.id], pinned[node.id] = (pin[0].path, pin[0].inode, False), pin
            continue
        st = os.fstat(handle.fd)
        # The job's kernel knows that it has no name: by the job's own doing, or since it was told of 0 links. Else criu
        # has taken the name that the kernel remembers, even if others removed the file meanwhile.
        if node.nameless or inodes.known(st) is not node:
            continue
        leads = {path: _leads(inodes, path, node) for path in _paths(node)}
        if not leads:
            continue  # O_TMPFILE
        right = [path for path, there in leads.items() if there]
        # One name of several suffices, but not to write by: which of them the job has opened, the kernel does not say.
        if not right or (handle.writable and False in leads.values()):
            moved.add((next(path for path, there in leads.items() if not there), not st.st_nlink))
            continue
        for path, there in leads.items():
            if there is None and _leads(inodes, path + _REMOVED, node) is None:
                called[path] = right[0]
        before = found.get(node.id)
        found[node.id] = right[0], node.ino, handle.writable or (before is not None and before[2])
        looks[node.id] = right[0], st
    rows = sorted(found.values()), sorted(moved), sorted(called.items())
    return OpenFiles(*rows, _read(inodes, looks), list(pinned.values()))


def _read(inodes: Inodes, looks: dict[int, tuple[bytes, os.stat_result]]) -> list[tuple[bytes, os.stat_result]]:
    """Those that are open to be read only, and not locked; `looks`: all, by the number of the node."""
    handles = tuple(inodes.handles.values())
    others = {each.node.id for each in handles if each.writable or each.flocked or each.node.locks}
    return [look for number, look in looks.items() if number not in others]


def _paths(node: Node) -> list[bytes]:
    """By which names it is known, the latest first."""
    return [nodes.path(parent, name) for parent, name in node.names() if name]


def _leads(inodes: Inodes, path: bytes, node: Node) -> bool | None:
    """Whether the path leads to the file; False: it leads to another one; None: to nothing that can be looked at."""
    try:
        st = os.stat(path[1:], dir_fd=inodes.top.fd, follow_symlinks=False)
    except OSError:
        return None
    return (st.st_dev, st.st_ino) == (node.dev, node.ino)


def path_of(parent: Node, name: bytes) -> str:
    """Name what has that name in that directory."""
    return os.fsdecode(nodes.path(parent, name))
