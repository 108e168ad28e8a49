"""Submit side: operations on names in directories, and on directories."""

from __future__ import annotations

import errno
import os
import stat
import time

from remoteio import syscalls
from remoteio.submit.export.base import TTL, UNLOCKED, ExportBase
from remoteio.submit.export.changes import state
from remoteio.submit.export.inodes import Node
from remoteio.submit.export.listings import AHEAD
from remoteio.submit.export.reply import DONE, Reply
from remoteio.wire import fuse_abi as abi
from remoteio.wire.known import Listing, Piggyback

LISTED_AT = 3  # lookups in a directory after which all of it is told
_KERNEL_FACTS = b"criu.kdat"  # in /run: criu's cache of facts about this machine's kernel, which is not the job's
_NEGATIVE = abi.ENTRY.pack(0, 0, TTL, 0, 0, 0) + bytes(abi.ATTR.size)


class Names(ExportBase):
    """Lookup and forget, making, linking, renaming, removing, listing."""

    def do_lookup(self, r: abi.Request) -> Reply:
        parent = self.inodes.get(r.nodeid)
        name = r.name(abi.ARGS)
        at = self.inodes.directory(parent)
        try:
            if name == _KERNEL_FACTS and parent.name == b"run":
                raise FileNotFoundError
            st = os.stat(name, dir_fd=at, follow_symlinks=False)
            entry = self._entry(parent, name, st)
        except FileNotFoundError:
            if parent.shared:
                raise
            entry = _NEGATIVE
        else:
            if stat.S_ISDIR(st.st_mode):
                # kept open, it is found as the job's working directory wherever it is moved to
                self.inodes.pin(st)
        if not self._worth_listing(parent):
            return Reply(entry)
        listing = self.listings.whole(parent)
        return Reply(entry, Piggyback(self.attr(os.fstat(at)), listing=Listing(listing, True)) if listing else None)

    def _worth_listing(self, parent: Node) -> bool:
        """Several names of one directory in a row: then the kernel will ask for more of them."""
        parent.asked += 1
        now = time.monotonic()
        if parent.asked < LISTED_AT or parent.shared or now < parent.listed:
            return False
        parent.asked, parent.listed = 0, now + TTL
        return True

    def do_forget(self, r: abi.Request) -> Reply:
        self.inodes.forget(r.nodeid, abi.FORGET_IN.unpack_from(r.raw, abi.ARGS)[0])
        return DONE

    def do_batch_forget(self, r: abi.Request) -> Reply:
        count, _ = abi.BATCH_FORGET_IN.unpack_from(r.raw, abi.ARGS)
        at = abi.ARGS + abi.BATCH_FORGET_IN.size
        if len(r.raw) < at + count * abi.FORGET_ONE.size:
            raise abi.FuseError("batch_forget names fewer nodes than it counts")
        for nodeid, n in abi.FORGET_ONE.iter_unpack(memoryview(r.raw)[at : at + count * abi.FORGET_ONE.size]):
            self.inodes.forget(nodeid, n)
        return DONE

    def do_readlink(self, r: abi.Request) -> Reply:
        node = self.inodes.get(r.nodeid)
        if node.parent is None:
            raise OSError(errno.EINVAL, "the root is no symbolic link")
        return Reply(os.fsencode(os.readlink(node.name, dir_fd=self.inodes.directory(node.parent))))

    def do_symlink(self, r: abi.Request) -> Reply:
        parent = self.inodes.get(r.nodeid)
        name, target = r.texts(abi.ARGS)
        self.inodes.may_name(parent, abi.one_name(name), None)
        at = self.inodes.directory(parent)
        os.symlink(target, name, dir_fd=at)
        return self._with_parent(self._new_entry(r, parent, name, at), parent, at)

    def do_mknod(self, r: abi.Request) -> Reply:
        parent = self.inodes.get(r.nodeid)
        mode, rdev, umask, _ = abi.MKNOD_IN.unpack_from(r.raw, abi.ARGS)
        name = r.name(abi.ARGS + abi.MKNOD_IN.size)
        self.inodes.may_name(parent, name, None)
        at = self.inodes.directory(parent)
        mode, lacking = self._mode(at, mode, umask)
        os.mknod(name, mode, rdev, dir_fd=at)
        return self._with_parent(self._new_entry(r, parent, name, at, lacking=lacking), parent, at)

    def do_mkdir(self, r: abi.Request) -> Reply:
        parent = self.inodes.get(r.nodeid)
        mode, umask = abi.MKDIR_IN.unpack_from(r.raw, abi.ARGS)
        name = r.name(abi.ARGS + abi.MKDIR_IN.size)
        self.inodes.may_name(parent, name, None, directory=True)
        at = self.inodes.directory(parent)
        mode, lacking = self._mode(at, mode, umask)
        os.mkdir(name, mode, dir_fd=at)
        return self._with_parent(self._new_entry(r, parent, name, at, lacking=lacking), parent, at)

    def do_link(self, r: abi.Request) -> Reply:
        parent = self.inodes.get(r.nodeid)
        (old,) = abi.LINK_IN.unpack_from(r.raw, abi.ARGS)
        name = r.name(abi.ARGS + abi.LINK_IN.size)
        node = self.inodes.get(old)
        self.inodes.may_link(node)
        self.inodes.may_name(parent, name, None)
        at = self.inodes.directory(parent)
        with self._changing(node), self.inodes.path(node) as path:
            os.link(path, name, dst_dir_fd=at, follow_symlinks=True)
        return Reply(self._entry(parent, name, os.stat(name, dir_fd=at, follow_symlinks=False)))

    def do_unlink(self, r: abi.Request) -> Reply:
        name, parent = r.name(abi.ARGS), self.inodes.get(r.nodeid)
        at = self.inodes.directory(parent)
        st = os.stat(name, dir_fd=at, follow_symlinks=False)
        self.inodes.may_name(parent, name, st)
        node = self.inodes.known(st) if st.st_nlink > 1 else None
        with self._changing(node) if node is not None else UNLOCKED:
            os.unlink(name, dir_fd=at)
        self._removed(st)
        return self._with_parent(b"", parent, at)

    def do_rmdir(self, r: abi.Request) -> Reply:
        name, parent = r.name(abi.ARGS), self.inodes.get(r.nodeid)
        at = self.inodes.directory(parent)
        st = os.stat(name, dir_fd=at, follow_symlinks=False)
        self.inodes.may_name(parent, name, st)
        os.rmdir(name, dir_fd=at)
        self._removed(st)
        return self._with_parent(b"", parent, at)

    def _removed(self, st: os.stat_result | None) -> None:
        node = self.inodes.known(st) if st is not None else None
        if st is None or (st.st_nlink > 1 and not stat.S_ISDIR(st.st_mode)):
            return
        if node is not None:
            self.inodes.gone(node)
        self._unnamed(st)

    def _unnamed(self, st: os.stat_result | None) -> None:
        """The job has taken the name of what `st` describes away from it."""
        changes = self._record.known(st) if self._record is not None and st is not None else None
        if changes is not None and st is not None:
            with changes.lock:
                changes.removed(state(st))

    def do_rename(self, r: abi.Request) -> Reply:
        (newdir,) = abi.RENAME_IN.unpack_from(r.raw, abi.ARGS)
        return self._rename(r, newdir, 0, abi.RENAME_IN.size)

    def do_rename2(self, r: abi.Request) -> Reply:
        newdir, flags, _ = abi.RENAME2_IN.unpack_from(r.raw, abi.ARGS)
        if flags & ~3:
            raise OSError(errno.EINVAL, "only NOREPLACE and EXCHANGE")
        return self._rename(r, newdir, flags, abi.RENAME2_IN.size)

    def _rename(self, r: abi.Request, newdir: int, flags: int, size: int) -> Reply:
        old, new = r.names(abi.ARGS + size)
        parent, target = self.inodes.get(r.nodeid), self.inodes.get(newdir)
        a, b = self.inodes.directory(parent), self.inodes.directory(target)
        moved, replaced = _lstat(old, a), _lstat(new, b)
        self.inodes.may_name(parent, old, moved)
        self.inodes.may_name(target, new, replaced)
        syscalls.renameat2(a, old, b, new, flags)
        self.inodes.moved(target, new, moved)
        self._unnamed(moved)
        if flags & 2:
            self.inodes.moved(parent, old, replaced)
            self._unnamed(replaced)
        elif moved is None or replaced is None or moved.st_ino != replaced.st_ino:
            self._removed(replaced)
        return DONE

    def do_opendir(self, r: abi.Request) -> Reply:
        node = self.inodes.get(r.nodeid)
        fd = self.inodes.reopen(node, os.O_RDONLY | os.O_DIRECTORY)
        handle = self.inodes.opened(fd, node, 0)
        out = abi.OPEN_OUT.pack(fd, 0, 0)
        if node.shared:
            return Reply(out)
        try:
            entries, complete = self.listings.plus(handle, 0, AHEAD)
        except OSError:
            return Reply(out)  # it is readdir(3) that says so
        return Reply(out, Piggyback(self.attr(os.fstat(fd)), listing=Listing(entries, complete)))

    def do_readdir(self, r: abi.Request) -> Reply:
        fh, offset, size, *_ = abi.READ_IN.unpack_from(r.raw, abi.ARGS)
        return Reply(self.listings.plain(self.inodes.handle(fh), offset, size))

    def do_readdirplus(self, r: abi.Request) -> Reply:
        fh, offset, size, *_ = abi.READ_IN.unpack_from(r.raw, abi.ARGS)
        return Reply(self.listings.plus(self.inodes.handle(fh), offset, size)[0])


def _lstat(name: bytes, at: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return None
