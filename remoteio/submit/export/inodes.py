"""The table of what the job's kernel refers to: nodes by id, open handles by number; and what may be done with them.

A node is found again by (device, inode number), and lives as long as the kernel refers to it (LOOKUP counts, FORGET
takes away: fuse.h) or has it open. How it is reached is in ``descriptors``.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from remoteio.submit import own_share
from remoteio.submit.export import confine
from remoteio.submit.export.allowed import Allowed
from remoteio.submit.export.confine import FREE, Confinement
from remoteio.submit.export.descriptors import Descriptor, Descriptors
from remoteio.submit.export.filesystems import Filesystems
from remoteio.submit.export.late_handles import LateHandles
from remoteio.submit.export.node_log import NodeLog
from remoteio.submit.export.nodes import FORMAT, MOST_LINKS, Handle, Node, Stat
from remoteio.submit.export.numbers import Numbers
from remoteio.submit.export.pinned import Pin
from remoteio.wire.fuse_abi import OWN, OWN_FILES, ROOT_ID
from remoteio.wire.makes import MADE

MOST_NODES = 1 << 23  # that are known, of half a KiB each
MOST_DIRECTORIES = 8192  # that are kept open, if this process may have twice as many descriptors
_OTHERS = 128  # descriptors of this process that are neither open files of the job nor directories kept open


class Inodes:
    """Keeps the table of nodes and handles. Raises OSError (ESTALE, EBADF) for what is not there any more.

    Threads: any. ``lock`` is held while the table changes, and never while a disk is waited for; looking up one node or
    handle takes no lock, since one access to a dict is one step under the GIL.
    """

    def __init__(
        self,
        root: str = "/",
        most: int = MOST_DIRECTORIES,
        confinement: Confinement | None = None,
        device: int = 0,
        log: NodeLog | None = None,
    ) -> None:
        """Serve the tree at `root`; at most `most` directory descriptors stay open beyond those needed at the moment.

        `confinement`: what of it is shown, and what may be changed; of paths from "/" on. Default: all of it.

        `device`: the st_dev whose inode numbers are shown as they are; default: that of `root`.

        `log`: what is told of each node, for a process after this one; None: nobody is told.
        """
        self.lock = threading.RLock()
        confinement = confinement or Confinement()
        self._filesystems = Filesystems()
        fd = Descriptor(os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        st = os.fstat(fd)
        top = Node(ROOT_ID, st, None, b"", confinement.top)
        top.fd, top.lookups = fd, 1
        self.top = top
        self.log = log
        self.nodes: dict[int, Node] = {ROOT_ID: top}
        self._by_key: dict[tuple[int, int], Node] = {(st.st_dev, st.st_ino): top}
        self.next_number = ROOT_ID + 1  # the number of the next node or handle: none is given twice
        limit = own_share.descriptors()
        self.descriptors = Descriptors(min(most, limit // 2), self._filesystems)
        self.allowed = Allowed(confinement, self.descriptors, self._filesystems)
        self._most_handles = max(limit - _OTHERS, limit // 2)
        self.handles = LateHandles()
        if log is not None:
            log.serves(lambda: tuple(self.nodes.values()), confinement.made)
        self.numbers = Numbers(device or st.st_dev)

    # nodes

    def get(self, nodeid: int) -> Node:
        """Return the node of that id. Raises ESTALE."""
        try:
            return self.nodes[nodeid]
        except KeyError:
            raise OSError(errno.ESTALE, "no such node") from None

    def found(self, parent: Node, name: bytes, st: Stat, held: bool = False, number: int = 0) -> Node:
        """Return the node of what `st` describes, seen as `name` in `parent`, and count one lookup of the kernel's.

        `held`: it is another node than one for which this was not so (``channels``). `number`: of the change that has
        made it: it is a node of its own (wire/makes.py). Raises ENOENT for what is not to be seen.
        """
        kind, rights, dev = st.st_mode & FORMAT, parent.rights.child(name), st.st_dev
        # of what has one name, in the same filesystem, and of which no rule speaks, there is nothing more to ask
        if rights.level != FREE or st.st_nlink != 1 or kind == stat.S_IFDIR or dev != parent.dev:
            rights = self.allowed.to_look(parent, name, st)
            if rights.level == confine.HIDDEN:
                self.allowed.hides(parent, name, rights)
        with self.lock:
            key = dev, st.st_ino
            node = self._by_key.get(key)
            if node is not None and (node.kind != kind or (kind == stat.S_IFLNK and node.ctime != st.st_ctime_ns)):
                node = None  # the inode number was used again: the kernel's cached target or type is another file's
            if node is not None and (number or node.held != held):
                node = None
            if node is None:
                if len(self.nodes) >= MOST_NODES:
                    raise OSError(errno.ENFILE, "the job's kernel knows as many files as may be")
                node = Node(MADE + number if number else self.next_number, st, parent, name, rights)
                node.held = held
                node.nameless = not st.st_nlink  # O_TMPFILE
                self.next_number += not number
                self.nodes[node.id] = self._by_key[key] = node
                if self.log is not None and kind not in (stat.S_IFREG, stat.S_IFLNK):
                    self.log.node(node)
            elif node is not self.top:
                if node.parent is not parent or node.name != name:
                    self._renamed(node, parent, name, st)
                node.ctime = st.st_ctime_ns
                node.nameless = not st.st_nlink
                # What has one name is what that name makes it: its number may have been another file's before.
                one = st.st_nlink == 1 or kind == stat.S_IFDIR
                node.rights = rights if one else confine.least(node.rights, rights)
            node.of_many = st.st_nlink > 1 and self.allowed.is_of_many(st)
            node.lookups += 1
            return node

    def shown_instead(self, parent: Node, name: bytes, fd: int) -> Node:
        """Return the node of what is open as `fd`, shown as `name` in `parent`, and count one lookup."""
        st = os.fstat(fd)
        with self.lock:
            node = self._by_key.get((st.st_dev, st.st_ino))
            if node is None:
                node = Node(self.next_number, st, parent, name, confine.UNCHANGED)
                node.fd = Descriptor(os.dup(fd))
                self.next_number += 1
                self.nodes[node.id] = self._by_key[(st.st_dev, st.st_ino)] = node
            node.parent = parent
            node.lookups += 1
            return node

    def shown_pinned(self, parent: Node, pin: Pin, fd: int) -> Node:
        """Return the node of the kept bytes that are open as `fd`, seen as the pin says, and count one lookup.

        Raises ENOENT for what is not to be seen.
        """
        name = os.path.basename(pin.path)
        self.allowed.may_see(parent, name, (pin.device, pin.inode))
        return self.shown_instead(parent, name, fd)

    def _renamed(self, node: Node, parent: Node, name: bytes, st: Stat) -> None:
        # The name a hard link was seen by last may be removed while the kernel still knows the file by another.
        # And what is open was opened by the name that it had then, which may be another file's by now.
        also = False
        if (st.st_nlink > 1 or node.handles) and node.kind != stat.S_IFDIR and node.parent is not None:
            others = [pair for pair in node.links if pair != (parent, name)]
            node.links = ((node.parent, node.name), *others[: MOST_LINKS - 1])
            also = True
        node.parent, node.name = parent, name
        if self.log is not None:
            self.log.named(node, also)

    def forget(self, nodeid: int, count: int) -> None:
        """Take off the `count` references that the kernel has dropped."""
        with self.lock:
            node = self.nodes.get(nodeid)
            if node is None or node is self.top:
                return
            node.lookups -= count
            if node.lookups <= 0 and not node.handles:
                self._drop(node)

    def _drop(self, node: Node) -> None:
        del self.nodes[node.id]
        if self.log is not None:
            self.log.dropped(node)
        if self._by_key.get((node.dev, node.ino)) is node:
            del self._by_key[(node.dev, node.ino)]
        self.descriptors.drop(node)

    def gone(self, node: Node) -> None:
        """Know `node` by its inode number no more: its last name was removed, and the number may be another file's."""
        with self.lock:
            if self._by_key.get((node.dev, node.ino)) is node:
                del self._by_key[(node.dev, node.ino)]
                if self.log is not None:
                    self.log.gone(node)

    def moved(self, parent: Node, name: bytes, st: Stat | None) -> None:
        """Take note that what `st` describes has been renamed to `name` in `parent`."""
        node = self.known(st) if st is not None else None
        if node is not None:
            node.parent, node.name = parent, name
            if self.log is not None:
                self.log.named(node, False)

    def known(self, st: Stat) -> Node | None:
        """Return the node of what `st` describes, if the kernel holds one; this counts nothing."""
        return self._by_key.get((st.st_dev, st.st_ino))

    # handles

    def opened_as(self, parent: Node, name: bytes) -> list[Node]:
        """List the nodes that are open and have been seen by that name, but for what is shown instead of a file."""
        with self.lock:
            nodes = {handle.node.id: handle.node for handle in self.handles.values() if handle.node.fd < 0}
        return [node for node in nodes.values() if (parent, name) in node.names()]

    def may_open(self, count: int = 1) -> None:
        """Raise EMFILE if so many more open files would leave no descriptors to find files with."""
        if len(self.handles) + len(self.descriptors.owners) + count > self._most_handles:
            raise OSError(errno.EMFILE, "the files of the job's that are open are as many as rexec may have open here")

    def opened(self, fd: int, node: Node, flags: int, number: int = 0) -> Handle:
        """Make a handle of `fd`, which is open on `node`; `number`: its own, 0: the next."""
        with self.lock:
            handle = Handle(Descriptor(fd), node, flags, number or self.next_number)
            self.next_number = max(self.next_number, handle.number + 1 if handle.number < MADE else 0)
            self.handles[handle.number] = node.handles[handle.number] = handle
            if self.log is not None and node.fd < 0:
                self.log.node(node)
        return handle

    def handle(self, fh: int) -> Handle:
        """Return the handle of that number. Raises EBADF."""
        try:
            return self.handles[fh]
        except KeyError:
            raise OSError(errno.EBADF, "no such handle") from None

    @contextmanager
    def directory_open(self, nodeid: int, fh: int) -> Iterator[Handle]:
        """Have the directory's handle in a ``with``: one of the relay's own (fuse_abi.OWN) is nowhere open but here."""
        if not OWN <= fh < OWN_FILES:
            yield self.handle(fh)
            return
        node = self.get(nodeid)
        handle = Handle(Descriptor(self.descriptors.reopen(node, os.O_RDONLY | os.O_DIRECTORY)), node, 0, fh)
        try:
            yield handle
        finally:
            handle.fd = -1
            handle.unlist()

    def close(self, fh: int) -> None:
        """Close the handle of that number. Raises EBADF."""
        with self.lock:
            handle = self.handles.pop(fh, None)
            if handle is None:
                raise OSError(errno.EBADF, "no such handle")
            node = handle.node
            del node.handles[fh]
            handle.fd = -1  # whoever is using the descriptor closes it, and its number is nobody else's until then
            # Locks of an open file description end with it; of a process's, its closing the file has been told before.
            for key in [key for key, owner in node.locks.items() if owner.fh == fh or not node.handles]:
                self.descriptors.owners.discard(int(node.locks.pop(key).fd))
            if not node.handles and node.lookups <= 0 and node.id in self.nodes and node is not self.top:
                self._drop(node)

    def close_all(self) -> None:
        """Close everything: nobody asks for anything any more."""
        with self.lock:
            for fh in list(self.handles):
                self.close(fh)
            for node in list(self.nodes.values()):
                self.descriptors.drop(node)
            self.nodes.clear()
            self._filesystems.close()
        if self.log is not None:
            self.log.close()

    def _check(self) -> None:
        """Assert what holds whenever no operation is under way: for tests."""
        self.descriptors._check()
        for number, node in self.nodes.items():
            assert node.id == number and (node.lookups > 0 or node.handles), "what nobody refers to is dropped"
            assert (node.parent is None) == (node is self.top)
            assert all(self.handles[fh] is handle for fh, handle in node.handles.items())
        assert all(handle.fd >= 0 and fh in handle.node.handles for fh, handle in self.handles.items())
        for key, node in self._by_key.items():
            assert key == (node.dev, node.ino) and self.nodes.get(node.id) is node


def version(st: Stat) -> tuple[int, int, int] | None:
    """Return what tells one content of a file from the next; None: it was changed too lately to tell.

    Since Linux 6.13 a time stamp that was looked at is never given to a later change (multigrain timestamps).
    """
    if not _FINE_TIMES and time.time_ns() - st.st_mtime_ns < 20_000_000:
        return None
    return st.st_mtime_ns, st.st_ctime_ns, st.st_size


_FINE_TIMES = tuple(int(n) for n in re.findall(r"\d+", os.uname().release)[:2]) >= (6, 13)
