"""Descriptors of the job's files: of directories, kept open to resolve names from; of any other file, as it is needed.

A directory that is used as a parent keeps an O_PATH descriptor, up to a number of them; every other file is reached by
its last known name beneath its parent, and what is found there is compared with the node before it is used. So the
number of descriptors follows the directories in use and the open files, not the files seen. Those of directories are a
cache: where there is no room for more, those that were not used of late are closed, and opened again by name when they
are needed; but not one whose name leads to it no more, since others at home have renamed or removed it.

A number of a descriptor that is closed may be another file's at the next open(2), of the job's or of rexec's own. So it
is an object, be it of a directory, an open file or a lock's owner, that closes itself when nobody refers to it any
more: whoever uses it keeps the object as long as he uses the number.
Counting its users by hand was tried, and made a lookup a fifth slower; closing it only later, when it "must" be out of
use, is no answer: an operation may use the number several times, and wait for a disk between two of them.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable

from remoteio.submit.export import confine
from remoteio.submit.export.filesystems import Filesystems
from remoteio.submit.export.nodes import Node, Stat

_FULL = (errno.EMFILE, errno.ENFILE)


class Descriptor(int):
    """Is the number of an open descriptor, and closes it when nobody refers to it: a sum or a text of it does not."""

    __slots__ = ()

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # `os` may be gone when the program ends
        try:
            close(self)
        except OSError:
            pass  # the file server may say here what it could not write: nobody waits for a RELEASE's answer


class Descriptors:
    """Opens nodes. Raises OSError (ESTALE, ENOTDIR, what open(2) raises) for what is not there any more.

    Threads: any. ``_opening`` is held while directories are opened, or closed to make room, and so perhaps while a disk
    is waited for; ``_table`` guards which are open (``Node.fd``), and nothing is waited for under it. The first may be
    held when the second is taken, never the other way round. Whether one is open is asked without a lock.
    """

    def __init__(self, most: int, filesystems: Filesystems) -> None:
        """At most `most` directory descriptors stay open beyond those needed at the moment."""
        self._most, self._filesystems = most, filesystems
        self._opening, self._table = threading.RLock(), threading.Lock()
        self.owners: set[int] = set()  # descriptors of LockOwners, which count with the open files
        self._open_dirs: OrderedDict[int, Node] = OrderedDict()  # by node id, those to be closed first are first
        # by node id, files that are kept: those that were leased, and those that the job has made
        self._leased: OrderedDict[int, Descriptor] = OrderedDict()
        self._made: OrderedDict[int, Descriptor] = OrderedDict()

    # directories

    def directory(self, node: Node) -> int:
        """Return a descriptor of the directory `node`, to resolve names from. Keep the object while it is used."""
        fd = node.fd
        if fd >= 0:
            node.used = True
            return fd
        if node.kind != stat.S_IFDIR:
            raise OSError(errno.ENOTDIR, "not a directory")
        with self._opening:
            if node.fd >= 0:
                return node.fd  # another thread has opened it meanwhile
            # From the nearest directory above that is open, one after the other: it may be thousands of them.
            closed: dict[int, Node] = {}
            above: Node | None = node
            while above is not None and above.fd < 0:
                if above.id in closed:
                    raise OSError(errno.ESTALE, "directories were moved about, and none leads here any more")
                closed[above.id] = above
                above = above.parent
            for each in reversed(closed.values()):
                fd = self._open_directory(each)
            return fd

    def _open_directory(self, node: Node) -> int:
        fd = Descriptor(self._open(node))
        with self._table:
            if node.fd >= 0:  # it was moved beneath itself, and opened on the way to its own parent
                return node.fd
            node.fd, node.used = fd, True
            self._open_dirs[node.id] = node
        if len(self._open_dirs) > self._most:
            self._retire(self._most // 4 + 1)
        return fd

    def _retire(self, count: int) -> None:
        """Close so many directories, those first that were not used of late; ``_opening`` is held."""
        kept = 0
        for node in tuple(self._open_dirs.values()) * 2:  # twice: at the second time, none was used since the first
            if count <= 0:
                return
            stays = node.used
            if not stays and node.fd >= 0 and kept < self._most // 2 and not _is_found(node):
                kept, stays = kept + 1, True
            with self._table:
                if node.id not in self._open_dirs:
                    continue
                if stays:
                    node.used = False
                    self._open_dirs.move_to_end(node.id)
                else:
                    del self._open_dirs[node.id]
                    node.fd = -1
                    count -= 1

    def drop(self, node: Node) -> None:
        """Close the descriptor of a node that the kernel knows no more, as soon as nobody is using it."""
        with self._table:
            self._open_dirs.pop(node.id, None)
            self._leased.pop(node.id, None)
            self._made.pop(node.id, None)
            node.fd = -1

    def pin(self, node: Node | None) -> None:
        """Keep the directory `node` open from now on, if it may be opened."""
        if node is not None and node.fd < 0:
            try:
                self.directory(node)
            except OSError:
                return  # it has gone or may not be opened: whoever uses it is told so

    def with_room(self, open: Callable[[], int]) -> int:
        """Call `open`, which opens a descriptor; if there is no room for it, once more when there is."""
        try:
            return open()
        except OSError as e:
            if e.errno not in _FULL:
                raise
        with self._opening:
            self._most = max(len(self._open_dirs) // 2, 1)  # what else is open needs the room
            self._retire(len(self._open_dirs) - self._most)
            with self._table:
                self._leased.clear()
                self._made.clear()
        return open()

    # files that the host may open by itself

    def keeps(self, node: Node, fd: int, made: bool = False) -> bool:
        """Keep the file that is open as `fd`, which the host may open when its name is another's. False: no room.

        `made`: the job has just made it.
        """
        files = self._made if made else self._leased
        if node.id not in files:
            try:
                kept = Descriptor(os.open("/proc/self/fd/%d" % fd, os.O_PATH | os.O_CLOEXEC))
            except OSError:
                return False
            with self._table:
                files[node.id] = kept
                if len(files) > self._most // 8:
                    files.popitem(last=False)
        return True

    def job_over(self) -> None:
        """Let go of what the job has made: who removes that here is to have its room, though another job may come."""
        with self._table:
            self._made.clear()

    def reopen_kept(self, node: Node, flags: int) -> int:
        """Open a new descriptor of a file that was kept. Raises ESTALE for one that is not."""
        fd = self._leased.get(node.id, self._made.get(node.id))
        if fd is None:
            raise OSError(errno.ESTALE, "no name it was seen by is its own any more")
        return self.with_room(lambda: os.open("/proc/self/fd/%d" % fd, flags | os.O_CLOEXEC))

    # any file

    def open_beneath(self, parent: Node, name: bytes) -> int:
        """Open whatever has that name now as O_PATH, which neither opens a device nor mounts on demand."""
        # without O_DIRECTORY, which would: open(2)
        at = self.directory(parent)
        return self.with_room(lambda: os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at))

    def _open(self, node: Node) -> int:
        """An O_PATH descriptor of `node`, by a name it was seen by. Raises ESTALE when none is its own any more."""
        # What has the name now may be another file, which is not to be opened: a device would notice, a fifo wait.
        for parent, name in node.names():
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
        own = _own(node)
        if own >= 0:
            fd = self.with_room(lambda: os.open("/proc/self/fd/%d" % own, flags | os.O_CLOEXEC))
            if _same(os.fstat(fd), node):
                return fd
            os.close(fd)  # a handle: closed, and its number used again, while we looked
        fd = self._open(node)
        if flags & os.O_PATH:
            return fd
        flags |= os.O_NOCTTY | os.O_CLOEXEC
        try:
            return self.with_room(lambda: os.open("/proc/self/fd/%d" % fd, flags | os.O_NONBLOCK))
        except BlockingIOError:
            if node.kind != stat.S_IFREG:
                raise
            # somebody has a lease on it, as rexec has for a moment (held_open): who opens it waits for that
            return self.with_room(lambda: os.open("/proc/self/fd/%d" % fd, flags))
        finally:
            os.close(fd)

    def stat(self, node: Node) -> Stat:
        """Call lstat(2) on `node`. Raises ESTALE when its name is gone or another file's by now."""
        own = _own(node)
        if own >= 0:
            st = os.fstat(own)
            if _same(st, node):
                return st
        for parent, name in node.names():
            try:
                st = os.stat(name, dir_fd=self.directory(parent), follow_symlinks=False)
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
        assert all(node.fd >= 0 for node in self._open_dirs.values())


def _same(st: Stat, node: Node) -> bool:
    return st.st_ino == node.ino and st.st_dev == node.dev


def _own(node: Node) -> int:
    """A descriptor that stands for `node` already; -1: there is none.

    One of a directory stays open while the object is kept. One of an open file is the job's, which may close it:
    compare what it is.
    """
    fd = node.fd
    return fd if fd >= 0 else next((handle.fd for handle in tuple(node.handles.values())), -1)


def _is_found(node: Node) -> bool:
    """Does the open directory still have the name by which it would be opened again?"""
    assert node.parent is not None
    fd = node.fd  # one object: the kernel may forget the node meanwhile
    try:
        path = os.readlink(b"/proc/self/fd/%d" % fd)
        # its name, which a removed one has not (proc_pid_fd(5)); and what is above it
        return path.endswith(b"/" + node.name) and _same(os.stat("..", dir_fd=fd), node.parent)
    except OSError:
        return True  # too long a path, or it may not be searched: it is as likely found as not


class PathRef:
    """Lends ``/proc/self/fd/N`` for the length of a ``with``; following it leads to the very inode, symlink or not."""

    __slots__ = ("_fd", "_from", "_node", "_opened")

    def __init__(self, descriptors: Descriptors, node: Node) -> None:
        self._from, self._node = descriptors, node
        self._fd = self._opened = -1

    def __enter__(self) -> str:
        self._fd = _own(self._node)
        if self._fd < 0:
            self._fd = self._opened = self._from.open_by_name(self._node)
        return "/proc/self/fd/%d" % self._fd

    def __exit__(self, *_: object) -> None:
        self._fd = -1
        if self._opened >= 0:
            os.close(self._opened)
