"""Submit side: operations on what is known of a file beside its contents."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from remoteio import syscalls
from remoteio.submit.export.base import ExportBase, drop_suid
from remoteio.submit.export.inodes import version
from remoteio.submit.export.leases import changing
from remoteio.submit.export.nodes import Node
from remoteio.submit.export.reply import DONE, Reply
from remoteio.wire import fuse_abi as abi
from remoteio.wire import leases
from remoteio.wire.coherence import TTL


class Attributes(ExportBase):
    """Does what concerns attributes, access, extended attributes, and the state of the filesystem."""

    def do_getattr(self, r: abi.Request) -> Reply:
        flags, _, fh = abi.GETATTR_IN.unpack_from(r.raw, abi.ARGS)
        node = self.inodes.get(r.nodeid)
        leased = self.leases.known(node) or (node.fd >= 0 and self.leases.attributes(node, node.fd) >= 0)
        st = os.fstat(self.inodes.handle(fh).fd) if flags & abi.GETATTR_FH else self.inodes.descriptors.stat(node)
        return Reply(self._attr_out(node, st), leased=leases.ATTR if leased else 0)

    def do_statx(self, r: abi.Request) -> Reply:
        flags, _, fh, _, mask = abi.STATX_IN.unpack_from(r.raw, abi.ARGS)
        node = self.inodes.get(r.nodeid)
        own = flags & abi.GETATTR_FH
        fd = self.inodes.handle(fh).fd if own else self.inodes.descriptors.reopen(node, os.O_PATH)
        try:
            fields = list(syscalls.statx(fd, mask))
            st = os.fstat(fd)
        finally:
            if not own:
                os.close(fd)
        node.nameless = self._nameless(st)
        fields[4:7] = self._shown(st, self._taken(node))
        fields[7] = self.inodes.numbers.shown(st.st_dev, st.st_ino)
        return Reply(abi.STATX_OUT.pack(TTL, 0, 0) + abi.STATX.pack(*fields))

    def size_to_set(self, r: abi.Request) -> int | None:
        """Read the length, in bytes, that a SETATTR gives the file; None: it leaves it as long as it is."""
        valid, _, _, size, *_ = abi.SETATTR_IN.unpack_from(r.raw, abi.ARGS)
        return size if valid & abi.FATTR_SIZE else None

    def do_setattr(self, r: abi.Request, node: Node) -> Reply:
        valid, _, fh, size, _, at, mt, _, atn, mtn, _, mode, _, uid, gid, _ = abi.SETATTR_IN.unpack_from(
            r.raw, abi.ARGS
        )
        handle = self.inodes.handle(fh) if valid & abi.FATTR_FH else None
        if valid & abi.FATTR_SIZE:
            self._counted(node)
        changing(self.leases, node)
        with self.inodes.descriptors.path(node) as path:
            seen = node.seen is not None and node.seen == version(os.stat(path))
            if valid & (abi.FATTR_UID | abi.FATTR_GID):
                uid, gid = self.ids.given(uid if valid & abi.FATTR_UID else -1, gid if valid & abi.FATTR_GID else -1)
                os.chown(path, uid, gid)
            elif not valid:
                os.chown(path, -1, -1)  # as the job has: it takes suid and sgid (fuse_setattr in fs/fuse/dir.c)
            if valid & abi.FATTR_MODE:
                os.chmod(path, mode & 0o7777)
            if valid & abi.FATTR_SIZE:
                if handle is not None and handle.writable:
                    os.ftruncate(handle.fd, size)
                else:
                    os.truncate(path, size)
                node.altered()
            if valid & abi.FATTR_KILL_SUIDGID and self._root_user:
                drop_suid(path)
            if valid & (abi.FATTR_ATIME | abi.FATTR_MTIME):
                syscalls.utimensat(
                    path,
                    _time(valid & abi.FATTR_ATIME, valid & abi.FATTR_ATIME_NOW, at, atn),
                    _time(valid & abi.FATTR_MTIME, valid & abi.FATTR_MTIME_NOW, mt, mtn),
                )
            st = os.stat(path)
            if seen:  # the kernel has cut its own pages
                node.seen = version(st)
        if valid & abi.FATTR_SIZE and node.grown is not None:
            self.room.changed(node.grown, st)
        return Reply(self._attr_out(node, st))

    def do_access(self, r: abi.Request) -> Reply:
        mask, _ = abi.ACCESS_IN.unpack_from(r.raw, abi.ARGS)
        node = self.inodes.get(r.nodeid)
        if mask & os.W_OK:
            self.inodes.allowed.may_change(node)
        with self.inodes.descriptors.path(node) as path:
            if not os.access(path, mask & 7, effective_ids=True):
                raise OSError(errno.EACCES, "permission denied")
        return DONE

    def do_statfs(self, r: abi.Request) -> Reply:
        with self.inodes.descriptors.path(self.inodes.get(r.nodeid)) as path:
            s = os.statvfs(path)
        return Reply(
            abi.STATFS_OUT.pack(
                s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree, s.f_bsize, s.f_namemax, s.f_frsize, 0
            )
        )

    def do_getxattr(self, r: abi.Request) -> Reply:
        size, _ = abi.GETXATTR_IN.unpack_from(r.raw, abi.ARGS)
        name = r.name(abi.ARGS + abi.GETXATTR_IN.size)
        with self.inodes.descriptors.path(self.inodes.get(r.nodeid)) as path:
            return Reply(_sized(os.getxattr(path, name), size))

    def do_listxattr(self, r: abi.Request) -> Reply:
        size, _ = abi.GETXATTR_IN.unpack_from(r.raw, abi.ARGS)
        with self.inodes.descriptors.path(self.inodes.get(r.nodeid)) as path:
            return Reply(_sized(b"".join(os.fsencode(name) + b"\0" for name in os.listxattr(path)), size))

    def do_setxattr(self, r: abi.Request, node: Node) -> Reply:
        size, flags = abi.SETXATTR_IN.unpack_from(r.raw, abi.ARGS)
        name, _, value = bytes(r.raw[abi.ARGS + abi.SETXATTR_IN.size :]).partition(b"\0")
        if not name or len(value) != size:
            raise abi.FuseError("setxattr's value is not as long as it says")
        with self.inodes.descriptors.path(node) as path, self._more(node, path, name, len(value)):
            os.setxattr(path, name, value, flags)
        return DONE

    def attribute_to_set(self, r: abi.Request) -> bytes:
        """Read the name of the extended attribute that a request sets or removes."""
        size = abi.SETXATTR_IN.size if r.op == abi.SETXATTR else 0
        return bytes(r.raw[abi.ARGS + size :]).partition(b"\0")[0]

    def do_removexattr(self, r: abi.Request, node: Node) -> Reply:
        name = r.name(abi.ARGS)
        with self.inodes.descriptors.path(node) as path, self._more(node, path, name, None):
            os.removexattr(path, name)
        return DONE

    @contextmanager
    def _more(self, node: Node, path: str, name: bytes, length: int | None) -> Iterator[None]:
        """Count what an extended attribute of that length takes instead of what there is; None: it is removed."""
        if not self.room.counts:
            yield
            return
        try:
            before = len(name) + len(os.getxattr(path, name))
        except OSError:
            before = 0  # there is none; or it may not be read, and then counts whole
        more = (0 if length is None else len(name) + length) - before
        ahead = self.room.enter_more(node, more)
        try:
            self._counted(node)
            yield
            assert node.grown is not None
            self.room.attributes(node.grown, more, os.stat(path))
        finally:
            self.room.leave(ahead)


def _time(given: int, now: int, seconds: int, nanoseconds: int) -> tuple[int, int]:
    if now:
        return 0, syscalls.UTIME_NOW
    if not given:
        return 0, syscalls.UTIME_OMIT
    return (seconds if seconds < 1 << 63 else seconds - (1 << 64)), nanoseconds


def _sized(value: bytes, size: int) -> bytes:
    """The reply of getxattr and listxattr: the value, or with `size` 0 how long it is."""
    if size == 0:
        return abi.GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise OSError(errno.ERANGE, "the value is larger")
    return value
