"""Node ids and the files behind them; open handles.

A node is found again by (device, inode number). A directory that is used as a parent keeps an O_PATH descriptor; every
other node is reached by its last known name beneath its parent, and what is found there is compared with the node
before it is used. So the number of descriptors follows the directories in use and the open files, not the files seen.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
import time
from collections import OrderedDict

from remoteio.submit.export import confine
from remoteio.submit.export.changes import File
from remoteio.submit.export.confine import Confinement, Rights
from remoteio.submit.export.filesystems import Filesystems
from remoteio.submit.export.page_twins import Twins
from remoteio.wire.fuse_abi import ROOT_ID

Stat = os.stat_result
MOST_LINKS = 64  # names of one file that are remembered


class Node:
    """One file: identity, where it was last seen, how often the kernel refers to it."""

    __slots__ = (
        "asked", "changes", "ctime", "dev", "fd", "handles", "id", "ino", "kind", "links", "listed", "locks", "lookups",
        "name", "parent", "rights", "seen", "shared",
        "twins",
    )  # fmt: skip

    def __init__(self, nodeid: int, st: Stat, parent: Node | None, name: bytes, rights: Rights) -> None:
        self.rights = rights
        self.id, self.dev, self.ino, self.kind = nodeid, st.st_dev, st.st_ino, stat.S_IFMT(st.st_mode)
        self.parent, self.name = parent, name
        self.links: tuple[tuple[Node, bytes], ...] = ()  # other names it was seen by, if it has several
        self.lookups = 0
        self.fd = -1  # O_PATH, directories only
        self.ctime = st.st_ctime_ns  # as the kernel was last told
        self.handles: set[int] = set()  # open file descriptors of this node
        self.seen: tuple[int, int, int] | None = None  # (mtime_ns, ctime_ns, size) the kernel's page cache stands for
        self.locks: dict[int, LockOwner] = {}
        self.asked = 0  # lookups in this directory since it was last told whole
        self.listed = 0.0  # the time until which it need not be told again
        self.shared = False  # a file in this directory has been locked: names here are not to be cached
        self.twins: Twins | None = None  # of its pages, once a lock may guard them
        self.changes: File | None = None  # what the job does to it, if that is to be known

    def altered(self) -> None:
        """What the job's kernel has of its pages stands for nothing any more."""
        self.seen = self.twins = None


class LockOwner:
    """The descriptor that holds one owner's record locks on one file; `fh`: the handle first asked through."""

    __slots__ = ("fd", "fh", "pid")

    def __init__(self, fd: int, pid: int, fh: int) -> None:
        self.fd, self.pid, self.fh = fd, pid, fh


class Handle:
    """One open file or directory of the job. ``fd`` is also its number on the wire."""

    __slots__ = ("append", "direct", "entries", "fd", "flocked", "node", "writable")

    def __init__(self, fd: int, node: Node, flags: int) -> None:
        self.fd, self.node = fd, node
        self.append = self.direct = bool(flags & os.O_APPEND)  # direct: the kernel has no pages of what it reads by it
        self.writable = flags & os.O_ACCMODE != os.O_RDONLY
        self.flocked = False  # flock(2) was ever asked of it
        self.entries: list[tuple[bytes, int, int]] | None = None  # directory: (name, inode, d_type), as first read


class Inodes:
    """The table of nodes and handles. Raises OSError (ESTALE, EBADF) for what is not there any more."""

    def __init__(self, root: str = "/", keep: int = 4096, confinement: Confinement | None = None) -> None:
        """Serve the tree at `root`; `keep` directory descriptors stay open beyond those needed at the moment.

        `confinement`: what of it is shown, and what may be changed; of paths from "/" on. Default: all of it.
        """
        self.lock = threading.RLock()
        self.confinement = confinement or Confinement()
        self._filesystems = Filesystems()
        fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        st = os.fstat(fd)
        top = Node(ROOT_ID, st, None, b"", self.confinement.top)
        top.fd, top.lookups = fd, 1
        self.top = top
        self.nodes: dict[int, Node] = {ROOT_ID: top}
        self._by_key: dict[tuple[int, int], Node] = {(st.st_dev, st.st_ino): top}
        self._next = ROOT_ID + 1
        self._keep = keep
        self._open_dirs: OrderedDict[int, Node] = OrderedDict()
        self._retired: list[int] = []
        self.handles: dict[int, Handle] = {}
        self._device_tags: dict[int, int] = {st.st_dev: 0}

    # nodes

    def get(self, nodeid: int) -> Node:
        """The node of that id. Raises ESTALE."""
        try:
            return self.nodes[nodeid]
        except KeyError:
            raise OSError(errno.ESTALE, "no such node") from None

    def found(self, parent: Node, name: bytes, st: Stat) -> Node:
        """The node of what `st` describes, seen as `name` in `parent`; counts one lookup of the kernel's.

        Raises ENOENT for what is not to be seen.
        """
        kind, rights = stat.S_IFMT(st.st_mode), parent.rights
        # of what has one name, in a directory where all is allowed and in the same filesystem, there is nothing to ask
        if rights is not confine.ALL or st.st_nlink != 1 or kind == stat.S_IFDIR or st.st_dev != parent.dev:
            rights = self._rights(parent, name, st)
            if rights.level == confine.HIDDEN:
                raise OSError(errno.ENOENT, "not to be seen by a job")
        with self.lock:
            node = self._by_key.get((st.st_dev, st.st_ino))
            if node is not None and (node.kind != kind or (kind == stat.S_IFLNK and node.ctime != st.st_ctime_ns)):
                node = None  # the inode number was used again: the kernel's cached target or type is another file's
            if node is None:
                node = Node(self._next, st, parent, name, rights)
                self._next += 1
                self.nodes[node.id] = self._by_key[(st.st_dev, st.st_ino)] = node
            elif node is not self.top:
                if node.parent is not parent or node.name != name:
                    self._renamed(node, parent, name, st)
                node.ctime = st.st_ctime_ns
                # What has one name is what that name makes it: its number may have been another file's before.
                one = st.st_nlink == 1 or kind == stat.S_IFDIR
                node.rights = rights if one else confine.least(node.rights, rights)
            node.lookups += 1
            return node

    # what may be done

    def _rights(self, parent: Node, name: bytes, st: Stat) -> Rights:
        """The rights of what `st` describes, seen as `name` in `parent`. Raises OSError."""
        rights = parent.rights.beneath.get(name, parent.rights.others)
        directory = stat.S_ISDIR(st.st_mode)
        if st.st_dev != parent.dev and name and not self._keeps_data(parent, name, st.st_dev):
            rights = confine.least(rights, confine.NOTHING_IN_IT if directory else confine.NOT_THERE)
        if not directory and st.st_nlink == 1:
            return rights
        confinement, key = self.confinement, (st.st_dev, st.st_ino)
        rights = confine.least(rights, confinement.known.get(key, confine.ALL))
        if not directory and st.st_dev in confinement.devices and stat.S_ISREG(st.st_mode):
            rights = confine.least(rights, confinement.of_linked(key))
        return rights

    def _keeps_data(self, parent: Node, name: bytes, dev: int) -> bool:
        # O_PATH without O_DIRECTORY neither opens a device nor mounts what is mounted on demand: open(2)
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.directory(parent))
        try:
            if os.fstat(fd).st_dev != dev:
                raise OSError(errno.ESTALE, "something has just been mounted or unmounted there")
            return self._filesystems.keep_data(fd, dev)
        finally:
            os.close(fd)

    def may_name(self, parent: Node, name: bytes, st: Stat | None, directory: bool = False) -> None:
        """May what has that name (`st`; None: nothing) be made, removed, replaced, moved? Raises EACCES, EBUSY, EROFS.

        `directory`: a directory is to be made.
        """
        named = parent.rights.beneath.get(name, parent.rights.others)
        rights = named if st is None else self._rights(parent, name, st)
        _refuse(confine.refused_name(rights, st is not None, directory))

    def may_change(self, node: Node) -> None:
        """May the file's contents and attributes be changed? Raises EROFS."""
        _refuse(confine.refused_change(node.rights))

    def may_link(self, node: Node) -> None:
        """May the file get one more name? Raises EROFS."""
        _refuse(confine.refused_link(node.rights))

    def _renamed(self, node: Node, parent: Node, name: bytes, st: Stat) -> None:
        # The name a hard link was seen by last may be removed while the kernel still knows the file by another.
        if st.st_nlink > 1 and node.kind != stat.S_IFDIR and node.parent is not None:
            others = [pair for pair in node.links if pair != (parent, name)]
            node.links = ((node.parent, node.name), *others[: MOST_LINKS - 1])
        node.parent, node.name = parent, name

    def forget(self, nodeid: int, count: int) -> None:
        """The kernel dropped `count` references."""
        with self.lock:
            node = self.nodes.get(nodeid)
            if node is None or node is self.top:
                return
            node.lookups -= count
            if node.lookups <= 0 and not node.handles:
                self._drop(node)

    def _drop(self, node: Node) -> None:
        del self.nodes[node.id]
        if self._by_key.get((node.dev, node.ino)) is node:
            del self._by_key[(node.dev, node.ino)]
        if node.fd >= 0:
            self._open_dirs.pop(node.id, None)
            os.close(node.fd)
            node.fd = -1

    def gone(self, node: Node) -> None:
        """The last name of `node` was removed: its inode number may come back as another file."""
        with self.lock:
            if self._by_key.get((node.dev, node.ino)) is node:
                del self._by_key[(node.dev, node.ino)]

    def moved(self, parent: Node, name: bytes, st: Stat | None) -> None:
        """What `st` describes has been renamed to `name` in `parent`."""
        node = self.known(st) if st is not None else None
        if node is not None:
            node.parent, node.name = parent, name

    def known(self, st: Stat) -> Node | None:
        """The node of what `st` describes, if the kernel holds one; counts nothing."""
        return self._by_key.get((st.st_dev, st.st_ino))

    # descriptors

    def directory(self, node: Node) -> int:
        """A descriptor of the directory `node`, to resolve names from. Raises ESTALE, ENOTDIR, what open(2) raises."""
        fd = node.fd
        if fd >= 0:
            return fd
        if node.kind != stat.S_IFDIR:
            raise OSError(errno.ENOTDIR, "not a directory")
        with self.lock:
            # From the nearest directory above that is open, one after the other: it may be thousands of them.
            closed: dict[int, Node] = {}
            above: Node | None = node
            while above is not None and above.fd < 0:
                if above.id in closed:
                    raise OSError(errno.ESTALE, "directories were moved about, and none leads here any more")
                closed[above.id] = above
                above = above.parent
            for each in reversed(closed.values()):
                each.fd = self._open(each)
                self._open_dirs[each.id] = each
                if len(self._open_dirs) > 2 * self._keep:
                    self._retire()
            return node.fd

    def pin(self, st: Stat) -> None:
        """Keep the directory that `st` describes open from now on, if it may be and the kernel holds it."""
        node = self.known(st)
        if node is not None and node.fd < 0:
            try:
                self.directory(node)
            except OSError:
                return  # it has gone or may not be opened: whoever uses it is told so

    def _retire(self) -> None:
        # A thread may be using one of these numbers this moment: they are closed only at the next round.
        for fd in self._retired:
            os.close(fd)
        self._retired = []
        for _ in range(self._keep):
            old = self._open_dirs.popitem(last=False)[1]
            self._retired.append(old.fd)
            old.fd = -1

    def _names(self, node: Node) -> tuple[tuple[Node, bytes], ...]:
        assert node.parent is not None  # only the root has none, and the root has its descriptor
        return ((node.parent, node.name), *node.links)

    def _open(self, node: Node) -> int:
        """An O_PATH descriptor of `node`, by a name it was seen by. Raises ESTALE when none is its own any more."""
        # What has the name now may be another file, which is not to be opened: a device would notice, a fifo wait.
        for parent, name in self._names(node):
            try:
                fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.directory(parent))
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

    def _own(self, node: Node) -> int:
        """A descriptor that stands for `node` already, or -1."""
        return node.fd if node.fd >= 0 else next(iter(tuple(node.handles)), -1)

    def reopen(self, node: Node, flags: int) -> int:
        """A new descriptor of `node`: by one of its own descriptors if there is one, else by name."""
        own = self._own(node)
        if own >= 0:
            fd = os.open("/proc/self/fd/%d" % own, flags | os.O_CLOEXEC)
            if _same(os.fstat(fd), node):
                return fd
            os.close(fd)  # closed, and its number used again, while we looked
        fd = self._open(node)
        if flags & os.O_PATH:
            return fd
        try:
            return os.open("/proc/self/fd/%d" % fd, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        finally:
            os.close(fd)

    def stat(self, node: Node) -> Stat:
        """lstat(2) of `node`. Raises ESTALE when its name is gone or another file's by now."""
        own = self._own(node)
        if own >= 0:
            st = os.fstat(own)
            if _same(st, node):
                return st
        for parent, name in self._names(node):
            try:
                st = os.stat(name, dir_fd=self.directory(parent), follow_symlinks=False)
            except FileNotFoundError:
                continue
            if _same(st, node):
                return st
        raise OSError(errno.ESTALE, "no name it was seen by is its own any more")

    def path(self, node: Node) -> PathRef:
        """A path of `node` for system calls that take no descriptor: use it in a ``with``."""
        own = self._own(node)
        return PathRef(own, False) if own >= 0 else PathRef(self._open(node), True)

    # handles

    def opened(self, fd: int, node: Node, flags: int) -> Handle:
        """`fd` is open on `node`: its handle."""
        handle = Handle(fd, node, flags)
        with self.lock:
            self.handles[fd] = handle
            node.handles.add(fd)
        return handle

    def handle(self, fh: int) -> Handle:
        """The handle of that number. Raises EBADF."""
        try:
            return self.handles[fh]
        except KeyError:
            raise OSError(errno.EBADF, "no such handle") from None

    def close(self, fh: int) -> None:
        """The job closed that handle."""
        with self.lock:
            handle = self.handles.pop(fh, None)
            if handle is None:
                raise OSError(errno.EBADF, "no such handle")
            node = handle.node
            node.handles.discard(fh)
            os.close(fh)
            # Locks of an open file description end with it; of a process's, its closing the file has been told before.
            for key in [key for key, owner in node.locks.items() if owner.fh == fh or not node.handles]:
                os.close(node.locks.pop(key).fd)
            if not node.handles and node.lookups <= 0 and node.id in self.nodes and node is not self.top:
                self._drop(node)

    def close_all(self) -> None:
        """Nobody asks for anything any more."""
        with self.lock:
            for fh in list(self.handles):
                self.close(fh)
            for node in list(self.nodes.values()):
                if node.fd >= 0:
                    os.close(node.fd)
            for fd in self._retired:
                os.close(fd)
            self.nodes.clear()
            self._retired = []
            self._filesystems.close()

    def number(self, dev: int, ino: int) -> int:
        """The inode number the job sees: the file's own, with its device folded in where it is not the root's.

        Two files of different devices must not share a number: tar and rsync would take them for hard links.
        """
        tag = self._device_tags.get(dev)
        if tag is None:
            tag = (dev * 0x9E3779B1 >> 8) % 0xFFFF + 1  # by the device's number: the same at the next mount
            with self.lock:
                taken = set(self._device_tags.values())
                while tag in taken:
                    tag = tag % 0xFFFF + 1
                self._device_tags[dev] = tag
        return ino ^ tag << 48 if tag else ino


def _refuse(e: int) -> None:
    if e:
        raise OSError(e, os.strerror(e))


def _same(st: Stat, node: Node) -> bool:
    return st.st_ino == node.ino and st.st_dev == node.dev


def version(st: Stat) -> tuple[int, int, int] | None:
    """What tells one content of a file from the next; None where it was changed too lately to tell.

    Since Linux 6.13 a time stamp that was looked at is never given to a later change (multigrain timestamps).
    """
    if not _FINE_TIMES and time.time_ns() - st.st_mtime_ns < 20_000_000:
        return None
    return st.st_mtime_ns, st.st_ctime_ns, st.st_size


_FINE_TIMES = tuple(int(n) for n in re.findall(r"\d+", os.uname().release)[:2]) >= (6, 13)


class PathRef:
    """``/proc/self/fd/N`` for the length of a ``with``; following it leads to the very inode, symlink or not."""

    __slots__ = ("_fd", "_own")

    def __init__(self, fd: int, own: bool) -> None:
        self._fd, self._own = fd, own

    def __enter__(self) -> str:
        return "/proc/self/fd/%d" % self._fd

    def __exit__(self, *_: object) -> None:
        if self._own:
            os.close(self._fd)
