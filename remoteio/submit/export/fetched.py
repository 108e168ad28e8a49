"""Submit side: files that are leased before the job opens them: small ones that are opened and read
(``execute.files_ahead``), and what it has written itself (``execute.known_left``)."""

from __future__ import annotations

import errno
import os
import stat

from remoteio.submit.export.base import ExportBase
from remoteio.submit.export.descriptors import Descriptor
from remoteio.submit.export.inodes import version
from remoteio.submit.export.leases import leasable
from remoteio.submit.export.nodes import Node
from remoteio.submit.export.reply import Reply
from remoteio.wire import fetched, left
from remoteio.wire import fuse_abi as abi
from remoteio.wire.coherence import AHEAD


class Fetched(ExportBase):
    """Fetches, and leases what the job has left."""

    def do_fetch(self, r: abi.Request) -> Reply:
        """Open a small file for reading, watch it, and tell what is in it.

        EOPNOTSUPP: of this job's files none is to be guessed. EAGAIN: not this one, or not now.
        """
        if not (may := self.leases.wanted()):
            why = "this job has no leases: a change of what was told could not be told"
            raise OSError(errno.EOPNOTSUPP if may is False else errno.EAGAIN, why)
        node = self.inodes.get(r.nodeid)
        if not quiet(node):
            raise OSError(errno.EAGAIN, "it changes, or it is no regular file")
        self.inodes.may_open()
        with self.inodes.allowed.refusals.guessing():
            fd = self.inodes.descriptors.reopen(node, os.O_RDONLY)
        try:
            told = self._contents(node, fd)
        except BaseException:
            os.close(fd)
            raise
        # What the kernel's pages stand for (Node.seen) stays as it is: it drops them if it opens the file by this.
        return Reply(fetched.pack(self.inodes.opened(fd, node, os.O_RDONLY).number, *told))

    def _contents(self, node: Node, fd: int) -> tuple[bytes, int, bytes, bytes]:
        """What the job's kernel may have of what is open as `fd`: attributes, directory and name, contents."""
        if not self.leases.watches(node, fd):
            raise OSError(errno.EAGAIN, "nobody would tell of a change of it")
        parent = self._named(node)
        st = os.fstat(fd)
        # Changed since the kernel was told its size, it is opened as others are: only then is the kernel told so.
        if st.st_size > AHEAD or st.st_ctime_ns != node.ctime:
            raise OSError(errno.EAGAIN, "it is too large, or has changed")
        contents = os.pread(fd, AHEAD + 1, 0)
        if len(contents) != st.st_size:
            raise OSError(errno.EAGAIN, "it is changing")
        if not leasable(self.leases, fd, st) or not self.inodes.descriptors.keeps(node, fd):
            raise OSError(errno.EAGAIN, "somebody may be writing to it, or there is no room for one more descriptor")
        return self.attr(st), parent.id if parent else 0, node.name if parent else b"", contents

    def _named(self, node: Node) -> Node | None:
        """The directory in which the file has the name that it was last seen by, if that is leased from now on."""
        parent, name = node.parent, node.name
        try:
            at = self.inodes.descriptors.directory(parent) if parent is not None else -1
            if parent is None or not self.leases.name(parent, at, name):
                return None
            st = os.stat(name, dir_fd=at, follow_symlinks=False)
        except OSError:
            return None  # nobody has asked for the name: who does is told what there is
        return parent if (st.st_dev, st.st_ino) == (node.dev, node.ino) else None

    def do_left(self, r: abi.Request) -> Reply:
        """Lease files that the job has written and closed, as far as they are as it left them.

        EOPNOTSUPP: this job has no leases. EAGAIN: not now, or none of these.
        """
        if not (may := self.leases.wanted()):
            raise OSError(errno.EOPNOTSUPP if may is False else errno.EAGAIN, "nothing is leased")
        with self.inodes.allowed.refusals.guessing():
            told = [self._left(nodeid) for nodeid in left.nodes_of(r.raw)]
        if not any(each != left.NOT for each in told):
            raise OSError(errno.EAGAIN, "none of them is as the job left it")
        return Reply(b"".join(told))

    def do_stats(self, r: abi.Request) -> Reply:
        """Tell the attributes of files that have changed since they were leased, and lease them, as far as they may be.

        EOPNOTSUPP: this job has no leases. EAGAIN: not now, or none of these.
        """
        if not (may := self.leases.wanted()):
            raise OSError(errno.EOPNOTSUPP if may is False else errno.EAGAIN, "nothing is leased")
        told = [self._changed(nodeid) for nodeid in left.nodes_of(r.raw)]
        if not any(each != left.NOT for each in told):
            raise OSError(errno.EAGAIN, "none of them was leased")
        return Reply(b"".join(told))

    def _changed(self, nodeid: int) -> bytes:
        """What stat(2) tells of what was leased, and is from now on."""
        try:
            node = self.inodes.get(nodeid)
            # Node.ctime stays as it is: the kernel is told when it asks, and has to as it opens the file before that
            return self.attr(self.inodes.descriptors.stat(node)) if self.leases.known(node) else left.NOT
        except OSError:
            return left.NOT  # it is gone, or not to be told of: who looks it up is told so

    def _left(self, nodeid: int) -> bytes:
        """What stat(2) tells of such a file, if it is leased from now on."""
        node = self.inodes.nodes.get(nodeid)
        if node is None or node.seen is None or not quiet(node):
            return left.NOT
        try:
            fd = Descriptor(self.inodes.descriptors.reopen(node, os.O_RDONLY))
        except OSError:
            return left.NOT
        if not self.leases.watches(node, fd):
            return left.NOT
        st = os.fstat(fd)
        if version(st) != node.seen or not leasable(self.leases, fd, st):
            return left.NOT
        return self.attr(st) if self.inodes.descriptors.keeps(node, fd) else left.NOT


def quiet(node: Node) -> bool:
    """Whether it is a file that the job neither writes nor locks, nor any beside it."""
    guarded = node.locks or (node.parent is not None and node.parent.shared)
    written = node.grown is not None or any(handle.writable for handle in list(node.handles.values()))
    return node.kind == stat.S_IFREG and not guarded and not written
