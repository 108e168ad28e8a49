"""Submit side: operations on names in directories, and on directories."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable

from remoteio import syscalls
from remoteio.submit.export.base import ExportBase, lstat, same
from remoteio.submit.export.confine import NOTHING_IN_IT
from remoteio.submit.export.inodes import version
from remoteio.submit.export.learned_walks import ATTRIBUTES, LOOKED_UP, NAMES
from remoteio.submit.export.listings import Held
from remoteio.submit.export.more_made import MoreMade
from remoteio.submit.export.nodes import Handle, Node, Place
from remoteio.submit.export.pinned import REMOVED
from remoteio.submit.export.reply import DONE, Reply
from remoteio.wire import fuse_abi as abi
from remoteio.wire import leases
from remoteio.wire.coherence import AHEAD, LISTED_AFTER, LISTED_BELOW, LISTED_NAMES, TTL
from remoteio.wire.known import Listing, Piggyback
from remoteio.wire.listed import NAMES as NAMES_ALONE
from remoteio.wire.listed import TAKES, directories, pack, pack_names, walk

_KERNEL_FACTS = b"criu.kdat"  # in /run: criu's cache of facts about this machine's kernel, which is not the job's
_NEGATIVE = abi.ENTRY.pack(0, 0, TTL, 0, 0, 0) + bytes(abi.ATTR.size)
_ONCE, _AGAIN = 1, 2
_NEGATIVE_ONCE = bytes(abi.ENTRY.size + abi.ATTR.size)


class Names(ExportBase):
    """Looks up and forgets, makes, links, renames, removes, lists. `more`: what of it may be answered beforehand."""

    more: MoreMade

    def do_lookup(self, r: abi.Request) -> Reply:
        parent = self.inodes.get(r.nodeid)
        name = r.name(abi.ARGS)
        at, link = self.inodes.descriptors.directory(parent), False
        other = self._other(parent, name, at)
        if other is not None:
            return other
        leased = 0
        if not self.instead.pinned.names(parent) and self.leases.name(parent, at, name, locked=True):
            leased = leases.NAME
        try:
            if name == _KERNEL_FACTS and parent.name == b"run":
                raise FileNotFoundError
            st = os.stat(name, dir_fd=at, follow_symlinks=False)
            # a file that is met once is no reason for a watch: it is leased when it is opened, or looked up again
            lease = leased and (not stat.S_ISREG(st.st_mode) or self.inodes.known(st) is not None)
            entry = self._entry(parent, name, st)
        except FileNotFoundError:
            if parent.shared and not leased:
                raise
            entry = _NEGATIVE_ONCE if parent.shared else _NEGATIVE
        else:
            link = stat.S_ISLNK(st.st_mode) and not parent.shared
            if stat.S_ISDIR(st.st_mode):
                # kept open, it is found as the job's working directory wherever it is moved to
                self.inodes.descriptors.pin(self.inodes.known(st))
            if lease and self._holds(entry, at, name, st):
                leased |= leases.ATTR
        known = None
        if worth := _worth_listing(parent, self.listings.since):
            known, listed = self._whole(parent, at, bool(leased), worth == _AGAIN)
            leased |= listed
        elif link:
            known = _target(self, name, at)
        return Reply(entry, known, leased=leased, name=name)

    def _whole(self, node: Node, at: int, leased: bool, again: bool) -> tuple[Piggyback | None, int]:
        """List a directory in which names are looked up, and return what of that is leased; nothing: it is not listed.

        `again`: by one job after the other; the attributes of all that is in it are leased then, too.
        """
        listed = leases.LISTED if leased and self.leases.listing(node, at) else 0
        listed |= leases.ENTRIES if listed and again else 0
        entries = self.listings.whole(node, Held(self._holds, True) if listed & leases.ENTRIES else None)
        if not entries:
            return None, 0
        self.listings.told(node, entries, LOOKED_UP)
        return Piggyback(self.attr(os.fstat(at)), b"", Listing(entries, True)), listed

    def _other(self, parent: Node, name: bytes, at: int) -> Reply | None:
        """Answer with what is shown, for now or for good, in place of what has the name; None: nothing is."""
        if name in self.instead.files and name in self.instead.names(parent):
            fd = self.instead.files[name]
            node = self.inodes.shown_instead(parent, name, fd)
            return Reply(abi.ENTRY.pack(node.id, 0, TTL, TTL, 0, 0) + self.attr(os.fstat(fd)))
        pin = self.instead.pinned.find(parent, name)
        if pin is not None and not (name.endswith(REMOVED) and lstat(name, at)):
            node = self.inodes.shown_pinned(parent, *pin)
            # Whoever asks again when the job runs is told of the file that has the name now.
            return Reply(abi.ENTRY.pack(node.id, 0, 0, TTL, 0, 0) + self.attr(os.fstat(pin[1])))
        return None

    def _holds(self, entry: bytes, at: int, name: bytes, st: os.stat_result) -> bool:
        """Lease the attributes in `entry`, made of `st`, of what has that name. False: they are told for TTL alone."""
        node = self.inodes.get(abi.ENTRY.unpack_from(entry)[0])
        armed = self.leases.attributes(node, at, name)
        if armed < 0:  # of what the job mounts its own /proc on it sees nothing that changes
            return node.rights is NOTHING_IN_IT
        return armed > 0 or same(st, lstat(name, at))

    def do_removed(self, r: abi.Request) -> Reply:
        """Look up the file that is open and had that name, by one that it has still; ENOENT: there is none, or two."""
        parent, name = self.inodes.get(r.nodeid), r.name(abi.ARGS)
        opened = self.inodes.opened_as(parent, name)
        for at, other in opened[0].names() if len(opened) == 1 else ():
            try:
                st = os.stat(other, dir_fd=self.inodes.descriptors.directory(at), follow_symlinks=False)
            except OSError:
                continue  # not by that one
            if (st.st_dev, st.st_ino) == (opened[0].dev, opened[0].ino):
                return Reply(self._entry(at, other, st))
        raise OSError(errno.ENOENT, "nothing that is open had that name")

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
        return Reply(os.fsencode(os.readlink(node.name, dir_fd=self.inodes.descriptors.directory(node.parent))))

    def do_symlink(self, r: abi.Request, new: Place) -> Reply:
        os.symlink(r.texts(abi.ARGS)[1], new.name, dir_fd=new.at)
        return self._with_parent(self._new_entry(r, new), new)

    def do_mknod(self, r: abi.Request, new: Place) -> Reply:
        mode, rdev, umask, _ = abi.MKNOD_IN.unpack_from(r.raw, abi.ARGS)
        mode, lacking = self._mode(new.at, mode, umask)
        os.mknod(new.name, mode, rdev, dir_fd=new.at)
        return self._with_parent(self._new_entry(r, new, lacking=lacking), new)

    def do_mkdir(self, r: abi.Request, new: Place) -> Reply:
        mode, umask = abi.MKDIR_IN.unpack_from(r.raw, abi.ARGS)
        mode, lacking = self._mode(new.at, mode, umask)
        os.mkdir(new.name, mode, dir_fd=new.at)
        self.inodes.allowed.made(new.parent, new.name, new.at)
        return self._with_parent(self._new_entry(r, new, lacking=lacking), new)

    def do_link(self, r: abi.Request, new: Place, node: Node) -> Reply:
        with self.inodes.descriptors.path(node) as path:
            seen = os.stat(path).st_ctime_ns == node.ctime
            os.link(path, new.name, dst_dir_fd=new.at, follow_symlinks=True)
        st = os.stat(new.name, dir_fd=new.at, follow_symlinks=False)
        if seen and (st.st_dev, st.st_ino) == (node.dev, node.ino):
            node.ctime = st.st_ctime_ns  # else a symbolic link would be another that has its inode number
        self.room.named(st, new=False)
        return Reply(self._entry(new.parent, new.name, st))

    def do_unlink(self, r: abi.Request, old: Place) -> Reply:
        os.unlink(old.name, dir_fd=old.at)
        return self._with_parent(b"", old)

    def do_rmdir(self, r: abi.Request, old: Place) -> Reply:
        # it may be somebody's working directory, which is one still when it has no name
        self.inodes.descriptors.pin(self.inodes.known(os.stat(old.name, dir_fd=old.at, follow_symlinks=False)))
        os.rmdir(old.name, dir_fd=old.at)
        return self._with_parent(b"", old)

    def do_rename(self, r: abi.Request, old: Place, new: Place, flags: int) -> Reply:
        before = lstat(old.name, old.at) if r.number else None
        syscalls.renameat2(old.at, old.name, new.at, new.name, flags)
        if before is not None:
            return self._renamed(new, before)
        return self._with_parent(b"", new) if self.behind and old.parent is new.parent else DONE

    def _renamed(self, new: Place, before: os.stat_result) -> Reply:
        """Tell the attributes of the directory; and those of the file, which was as `before`, if the kernel's pages
        stand for it still: nobody else has changed it."""
        st = os.stat(new.name, dir_fd=new.at, follow_symlinks=False)
        node, told = self.inodes.known(st), b""
        unchanged = (st.st_size, st.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        if node is not None and node.seen is not None and unchanged and node.seen == version(before):
            node.seen, node.ctime, told = version(st), st.st_ctime_ns, self.attr(st)
        return Reply(b"", Piggyback(self.attr(os.fstat(new.at)), told))

    def do_rename2(self, r: abi.Request, old: Place, new: Place, flags: int) -> Reply:
        if flags & ~3:
            raise OSError(errno.EINVAL, "only NOREPLACE and EXCHANGE")
        return self.do_rename(r, old, new, flags)

    def do_opendir(self, r: abi.Request) -> Reply:
        node = self.inodes.get(r.nodeid)
        self.inodes.may_open()
        fd = self.inodes.descriptors.reopen(node, os.O_RDONLY | os.O_DIRECTORY)
        handle = self.inodes.opened(fd, node, 0)
        out = abi.OPEN_OUT.pack(handle.number, 0, 0)
        if node.shared:
            return Reply(out)
        leased = leases.ATTR | leases.LISTED if self.leases.listing(node, fd) else 0
        try:
            entries, complete = self.listings.plus(handle, 0, AHEAD)
        except OSError:
            return Reply(out)  # it is readdir(3) that says so
        self.listings.told(node, entries, NAMES)
        known = Piggyback(self.attr(os.fstat(fd)), listing=Listing(entries, complete))
        return Reply(out, known, leased=leased if complete else leased & leases.ATTR)

    def do_list(self, r: abi.Request) -> Reply:
        """List a directory ahead of the job's opening it, and some below it in the order of a walk.

        EAGAIN: it is not to be cached, or too large to be guessed.
        """
        most, looks = abi.LIST_IN.unpack_from(r.raw, abi.ARGS)
        if looks == NAMES_ALONE:
            return Reply(self._names_alone(self.inodes.get(r.nodeid)))
        most = min(most, LISTED_BELOW)
        out: list[bytes] = []
        left, room = [self.inodes.get(r.nodeid)], AHEAD
        while left and len(out) < max(most, 1):
            node = left.pop()
            entries, part = self.listed(node, room, takes=bool(looks & TAKES))
            if entries:
                self.listings.told(node, entries, ATTRIBUTES if looks & ~TAKES else NAMES)
                out.append(part)
                room -= len(part)
                left += [self.inodes.get(nodeid) for nodeid in reversed(directories(walk(entries)))]
            if not out:
                raise OSError(errno.EAGAIN, "not ahead")
        return Reply(b"".join(out))

    def _names_alone(self, node: Node) -> bytes:
        """Tell the names in a directory under a lease, or raise EAGAIN."""
        names = [] if node.shared else self.listings.names(node, lambda fd: self.leases.listing(node, fd))
        told = pack_names(names)
        if not 0 < len(told) <= LISTED_NAMES:
            raise OSError(errno.EAGAIN, "not ahead")
        return told

    def listed(
        self, node: Node, room: int, leased: bool = False, held: bool = False, files: bool = False, takes: bool = False
    ) -> tuple[bytes, bytes]:
        """Return a directory's entries, and its part of the reply to a LIST; nothing, if they are `room` bytes or more.

        `leased`: nothing as well, if it cannot be. `held`: of directories in it what is leased, and of `files`, if that
        is said; else their names. `takes`: it tells as well how names may be taken away.
        """
        armed: list[bool] = []

        def begin(fd: int) -> bool:
            armed.append(self.leases.listing(node, fd))
            return armed[0] or not leased

        which = Held(self._holds, files) if held else None
        entries = b"" if node.shared else self.listings.ahead(node, room, begin, which)
        if not entries:
            return b"", b""
        if not held:
            node.listed = node.listed or time.monotonic() - TTL  # for a later job: this one may look it up all the same
        at = self.inodes.descriptors.directory(node)
        granted = self.more.granted(node, at) if takes and armed[0] else None
        return entries, pack(node.id, self.attr(os.fstat(at)), entries, armed[0], granted)

    def do_readdir(self, r: abi.Request) -> Reply:
        return self._read(r, self.listings.plain)

    def do_readdirplus(self, r: abi.Request) -> Reply:
        return self._read(r, lambda *which: self.listings.plus(*which)[0])

    def _read(self, r: abi.Request, listed: Callable[[Handle, int, int], bytes]) -> Reply:
        fh, offset, size, *_ = abi.READ_IN.unpack_from(r.raw, abi.ARGS)
        with self.inodes.directory_open(r.nodeid, fh) as handle:
            return Reply(listed(handle, offset, size))


def _worth_listing(parent: Node, since: float) -> int:
    """Several names of one directory in a row: the kernel will ask for more. _AGAIN: as for a job that ended before
    `since`."""
    parent.asked += 1
    now = time.monotonic()
    before = 0.0 < parent.listed <= since
    told = not before and now < parent.listed + TTL
    if parent.asked < (1 if before else LISTED_AFTER) or parent.shared or told:
        return 0
    parent.asked, parent.listed = 0, now
    return _AGAIN if before else _ONCE


def _target(names: Names, name: bytes, at: int) -> Piggyback | None:
    """Where the symbolic link points: who looks it up reads that next."""
    try:
        target = os.fsencode(os.readlink(name, dir_fd=at))
    except OSError:
        return None  # it has just been replaced: the kernel finds out when it reads it
    return Piggyback(names.attr(os.fstat(at)), link=target)
