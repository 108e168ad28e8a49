"""Submit side: does each operation of the job on this machine's disk.

One method an operation, named as in ``fuse_abi.OPERATIONS``: it takes a Request and returns the reply's body, or raises
OSError, whose errno travels unchanged. No method keeps state of its own between calls: nodes and handles are in
``inodes``, locks in ``locks``. Names are resolved one component at a time beneath directory descriptors; symbolic
links are followed by the job's kernel, never here.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable

from remoteio import fuse_abi as abi
from remoteio import syscalls
from remoteio.frames import FUSE, KNOWN, ORDERED
from remoteio.ids import Ids
from remoteio.inodes import Handle, Inodes, Node, version
from remoteio.listing import AHEAD, Listings
from remoteio.locks import Locks
from remoteio.written import Written

TTL = 1  # seconds the kernel may use an entry or attributes without asking
LISTED_AT = 3  # lookups in a directory after which all of it is told
# a reply's body, or body and what the relay may answer from for TTL seconds: attributes, then contents or nothing
Body = bytes | tuple[bytes, bytes]
_OPEN_FLAGS = os.O_ACCMODE | os.O_APPEND | os.O_TRUNC | os.O_SYNC | os.O_DSYNC | os.O_NOATIME
_KERNEL_FACTS = b"criu.kdat"  # in /run: criu's cache of facts about this machine's kernel, which is not the job's
_NEGATIVE = abi.ENTRY.pack(0, 0, TTL, 0, 0, 0) + bytes(abi.ATTR.size)


class Export:
    """Serves the tree at `root` with the rights of this process."""

    def __init__(self, ids: Ids, root: str = "/", record: Written | None = None) -> None:
        """`record`, if given, is told of every file that is opened for writing, or truncated."""
        self.ids = ids
        self._record = record
        self.inodes = Inodes(root)
        self.locks = Locks(self.inodes)
        self.listings = Listings(self.inodes, self._entry)
        self._root_user = os.geteuid() == 0
        self.methods: dict[int, Callable[[abi.Request], Body]] = {
            op: getattr(self, "do_" + shape[0]) for op, shape in abi.OPERATIONS.items() if op != abi.INTERRUPT
        }

    def answer(self, request: abi.Request) -> tuple[int, bytes] | None:
        """The frame (kind, payload) that answers `request`, or None where the ABI has no reply."""
        op = request.op
        if op == abi.INTERRUPT:
            self.locks.interrupt(abi.INTERRUPT_IN.unpack_from(request.raw, abi.ARGS)[0])
            return None
        method = self.methods.get(op)
        if method is None:
            return FUSE, abi.failure(request.unique, errno.ENOSYS)
        try:
            body = method(request)
        except OSError as e:
            return None if op in abi.UNANSWERED else (FUSE, abi.failure(request.unique, e.errno or errno.EIO))
        except (abi.FuseError, ValueError, OverflowError):  # a name or number that no kernel sends
            return None if op in abi.UNANSWERED else (FUSE, abi.failure(request.unique, errno.EINVAL))
        if op in abi.UNANSWERED:
            return None
        if isinstance(body, tuple):
            return KNOWN, abi.reply(request.unique, body[0]) + body[1]
        assert isinstance(body, bytes)
        reply = abi.reply(request.unique, body)
        return (ORDERED, request.notice + reply) if request.notice else (FUSE, reply)

    # what a reply is made of

    def attr(self, st: os.stat_result) -> bytes:
        """`st` as struct fuse_attr."""
        uid, gid = self.ids.of(st)
        a, m, c = st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns
        return abi.ATTR.pack(
            self.inodes.number(st.st_dev, st.st_ino), st.st_size, st.st_blocks,
            a // 1000000000 & _U64, m // 1000000000 & _U64, c // 1000000000 & _U64, a % 1000000000, m % 1000000000,
            c % 1000000000, st.st_mode, st.st_nlink, uid, gid, st.st_rdev & 0xFFFFFFFF, st.st_blksize & 0xFFFFFFFF, 0,
        )  # fmt: skip

    def _entry(self, parent: Node, name: bytes, st: os.stat_result) -> bytes:
        node = self.inodes.found(parent, name, st)
        ttl = 0 if parent.shared else TTL
        return abi.ENTRY.pack(node.id, 0, ttl, ttl, 0, 0) + self.attr(st)

    def _new_entry(self, r: abi.Request, parent: Node, name: bytes, at: int, fd: int = -1) -> bytes:
        """The entry of what was just made as `name` in the directory open at `at`, given to the user who made it."""
        if self._root_user and (r.uid or r.gid):
            above = os.fstat(at)
            gid = -1 if above.st_mode & stat.S_ISGID else r.gid
            if fd >= 0:
                os.fchown(fd, r.uid, gid)
            else:
                os.chown(name, r.uid, gid, dir_fd=at, follow_symlinks=False)
        st = os.fstat(fd) if fd >= 0 else os.stat(name, dir_fd=at, follow_symlinks=False)
        return self._entry(parent, name, st)

    def _with_parent(self, body: bytes, parent: Node, at: int) -> Body:
        """`body`, with the directory's new attributes: the kernel's next step there begins with asking for them."""
        return body if parent.shared else (body, self.attr(os.fstat(at)))

    def _mode(self, at: int, mode: int, umask: int) -> int:
        """The mode to create with: a default ACL takes the umask's place (acl(5))."""
        try:
            os.getxattr("/proc/self/fd/%d" % at, "system.posix_acl_default")
        except OSError:
            return mode & ~umask
        return mode

    # names

    def do_lookup(self, r: abi.Request) -> Body:
        parent = self.inodes.get(r.nodeid)
        name = r.name(abi.ARGS)
        at = self.inodes.directory(parent)
        try:
            if name == _KERNEL_FACTS and parent.name == b"run":
                raise FileNotFoundError
            st = os.stat(name, dir_fd=at, follow_symlinks=False)
        except FileNotFoundError:
            if parent.shared:
                raise
            entry = _NEGATIVE
        else:
            entry = self._entry(parent, name, st)
            if stat.S_ISDIR(st.st_mode):
                # kept open, it is found as the job's working directory wherever it is moved to
                self.inodes.pin(st)
        if not self._worth_listing(parent):
            return entry
        listing = self.listings.whole(parent)
        return (entry, self.attr(os.fstat(at)) + b"\1" + listing) if listing else entry

    def _worth_listing(self, parent: Node) -> bool:
        """Several names of one directory in a row: then the kernel will ask for more of them."""
        parent.asked += 1
        now = time.monotonic()
        if parent.asked < LISTED_AT or parent.shared or now < parent.listed:
            return False
        parent.asked, parent.listed = 0, now + TTL
        return True

    def do_forget(self, r: abi.Request) -> bytes:
        self.inodes.forget(r.nodeid, abi.FORGET_IN.unpack_from(r.raw, abi.ARGS)[0])
        return b""

    def do_batch_forget(self, r: abi.Request) -> bytes:
        count, _ = abi.BATCH_FORGET_IN.unpack_from(r.raw, abi.ARGS)
        at = abi.ARGS + abi.BATCH_FORGET_IN.size
        if len(r.raw) < at + count * abi.FORGET_ONE.size:
            raise abi.FuseError("batch_forget names fewer nodes than it counts")
        for nodeid, n in abi.FORGET_ONE.iter_unpack(memoryview(r.raw)[at : at + count * abi.FORGET_ONE.size]):
            self.inodes.forget(nodeid, n)
        return b""

    def do_readlink(self, r: abi.Request) -> bytes:
        node = self.inodes.get(r.nodeid)
        if node.parent is None:
            raise OSError(errno.EINVAL, "the root is no symbolic link")
        return os.fsencode(os.readlink(node.name, dir_fd=self.inodes.directory(node.parent)))

    def do_symlink(self, r: abi.Request) -> Body:
        parent = self.inodes.get(r.nodeid)
        name, target = r.texts(abi.ARGS)
        at = self.inodes.directory(parent)
        os.symlink(target, abi.one_name(name), dir_fd=at)
        return self._with_parent(self._new_entry(r, parent, name, at), parent, at)

    def do_mknod(self, r: abi.Request) -> Body:
        parent = self.inodes.get(r.nodeid)
        mode, rdev, umask, _ = abi.MKNOD_IN.unpack_from(r.raw, abi.ARGS)
        name = r.name(abi.ARGS + abi.MKNOD_IN.size)
        at = self.inodes.directory(parent)
        os.mknod(name, self._mode(at, mode, umask), rdev, dir_fd=at)
        return self._with_parent(self._new_entry(r, parent, name, at), parent, at)

    def do_mkdir(self, r: abi.Request) -> Body:
        parent = self.inodes.get(r.nodeid)
        mode, umask = abi.MKDIR_IN.unpack_from(r.raw, abi.ARGS)
        name = r.name(abi.ARGS + abi.MKDIR_IN.size)
        at = self.inodes.directory(parent)
        os.mkdir(name, self._mode(at, mode, umask), dir_fd=at)
        return self._with_parent(self._new_entry(r, parent, name, at), parent, at)

    def do_link(self, r: abi.Request) -> bytes:
        parent = self.inodes.get(r.nodeid)
        (old,) = abi.LINK_IN.unpack_from(r.raw, abi.ARGS)
        name = r.name(abi.ARGS + abi.LINK_IN.size)
        at = self.inodes.directory(parent)
        with self.inodes.path(self.inodes.get(old)) as path:
            os.link(path, name, dst_dir_fd=at, follow_symlinks=True)
        return self._entry(parent, name, os.stat(name, dir_fd=at, follow_symlinks=False))

    def do_unlink(self, r: abi.Request) -> Body:
        name, parent = r.name(abi.ARGS), self.inodes.get(r.nodeid)
        at = self.inodes.directory(parent)
        st = os.stat(name, dir_fd=at, follow_symlinks=False)
        os.unlink(name, dir_fd=at)
        self._removed(st)
        return self._with_parent(b"", parent, at)

    def do_rmdir(self, r: abi.Request) -> Body:
        name, parent = r.name(abi.ARGS), self.inodes.get(r.nodeid)
        at = self.inodes.directory(parent)
        st = os.stat(name, dir_fd=at, follow_symlinks=False)
        os.rmdir(name, dir_fd=at)
        self._removed(st)
        return self._with_parent(b"", parent, at)

    def _removed(self, st: os.stat_result | None) -> None:
        node = self.inodes.known(st) if st is not None else None
        if node is not None and st is not None and (st.st_nlink == 1 or stat.S_ISDIR(st.st_mode)):
            self.inodes.gone(node)

    def do_rename(self, r: abi.Request) -> bytes:
        (newdir,) = abi.RENAME_IN.unpack_from(r.raw, abi.ARGS)
        return self._rename(r, newdir, 0, abi.RENAME_IN.size)

    def do_rename2(self, r: abi.Request) -> bytes:
        newdir, flags, _ = abi.RENAME2_IN.unpack_from(r.raw, abi.ARGS)
        if flags & ~3:
            raise OSError(errno.EINVAL, "only NOREPLACE and EXCHANGE")
        return self._rename(r, newdir, flags, abi.RENAME2_IN.size)

    def _rename(self, r: abi.Request, newdir: int, flags: int, size: int) -> bytes:
        old, new = r.names(abi.ARGS + size)
        parent, target = self.inodes.get(r.nodeid), self.inodes.get(newdir)
        a, b = self.inodes.directory(parent), self.inodes.directory(target)
        moved, replaced = _lstat(old, a), _lstat(new, b)
        syscalls.renameat2(a, old, b, new, flags)
        self.inodes.moved(target, new, moved)
        if flags & 2:
            self.inodes.moved(parent, old, replaced)
        elif moved is None or replaced is None or moved.st_ino != replaced.st_ino:
            self._removed(replaced)
        return b""

    # attributes

    def do_getattr(self, r: abi.Request) -> bytes:
        flags, _, fh = abi.GETATTR_IN.unpack_from(r.raw, abi.ARGS)
        node = self.inodes.get(r.nodeid)
        st = os.fstat(self.inodes.handle(fh).fd) if flags & abi.GETATTR_FH else self.inodes.stat(node)
        return self._attr_out(node, st)

    def _attr_out(self, node: Node, st: os.stat_result) -> bytes:
        ttl = 0 if node.parent is not None and node.parent.shared else TTL
        node.ctime = st.st_ctime_ns
        return abi.ATTR_OUT.pack(ttl, 0, 0) + self.attr(st)

    def do_statx(self, r: abi.Request) -> bytes:
        flags, _, fh, _, mask = abi.STATX_IN.unpack_from(r.raw, abi.ARGS)
        node = self.inodes.get(r.nodeid)
        own = flags & abi.GETATTR_FH
        fd = self.inodes.handle(fh).fd if own else self.inodes.reopen(node, os.O_PATH)
        try:
            fields = list(syscalls.statx(fd, mask))
            st = os.fstat(fd)
        finally:
            if not own:
                os.close(fd)
        fields[4], fields[5] = self.ids.of(st)
        fields[7] = self.inodes.number(st.st_dev, st.st_ino)
        return abi.STATX_OUT.pack(TTL, 0, 0) + abi.STATX.pack(*fields)

    def do_setattr(self, r: abi.Request) -> bytes:
        valid, _, fh, size, _, at, mt, _, atn, mtn, _, mode, _, uid, gid, _ = abi.SETATTR_IN.unpack_from(
            r.raw, abi.ARGS
        )
        node = self.inodes.get(r.nodeid)
        handle = self.inodes.handle(fh) if valid & abi.FATTR_FH else None
        with self.inodes.path(node) as path:
            if valid & (abi.FATTR_UID | abi.FATTR_GID):
                uid, gid = self.ids.given(uid if valid & abi.FATTR_UID else -1, gid if valid & abi.FATTR_GID else -1)
                os.chown(path, uid, gid)
            if valid & abi.FATTR_MODE:
                os.chmod(path, mode & 0o7777)
            if valid & abi.FATTR_SIZE:
                if handle is not None and handle.writable:
                    os.ftruncate(handle.fd, size)
                else:
                    os.truncate(path, size)
                node.seen = None
                if self._record is not None:
                    self._record.add(node)
            if valid & abi.FATTR_KILL_SUIDGID and self._root_user:
                _drop_suid(path)
            if valid & (abi.FATTR_ATIME | abi.FATTR_MTIME):
                syscalls.utimensat(
                    path,
                    _time(valid & abi.FATTR_ATIME, valid & abi.FATTR_ATIME_NOW, at, atn),
                    _time(valid & abi.FATTR_MTIME, valid & abi.FATTR_MTIME_NOW, mt, mtn),
                )
            st = os.stat(path)
        return self._attr_out(node, st)

    def do_access(self, r: abi.Request) -> bytes:
        mask, _ = abi.ACCESS_IN.unpack_from(r.raw, abi.ARGS)
        with self.inodes.path(self.inodes.get(r.nodeid)) as path:
            if not os.access(path, mask & 7, effective_ids=True):
                raise OSError(errno.EACCES, "permission denied")
        return b""

    def do_statfs(self, r: abi.Request) -> bytes:
        with self.inodes.path(self.inodes.get(r.nodeid)) as path:
            s = os.statvfs(path)
        return abi.STATFS_OUT.pack(
            s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree, s.f_bsize, s.f_namemax, s.f_frsize, 0
        )

    def do_getxattr(self, r: abi.Request) -> bytes:
        size, _ = abi.GETXATTR_IN.unpack_from(r.raw, abi.ARGS)
        name = r.name(abi.ARGS + abi.GETXATTR_IN.size)
        with self.inodes.path(self.inodes.get(r.nodeid)) as path:
            return _sized(os.getxattr(path, name), size)

    def do_listxattr(self, r: abi.Request) -> bytes:
        size, _ = abi.GETXATTR_IN.unpack_from(r.raw, abi.ARGS)
        with self.inodes.path(self.inodes.get(r.nodeid)) as path:
            return _sized(b"".join(os.fsencode(name) + b"\0" for name in os.listxattr(path)), size)

    def do_setxattr(self, r: abi.Request) -> bytes:
        size, flags = abi.SETXATTR_IN.unpack_from(r.raw, abi.ARGS)
        name, _, value = bytes(r.raw[abi.ARGS + abi.SETXATTR_IN.size :]).partition(b"\0")
        if not name or len(value) != size:
            raise abi.FuseError("setxattr's value is not as long as it says")
        with self.inodes.path(self.inodes.get(r.nodeid)) as path:
            os.setxattr(path, name, value, flags)
        return b""

    def do_removexattr(self, r: abi.Request) -> bytes:
        with self.inodes.path(self.inodes.get(r.nodeid)) as path:
            os.removexattr(path, r.name(abi.ARGS))
        return b""

    # open files

    def do_open(self, r: abi.Request) -> Body:
        flags, kill = abi.OPEN_IN.unpack_from(r.raw, abi.ARGS)
        node = self.inodes.get(r.nodeid)
        if node.kind != stat.S_IFREG:
            raise OSError(errno.EINVAL, "only regular files are opened here")
        fd = _open_file(lambda f: self.inodes.reopen(node, f), flags & _OPEN_FLAGS)
        if kill & abi.OPEN_KILL_SUIDGID and self._root_user:
            _drop_suid("/proc/self/fd/%d" % fd)
        st = os.fstat(fd)
        out = self._opened(fd, node, flags, st)
        if node.ctime != st.st_ctime_ns and not flags & os.O_TRUNC:
            # changed since the kernel was told its size, and not by the kernel: close-to-open wants it asked for again
            r.notice = abi.inval_inode(node.id, -1)
            return out
        if flags & (os.O_APPEND | os.O_DIRECT) or (node.parent is not None and node.parent.shared) or node.locks:
            return out
        ahead = b""
        if st.st_size <= AHEAD and not flags & os.O_WRONLY and not out[8] & abi.FOPEN_KEEP_CACHE:
            ahead = os.pread(fd, AHEAD, 0)
            if len(ahead) != st.st_size:
                ahead = b""  # it is changing as we look
        return out, self.attr(st) + ahead

    def _opened(self, fd: int, node: Node, flags: int, st: os.stat_result) -> bytes:
        """struct fuse_open_out: the kernel keeps its pages if they stand for the file as it is now."""
        handle = self.inodes.opened(fd, node, flags)
        if handle.writable and self._record is not None:
            self._record.add(node)
        now = version(st)
        out = abi.FOPEN_KEEP_CACHE if now is not None and now == node.seen and not flags & os.O_TRUNC else 0
        node.seen = now
        if flags & os.O_APPEND:  # the kernel's idea of the end may be old: let each write find it here
            out = abi.FOPEN_DIRECT_IO
        return abi.OPEN_OUT.pack(fd, out, 0)

    def do_create(self, r: abi.Request) -> Body:
        flags, mode, umask, _ = abi.CREATE_IN.unpack_from(r.raw, abi.ARGS)
        name = r.name(abi.ARGS + abi.CREATE_IN.size)
        parent = self.inodes.get(r.nodeid)
        at = self.inodes.directory(parent)
        mode = self._mode(at, mode, umask)
        made = True

        def make(f: int) -> int:
            return os.open(name, f | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=at)

        try:
            fd = _open_file(make, flags & _OPEN_FLAGS)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            made = False
            if not stat.S_ISREG(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
                raise OSError(errno.ESTALE, "it is no regular file: the kernel must look it up") from None
            fd = os.open(name, flags & _OPEN_FLAGS | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        try:
            entry = self._new_entry(r, parent, name, at, fd) if made else self._entry(parent, name, os.fstat(fd))
        except OSError:
            os.close(fd)
            raise
        node = self.inodes.get(abi.ENTRY.unpack_from(entry)[0])
        return self._with_parent(entry + self._opened(fd, node, flags, os.fstat(fd)), parent, at)

    def do_tmpfile(self, r: abi.Request) -> bytes:
        flags, mode, umask, _ = abi.CREATE_IN.unpack_from(r.raw, abi.ARGS)
        parent = self.inodes.get(r.nodeid)
        at = self.inodes.directory(parent)
        fd = os.open(".", flags & (_OPEN_FLAGS | os.O_EXCL) | os.O_TMPFILE, self._mode(at, mode, umask), dir_fd=at)
        entry = self._new_entry(r, parent, b"", at, fd)
        return entry + self._opened(fd, self.inodes.get(abi.ENTRY.unpack_from(entry)[0]), flags, os.fstat(fd))

    def do_read(self, r: abi.Request) -> bytes:
        fh, offset, size, *_ = abi.READ_IN.unpack_from(r.raw, abi.ARGS)
        if size > abi.MAX_WRITE:
            raise OSError(errno.EINVAL, "a read over the agreed size")
        return os.pread(self.inodes.handle(fh).fd, size, offset)

    def do_write(self, r: abi.Request) -> Body:
        fh, offset, size, how, _, flags, _ = abi.WRITE_IN.unpack_from(r.raw, abi.ARGS)
        handle = self.inodes.handle(fh)
        data = memoryview(r.raw)[abi.ARGS + abi.WRITE_IN.size :]
        if len(data) != size:
            raise abi.FuseError("a write carries another number of bytes than it says")
        fd, node = handle.fd, handle.node
        if bool(flags & os.O_APPEND) != handle.append:
            self._set_append(handle, not handle.append)
        kept = node.seen is not None and node.seen == version(os.fstat(fd))
        done = os.pwrite(fd, data, offset)
        while done < size:  # short only at a limit: the next write says which
            try:
                done += os.pwrite(fd, data[done:], offset + done)
            except OSError:
                break
        if how & abi.WRITE_KILL_SUIDGID and self._root_user:
            _drop_suid("/proc/self/fd/%d" % fd)
        # The kernel's pages have this write in them: they go on standing for the file, if nobody else changed it.
        st = os.fstat(fd)
        if kept:
            node.seen, node.ctime = version(st), st.st_ctime_ns
        else:
            node.seen = None
        out = abi.WRITE_OUT.pack(done, 0)
        return out if handle.append or node.locks else (out, self.attr(st))

    def _set_append(self, handle: Handle, append: bool) -> None:
        # fcntl(F_SETFL) by the job is seen only in its writes' flags
        import fcntl

        now = fcntl.fcntl(handle.fd, fcntl.F_GETFL)
        fcntl.fcntl(handle.fd, fcntl.F_SETFL, now | os.O_APPEND if append else now & ~os.O_APPEND)
        handle.append = append

    def do_flush(self, r: abi.Request) -> bytes:
        fh, _, _, owner = abi.FLUSH_IN.unpack_from(r.raw, abi.ARGS)
        self.locks.drop(self.inodes.handle(fh).node, owner)
        return b""

    def do_release(self, r: abi.Request) -> bytes:
        fh, *_ = abi.RELEASE_IN.unpack_from(r.raw, abi.ARGS)
        self.inodes.close(fh)
        return b""

    do_releasedir = do_release

    def do_fsync(self, r: abi.Request) -> bytes:
        fh, flags, _ = abi.FSYNC_IN.unpack_from(r.raw, abi.ARGS)
        fd = self.inodes.handle(fh).fd
        if flags & abi.FSYNC_DATASYNC:
            os.fdatasync(fd)
        else:
            os.fsync(fd)
        return b""

    do_fsyncdir = do_fsync

    def do_syncfs(self, r: abi.Request) -> bytes:
        fd = self.inodes.reopen(self.inodes.get(r.nodeid), os.O_RDONLY)
        try:
            syscalls.syncfs(fd)
        finally:
            os.close(fd)
        return b""

    def do_fallocate(self, r: abi.Request) -> bytes:
        fh, offset, length, mode, _ = abi.FALLOCATE_IN.unpack_from(r.raw, abi.ARGS)
        handle = self.inodes.handle(fh)
        syscalls.fallocate(handle.fd, mode, offset, length)
        handle.node.seen = None
        return b""

    def do_lseek(self, r: abi.Request) -> bytes:
        fh, offset, whence, _ = abi.LSEEK_IN.unpack_from(r.raw, abi.ARGS)
        return abi.LSEEK_OUT.pack(os.lseek(self.inodes.handle(fh).fd, offset, whence))

    def _copy(self, r: abi.Request) -> int:
        fh_in, off_in, _, fh_out, off_out, length, flags = abi.COPY_IN.unpack_from(r.raw, abi.ARGS)
        if flags:
            raise OSError(errno.EINVAL, "copy_file_range has no flags")
        source, target = self.inodes.handle(fh_in), self.inodes.handle(fh_out)
        target.node.seen = None
        return os.copy_file_range(source.fd, target.fd, min(length, 1 << 30), off_in, off_out)

    def do_copy_file_range(self, r: abi.Request) -> bytes:
        return abi.WRITE_OUT.pack(self._copy(r), 0)

    def do_copy_file_range_64(self, r: abi.Request) -> bytes:
        return abi.COPY64_OUT.pack(self._copy(r))

    def do_getlk(self, r: abi.Request) -> bytes:
        return self.locks.test(r)

    def do_setlk(self, r: abi.Request) -> bytes:
        return self._lock(r, wait=False)

    def do_setlkw(self, r: abi.Request) -> bytes:
        return self._lock(r, wait=True)

    def _lock(self, r: abi.Request, wait: bool) -> bytes:
        self.locks.set(r, wait)
        if self.locks.stale_pages(r):
            r.notice = abi.inval_inode(r.nodeid)
        return b""

    # directories

    def do_opendir(self, r: abi.Request) -> Body:
        node = self.inodes.get(r.nodeid)
        fd = self.inodes.reopen(node, os.O_RDONLY | os.O_DIRECTORY)
        handle = self.inodes.opened(fd, node, 0)
        out = abi.OPEN_OUT.pack(fd, 0, 0)
        if node.shared:
            return out
        listing, complete = self.listings.plus(handle, 0, AHEAD)
        return out, self.attr(os.fstat(fd)) + bytes((complete,)) + listing

    def do_readdir(self, r: abi.Request) -> bytes:
        fh, offset, size, *_ = abi.READ_IN.unpack_from(r.raw, abi.ARGS)
        return self.listings.plain(self.inodes.handle(fh), offset, size)

    def do_readdirplus(self, r: abi.Request) -> bytes:
        fh, offset, size, *_ = abi.READ_IN.unpack_from(r.raw, abi.ARGS)
        return self.listings.plus(self.inodes.handle(fh), offset, size)[0]

    # the mount itself

    def do_init(self, r: abi.Request) -> bytes:
        major, minor, readahead, flags, *_ = abi.INIT_IN.unpack_from(
            bytes(r.raw[abi.ARGS :]).ljust(abi.INIT_IN.size, b"\0")
        )
        if major != abi.MAJOR or minor < 31:
            raise OSError(errno.EPROTO, "FUSE %d.%d is too old: Linux 5.4 or newer is needed" % (major, minor))
        offered = flags
        if flags & abi.INIT_EXT and len(r.raw) >= abi.ARGS + abi.INIT_IN.size:
            offered |= abi.INIT_IN.unpack_from(r.raw, abi.ARGS)[4] << 32
        want = offered & (abi.WANTED | (abi.POSIX_ACL if self.ids.true and self._root_user else 0))
        return abi.INIT_OUT.pack(
            abi.MAJOR, min(minor, abi.MINOR), readahead, want & 0xFFFFFFFF, 64, 48, abi.MAX_WRITE, 1,
            abi.PAGES, 0, want >> 32,
        )  # fmt: skip

    def do_destroy(self, r: abi.Request) -> bytes:
        return b""


_U64 = (1 << 64) - 1


def _lstat(name: bytes, at: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return None


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


def _open_file(opener: Callable[[int], int], flags: int) -> int:
    try:
        return opener(flags)
    except PermissionError:
        if not flags & os.O_NOATIME:
            raise
        return opener(flags & ~os.O_NOATIME)  # only an owner may ask for it; the job's kernel has checked what it knows


def _drop_suid(path: str) -> None:
    mode = os.stat(path).st_mode
    drop = stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0)
    if mode & drop:
        os.chmod(path, stat.S_IMODE(mode) & ~drop)
