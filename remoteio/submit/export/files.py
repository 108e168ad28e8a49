"""Submit side: operations on open files, their locks among them."""

from __future__ import annotations

import errno
import os
import stat

from remoteio import syscalls
from remoteio.submit.export.base import drop_suid
from remoteio.submit.export.changes import NEVER, File, State, state
from remoteio.submit.export.executing import EXECUTE, open_file
from remoteio.submit.export.granted import granted
from remoteio.submit.export.inodes import version
from remoteio.submit.export.leased_opens import LeasedOpens
from remoteio.submit.export.leases import changing
from remoteio.submit.export.nodes import Handle, Node, Place
from remoteio.submit.export.note_changes import UNLOCKED
from remoteio.submit.export.opened_on_host import OpenedOnHost
from remoteio.submit.export.page_twins import PageTwins
from remoteio.submit.export.reply import DONE, Reply
from remoteio.wire import fuse_abi as abi
from remoteio.wire.behind import BESIDE, OTHERS, SAME
from remoteio.wire.coherence import AHEAD
from remoteio.wire.known import Piggyback
from remoteio.wire.makes import MADE

_OPEN_FLAGS = os.O_ACCMODE | os.O_APPEND | os.O_TRUNC | os.O_SYNC | os.O_DSYNC | os.O_NOATIME


class OpenFiles(LeasedOpens):
    """Opens and creates, reads and writes, syncs, locks, closes."""

    late: OpenedOnHost

    def do_open(self, r: abi.Request, node: Node) -> Reply:
        flags, kill = abi.OPEN_IN.unpack_from(r.raw, abi.ARGS)
        if node.kind != stat.S_IFREG:
            raise OSError(errno.EINVAL, "only regular files are opened here")
        self.inodes.may_open()
        if r.number and flags & os.O_TRUNC:  # else its host has not forgotten it
            changing(self.leases, node)
        fd = open_file(lambda f: self.late.reopen(node, f, r.number), flags & (_OPEN_FLAGS | EXECUTE))
        kill &= abi.OPEN_KILL_SUIDGID if self._root_user and flags & (os.O_ACCMODE | os.O_TRUNC) else 0
        leased = self._arm(node, fd, flags)
        st = _begun(fd, kill)
        out = self._opened(fd, node, flags, st, own=MADE + r.number if r.number else 0)
        if node.ctime != st.st_ctime_ns and not flags & os.O_TRUNC:
            # changed since the kernel was told its size, and not by the kernel: close-to-open wants it asked for again
            return Reply(out, before=abi.inval_inode(node.id, -1))
        if flags & (os.O_APPEND | os.O_DIRECT) or _guarded(node):
            return Reply(out)
        ahead = b""
        if st.st_size <= AHEAD and not flags & os.O_WRONLY and not out[8] & abi.FOPEN_KEEP_CACHE:
            ahead = _ahead(fd, st.st_size)
        what, version = self._lease(node, fd, flags, st) if leased else (0, b"")
        return Reply(out, Piggyback(self.attr(st), ahead, version=version), leased=what)

    def do_opened(self, r: abi.Request) -> Reply:
        self.late.open(self.late.expect(r.raw))
        return DONE

    def _opened(self, fd: int, node: Node, flags: int, st: os.stat_result, made: bool = False, own: int = 0) -> bytes:
        """struct fuse_open_out: the kernel keeps its pages if they stand for the file as it is now.

        `own`: the handle's number, if the host has opened it by itself.
        """
        handle = self.inodes.opened(fd, node, flags, own or (node.id if made and node.id >= MADE else 0))
        if handle.writable:
            self._notes.may_write(node)
            self._counted(node, st)
        if node.grown is not None:
            self.room.changed(node.grown, st)
        now = version(st)
        same = now is not None and now == node.seen
        out = abi.FOPEN_KEEP_CACHE if same and not flags & os.O_TRUNC else 0
        # What a host that has opened it by itself told its kernel since is of what the job had left, and not of others.
        node.seen = now if same or not own or flags & os.O_TRUNC else None
        if flags & os.O_TRUNC:
            node.twins = None
        if handle.direct:  # the kernel's idea of the end may be old: let each write find it here
            out = abi.FOPEN_DIRECT_IO | (out if own else 0)
        beside = _guarded(node)
        counts = self.room.counts or (handle.direct and beside)
        if self.behind and handle.writable and not (own or counts or node.locks):
            words = granted(fd, flags, st, made, self.ids.plain)
            handle.beside = bool(words) and beside
            out |= words | BESIDE if handle.beside else words
        return abi.OPEN_OUT.pack(handle.number, out, 0)

    def do_create(self, r: abi.Request, new: Place) -> Reply:
        flags, mode, umask, _ = abi.CREATE_IN.unpack_from(r.raw, abi.ARGS)
        name, at = new.name, new.at
        mode, lacking = self._mode(at, mode, umask)

        def make(f: int) -> int:
            f |= os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            return self.inodes.descriptors.with_room(lambda: os.open(name, f, mode, dir_fd=at))

        self.inodes.may_open()

        try:
            fd = open_file(make, flags & _OPEN_FLAGS)
        except FileExistsError:
            if flags & os.O_EXCL or r.number:  # others have made it meanwhile: the job takes it for its own
                raise
            new.taken = True
            return self._with_parent(self._open_there(new, flags), new)
        try:
            entry = self._new_entry(r, new, fd, lacking)
        except OSError:
            os.close(fd)
            raise
        node = self.inodes.get(abi.ENTRY.unpack_from(entry)[0])
        opened = self._opened(fd, node, flags, os.fstat(fd), True)
        if self.behind:
            self.inodes.descriptors.keeps(node, fd, made=True)  # the host may open it again by itself
        if self.behind and new.parent.shared:
            self.locks.soles.made(self.inodes.handle(abi.OPEN_OUT.unpack(opened)[0]))
        return self._with_parent(entry + opened, new)

    def _open_there(self, place: Place, flags: int) -> bytes:
        """Open what was to be created and is there already: the entry and struct fuse_open_out."""
        st = os.stat(place.name, dir_fd=place.at, follow_symlinks=False)
        if not stat.S_ISREG(st.st_mode):
            raise OSError(errno.ESTALE, "it is no regular file: the kernel must look it up")
        entry = self._entry(place.parent, place.name, st)
        node = self.inodes.get(abi.ENTRY.unpack_from(entry)[0])
        try:
            with self._opening(node, flags):
                fd = self.inodes.descriptors.reopen(node, flags & _OPEN_FLAGS)
        except OSError:
            self.inodes.forget(node.id, 1)
            raise
        st = os.fstat(fd)
        return entry[: abi.ENTRY.size] + self.attr(st) + self._opened(fd, node, flags, st)

    def do_tmpfile(self, r: abi.Request, new: Place) -> Reply:
        flags, mode, umask, _ = abi.CREATE_IN.unpack_from(r.raw, abi.ARGS)
        mode, lacking = self._mode(new.at, mode, umask)
        flags_here = flags & (_OPEN_FLAGS | os.O_EXCL) | os.O_TMPFILE | os.O_CLOEXEC
        self.inodes.may_open()
        fd = self.inodes.descriptors.with_room(lambda: os.open(".", flags_here, mode, dir_fd=new.at))
        entry = self._new_entry(r, new, fd, lacking)
        return Reply(entry + self._opened(fd, self.inodes.get(abi.ENTRY.unpack_from(entry)[0]), flags, os.fstat(fd)))

    def do_read(self, r: abi.Request) -> Reply:
        fh, offset, size, _, _, flags, _ = abi.READ_IN.unpack_from(r.raw, abi.ARGS)
        if size > abi.MAX_WRITE:
            raise OSError(errno.EINVAL, "a read over the agreed size")
        handle = self.inodes.handle(fh)
        data = os.pread(handle.fd, size, offset)
        if _guarded(handle.node) and not (handle.direct or flags & os.O_DIRECT):
            twins = handle.node.twins = handle.node.twins or PageTwins()
            twins.read(offset, data)
            self.locks.twins.used(handle.node, twins.size)
        return Reply(data)

    def do_write(self, r: abi.Request, handle: Handle) -> Reply:
        _, offset, size, how, _, flags, _ = abi.WRITE_IN.unpack_from(r.raw, abi.ARGS)
        data = memoryview(r.raw)[abi.ARGS + abi.WRITE_IN.size :]
        if len(data) != size:
            raise abi.FuseError("a write carries another number of bytes than it says")
        fd, node = handle.fd, handle.node
        if bool(flags & os.O_APPEND) != handle.append:
            _set_append(handle, not handle.append)
        changing(self.leases, node)
        changes = node.changes
        with changes.lock if changes is not None else UNLOCKED:
            before = os.fstat(fd) if changes is not None or node.seen is not None else None
            kept = before is not None and node.seen is not None and node.seen == version(before)
            start = -1 if handle.append else offset
            watch = changes.watch if changes is not None else None
            if watch is not None and before is not None:
                watch.writes(fd, before, start, data)
            try:
                done = self._put(node, bool(how & abi.WRITE_CACHE), fd, data, offset)
            except OSError:
                if changes is not None and before is not None:
                    _failed(changes, state(before), os.fstat(fd), start)
                raise
            if how & abi.WRITE_KILL_SUIDGID and self._root_user:
                drop_suid("/proc/self/fd/%d" % fd)
            st = os.fstat(fd)
            if changes is not None and before is not None:
                changes.wrote(state(before), state(st), start, done)
                if watch is not None:
                    watch.after(st)
            if node.grown is not None:
                self.room.wrote(node.grown, st, done)
        # The kernel's pages have this write in them: they go on standing for the file, if nobody else changed it.
        word = 0
        if kept:
            node.seen, node.ctime, word = version(st), st.st_ctime_ns, SAME
        elif node.seen is not None:
            node.seen, word = None, OTHERS
        out = abi.WRITE_OUT.pack(done, word if r.number else 0)
        return Reply(out, Piggyback(self.attr(st)) if self._may_tell(handle, st, bool(r.number)) else None)

    def _may_tell(self, handle: Handle, st: os.stat_result, answered: bool) -> bool:
        """Say whether the attributes go along with a write's reply: the host knows how long they may be used. Where it
        has `answered` an append, it knows by them where that was put."""
        node = handle.node
        if not _guarded(node) or (handle.append and not answered):
            return answered or not handle.append
        return (handle.beside or bool(node.locks)) and self._shown_beside(node, st)

    def _put(self, node: Node, back: bool, fd: int, data: memoryview, offset: int) -> int:
        """Write the data; `back`: pages that the job's kernel writes back. How much was done."""
        twins = node.twins
        if twins is not None and back:
            return self._write_back(node, twins, fd, data, offset)
        done = _pwrite(fd, data, offset)
        if twins is not None:
            twins.written(offset, data[:done])
        return done

    def _write_back(self, node: Node, twins: PageTwins, fd: int, data: memoryview, offset: int) -> int:
        done = 0
        try:
            for at, changed in twins.changed(offset, data):
                written = _pwrite(fd, changed, at)
                if written < len(changed):
                    done = at + written - offset
                    break
            else:
                done = len(data)
        finally:
            if done < len(data):
                node.twins = None  # they have what the file has not: the next time, all of a page is written
        return done

    def do_flush(self, r: abi.Request) -> Reply:
        fh, _, _, owner = abi.FLUSH_IN.unpack_from(r.raw, abi.ARGS)
        self.locks.drop(self.inodes.handle(fh).node, owner)
        return DONE

    def do_release(self, r: abi.Request) -> Reply:
        fh, *_ = abi.RELEASE_IN.unpack_from(r.raw, abi.ARGS)
        if self.late.closed(fh):
            return DONE
        node = self.inodes.handle(fh).node
        self.inodes.close(fh)
        if not node.handles:
            self.locks.soles.closed(node)
        if node.grown is not None and not node.handles:
            self.room.closed(node.grown)
        return DONE

    do_releasedir = do_release

    def do_fsync(self, r: abi.Request) -> Reply:
        fh, flags, _ = abi.FSYNC_IN.unpack_from(r.raw, abi.ARGS)
        with self.inodes.directory_open(r.nodeid, fh) as handle:
            if self._notes.watch is not None:
                self._notes.watch.journal.sync()
            if flags & abi.FSYNC_DATASYNC:
                os.fdatasync(handle.fd)
            else:
                os.fsync(handle.fd)
        return DONE

    do_fsyncdir = do_fsync

    def do_syncfs(self, r: abi.Request) -> Reply:
        fd = self.inodes.descriptors.reopen(self.inodes.get(r.nodeid), os.O_RDONLY)
        try:
            syscalls.syncfs(fd)
        finally:
            os.close(fd)
        return DONE

    def do_lseek(self, r: abi.Request) -> Reply:
        fh, offset, whence, _ = abi.LSEEK_IN.unpack_from(r.raw, abi.ARGS)
        return Reply(abi.LSEEK_OUT.pack(os.lseek(self.inodes.handle(fh).fd, offset, whence)))


def _set_append(handle: Handle, append: bool) -> None:
    # fcntl(F_SETFL) by the job is seen only in its writes' flags
    import fcntl

    now = fcntl.fcntl(handle.fd, fcntl.F_GETFL)
    fcntl.fcntl(handle.fd, fcntl.F_SETFL, now | os.O_APPEND if append else now & ~os.O_APPEND)
    handle.append = append


def _pwrite(fd: int, data: bytes | memoryview, offset: int) -> int:
    """pwrite(2), short only at a limit: the next write says which."""
    done = os.pwrite(fd, data, offset)
    while done < len(data):
        try:
            done += os.pwrite(fd, data[done:], offset + done)
        except OSError:
            break
    return done


def _begun(fd: int, kill: int) -> os.stat_result:
    """What was just opened, without set-user-id bits if these are to go; closed again if that fails."""
    try:
        if kill:
            drop_suid("/proc/self/fd/%d" % fd)
        return os.fstat(fd)
    except OSError:
        os.close(fd)
        raise


def _ahead(fd: int, size: int) -> bytes:
    """All of a small file that was opened; nothing if it is changing, or cannot be read: who reads it is told so."""
    try:
        data = os.pread(fd, AHEAD, 0)
    except OSError:
        return b""
    return data if len(data) == size else b""


def _failed(changes: File, before: State, st: os.stat_result, start: int) -> None:
    """A write that failed may have put a part of it there."""
    after = state(st)
    if after != before:
        changes.changed(before, after, NEVER if start < 0 else start, after[0])
    if changes.watch is not None:
        changes.watch.after(st)


def _guarded(node: Node) -> bool:
    """May a lock tell of changes to this file? Then nothing is told of it ahead of the question."""
    return bool(node.locks) or (node.parent is not None and node.parent.shared)
