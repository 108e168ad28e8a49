"""Descriptors of the job's files: of directories, kept open to resolve names from; of any other file, as it is needed.

A directory that is used as a parent keeps an O_PATH descriptor, up to a number of them; every other file is reached by
its last known name beneath its parent, and what is found there is compared with the node before it is used. So the
number of descriptors follows the directories in use and the open files, not the files seen.

A number of a descriptor that is closed may be another file's at the next open(2). So whoever uses a directory's
descriptor *borrows* it, for the length of a ``with``: one that is borrowed is not closed, neither to make room nor when
the kernel drops the node; then whoever gives it back last closes it. Closing only later, when it "must" be out of use,
was tried and is no answer: an operation may use the number several times, and wait for a disk between two of them.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import OrderedDict

from remoteio.submit.export import confine
from remoteio.submit.export.filesystems import Filesystems
from remoteio.submit.export.nodes import Node, Stat


class Descriptors:
    """Opens nodes. Raises OSError (ESTALE, ENOTDIR, what open(2) raises) for what is not there any more.

    Threads: any. ``_opening`` is held while directories are opened, and so perhaps while a disk is waited for;
    ``_counting`` guards which are open (``Node.fd``) and used (``Node.borrowed``), and nothing is waited for under it.
    The first may be held when the second is taken, never the other way round.
    """

    def __init__(self, keep: int, filesystems: Filesystems) -> None:
        """`keep` directory descriptors stay open beyond those needed at the moment."""
        self._keep, self._filesystems = keep, filesystems
        self._opening, self._counting = threading.RLock(), threading.Lock()
        self._open_dirs: OrderedDict[int, Node] = OrderedDict()  # by node id, the one opened first is first
        self._dropped: set[Node] = set()  # the kernel knows them no more, and somebody is using their descriptor

    # directories

    def directory(self, node: Node) -> Directory:
        """Lend a descriptor of the directory `node`, to resolve names from: use it in a ``with``, which may raise."""
        return Directory(self, node)

    def borrow_open(self, node: Node) -> int:
        """Borrow the directory's descriptor if there is one, for ``give_back``; -1: there is none."""
        with self._counting:
            if node.fd >= 0:
                node.borrowed += 1
            return node.fd

    def borrow(self, node: Node) -> int:
        """Borrow the directory's descriptor, for ``give_back``."""
        fd = self.borrow_open(node)
        if fd >= 0:
            return fd
        if node.kind != stat.S_IFDIR:
            raise OSError(errno.ENOTDIR, "not a directory")
        with self._opening:
            fd = self.borrow_open(node)
            if fd >= 0:
                return fd  # another thread has opened it meanwhile
            # From the nearest directory above that is open, one after the other: it may be thousands of them.
            closed: dict[int, Node] = {}
            above: Node | None = node
            while above is not None and above.fd < 0:
                if above.id in closed:
                    raise OSError(errno.ESTALE, "directories were moved about, and none leads here any more")
                closed[above.id] = above
                above = above.parent
            for each in reversed(closed.values()):
                if each is not node:
                    self._open_directory(each)
            return self._open_directory(node, borrowed=1)

    def _open_directory(self, node: Node, borrowed: int = 0) -> int:
        fd = self._open(node)
        with self._counting:
            if node.fd >= 0:  # it was moved beneath itself, and opened on the way to its own parent
                fd, spare = node.fd, fd
            else:
                node.fd, spare = fd, -1
                self._open_dirs[node.id] = node
            node.borrowed += borrowed
        if spare >= 0:
            os.close(spare)
        if len(self._open_dirs) > 2 * self._keep:
            self._retire()
        return fd

    def give_back(self, node: Node) -> None:
        """End one ``borrow``."""
        fd = -1
        with self._counting:
            node.borrowed -= 1
            if not node.borrowed and node in self._dropped:
                self._dropped.discard(node)
                fd, node.fd = node.fd, -1
        if fd >= 0:
            os.close(fd)

    def _retire(self) -> None:
        """Close the directories that were opened first, `keep` of them, but for those in use."""
        retired: list[int] = []
        with self._counting:
            for node in tuple(self._open_dirs.values()):
                if len(retired) == self._keep:
                    break
                if not node.borrowed:
                    del self._open_dirs[node.id]
                    retired.append(node.fd)
                    node.fd = -1
        for fd in retired:
            os.close(fd)

    def drop(self, node: Node) -> None:
        """Close the descriptor of a node that the kernel knows no more, as soon as nobody is using it."""
        fd = -1
        with self._counting:
            self._open_dirs.pop(node.id, None)
            if node.borrowed:
                self._dropped.add(node)
            else:
                fd, node.fd = node.fd, -1
        if fd >= 0:
            os.close(fd)

    def pin(self, node: Node | None) -> None:
        """Keep the directory `node` open from now on, if it may be opened."""
        if node is not None and node.fd < 0:
            try:
                with self.directory(node):
                    pass
            except OSError:
                return  # it has gone or may not be opened: whoever uses it is told so

    # any file

    def open_beneath(self, parent: Node, name: bytes) -> int:
        """Open whatever has that name now as O_PATH, which neither opens a device nor mounts on demand."""
        # without O_DIRECTORY, which would: open(2)
        with self.directory(parent) as at:
            return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)

    def _names(self, node: Node) -> tuple[tuple[Node, bytes], ...]:
        assert node.parent is not None  # only the root has none, and the root has its descriptor
        return ((node.parent, node.name), *node.links)

    def _open(self, node: Node) -> int:
        """An O_PATH descriptor of `node`, by a name it was seen by. Raises ESTALE when none is its own any more."""
        # What has the name now may be another file, which is not to be opened: a device would notice, a fifo wait.
        for parent, name in self._names(node):
            try:
                fd = self.open_beneath(parent, name)
            except FileNotFoundError:
                continue
            try:
                st = os.fstat(fd)
                if _same(st, node) and node.kind == stat.S_IFMT(st.st_mode) and self._as_found(fd, node, parent):
                    return fd
            except OSError:
                os.close(fd)
                raise
            os.close(fd)
        raise OSError(errno.ESTALE, "no name it was seen by is its own any more")

    def _as_found(self, fd: int, node: Node, parent: Node) -> bool:
        """Is `fd` not, since then, in another filesystem that has the device number of the one it was found in?"""
        if node.dev == parent.dev or node.rights.level <= confine.EMPTY:
            return True  # what has the number is that of the directory, which is open
        return self._filesystems.keep_data(fd, node.dev)

    def reopen(self, node: Node, flags: int) -> int:
        """Open a new descriptor of `node`: by one of its own descriptors if there is one, else by name."""
        with Own(self, node) as own:
            if own >= 0:
                fd = os.open("/proc/self/fd/%d" % own, flags | os.O_CLOEXEC)
                if _same(os.fstat(fd), node):
                    return fd
                os.close(fd)  # a handle: closed, and its number used again, while we looked
        fd = self._open(node)
        if flags & os.O_PATH:
            return fd
        try:
            return os.open("/proc/self/fd/%d" % fd, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        finally:
            os.close(fd)

    def stat(self, node: Node) -> Stat:
        """Call lstat(2) on `node`. Raises ESTALE when its name is gone or another file's by now."""
        with Own(self, node) as own:
            if own >= 0:
                st = os.fstat(own)
                if _same(st, node):
                    return st
        for parent, name in self._names(node):
            try:
                with self.directory(parent) as at:
                    st = os.stat(name, dir_fd=at, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if _same(st, node):
                return st
        raise OSError(errno.ESTALE, "no name it was seen by is its own any more")

    def path(self, node: Node) -> PathRef:
        """Lend a path of `node` for system calls that take no descriptor: use it in a ``with``, which may raise."""
        return PathRef(self, node)

    def open_by_name(self, node: Node) -> int:
        """Open a new O_PATH descriptor of `node`, by name."""
        return self._open(node)

    def _check(self) -> None:
        """Assert what holds whenever no operation is under way: for tests."""
        assert all(node.fd >= 0 and not node.borrowed for node in self._open_dirs.values())
        assert not self._dropped


def _same(st: Stat, node: Node) -> bool:
    return st.st_ino == node.ino and st.st_dev == node.dev


class Directory:
    """Lends a directory's descriptor for the length of a ``with``: it is opened if it must be, and stays open."""

    __slots__ = ("_from", "_node")

    def __init__(self, descriptors: Descriptors, node: Node) -> None:
        self._from, self._node = descriptors, node

    def __enter__(self) -> int:
        return self._from.borrow(self._node)

    def __exit__(self, *_: object) -> None:
        self._from.give_back(self._node)


class Own:
    """Lends a descriptor that stands for `node` already, for the length of a ``with``; -1: there is none.

    One of a directory stays open meanwhile. One of an open file is the job's, which may close it: compare what it is.
    """

    __slots__ = ("_borrowed", "_from", "_node")

    def __init__(self, descriptors: Descriptors, node: Node) -> None:
        self._from, self._node, self._borrowed = descriptors, node, False

    def __enter__(self) -> int:
        node = self._node
        if node.fd >= 0:
            fd = self._from.borrow_open(node)
            self._borrowed = fd >= 0
            if fd >= 0:
                return fd
        return next(iter(tuple(node.handles)), -1)

    def __exit__(self, *_: object) -> None:
        if self._borrowed:
            self._from.give_back(self._node)


class PathRef:
    """Lends ``/proc/self/fd/N`` for the length of a ``with``; following it leads to the very inode, symlink or not."""

    __slots__ = ("_from", "_node", "_opened", "_own")

    def __init__(self, descriptors: Descriptors, node: Node) -> None:
        self._from, self._node = descriptors, node
        self._own, self._opened = Own(descriptors, node), -1

    def __enter__(self) -> str:
        fd = self._own.__enter__()
        if fd < 0:
            fd = self._opened = self._from.open_by_name(self._node)
        return "/proc/self/fd/%d" % fd

    def __exit__(self, *_: object) -> None:
        self._own.__exit__()
        if self._opened >= 0:
            os.close(self._opened)
