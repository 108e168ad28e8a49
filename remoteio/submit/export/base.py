"""Submit side: what the operations of an export have in common, above all what their replies are made of."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from contextlib import AbstractContextManager

from remoteio.submit.export import channels
from remoteio.submit.export.confine import Confinement
from remoteio.submit.export.executing import reopen
from remoteio.submit.export.inodes import Inodes
from remoteio.submit.export.instead import Instead
from remoteio.submit.export.leases import Leases
from remoteio.submit.export.listings import Listings
from remoteio.submit.export.locks import Locks
from remoteio.submit.export.nodes import FORMAT, Node, Place
from remoteio.submit.export.note_changes import UNLOCKED, ChangeNotes
from remoteio.submit.export.numbers import KEPT
from remoteio.submit.export.reply import Reply
from remoteio.submit.export.room import Room
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.submit.export.sole import Soles
from remoteio.submit.export.written_files import WrittenFiles
from remoteio.submit.sandbox.threads import Call
from remoteio.submit.umask import own_umask
from remoteio.wire import fuse_abi as abi
from remoteio.wire.coherence import BESIDE, TTL
from remoteio.wire.known import Piggyback


class ExportBase:
    """Holds the tables behind the operations. Names are resolved beneath `root`, with the rights of this process."""

    behind = False  # changes may be answered on the host before they are done here

    def __init__(
        self,
        ids: ShownIds,
        root: str,
        record: WrittenFiles | None,
        confinement: Confinement | None,
        instead: Mapping[bytes, bytes],
        device: int,
        outside: Call,
        room: Room | None,
    ) -> None:
        self.ids = ids
        self.instead = Instead(instead, None if record is None else record.pinned)
        self._umask = own_umask()
        log = None if record is None else record.log
        self.inodes = Inodes(root, confinement=confinement, device=device, log=log)
        self.leases = Leases()
        self.locks = Locks(self.inodes, Soles(self.leases))
        self._notes = ChangeNotes(self.inodes, record)
        self.room = room or Room()
        self.room.refusals = self.inodes.allowed.refusals
        self.listings = Listings(self.inodes, self.instead, self._entry)
        self._outside = outside
        self._fifos = channels.Fifos(outside)
        self._root_user = os.geteuid() == 0

    def _opening(self, node: Node, flags: int) -> AbstractContextManager[None]:
        """Asks whether `node` may be opened with these flags; in a ``with``, notes what that does. Raises EROFS."""
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            self.inodes.allowed.may_change(node)
        if flags & os.O_TRUNC:
            self._counted(node)
        return self._notes.changing(node, 0) if flags & os.O_TRUNC else UNLOCKED

    def _counted(self, node: Node, st: os.stat_result | None = None) -> None:
        """Count what `node` gets from the job from now on, if that is asked for; `st`: as it is."""
        if self.room.counts and node.grown is None:
            node.grown = self.room.of(st or self.inodes.descriptors.stat(node))

    def attr(self, st: os.stat_result, taken: bool = False) -> bytes:
        """Pack `st` as struct fuse_attr. `taken`: it is a channel to a process of this machine."""
        plain = self.ids.plain and not taken
        uid, gid, mode = (st.st_uid, st.st_gid, st.st_mode) if plain else self._shown(st, taken)
        dev, ino = st.st_dev, st.st_ino
        numbers = self.inodes.numbers
        if dev != numbers.device or ino >= KEPT or ino in numbers.told:
            ino = numbers.shown(dev, ino)
        a, m, c = st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns
        return _ATTR(
            ino, st.st_size, st.st_blocks, a // _NS & _U64, m // _NS & _U64, c // _NS & _U64, a % _NS, m % _NS, c % _NS,
            mode, st.st_nlink or int(not self._nameless(st)), uid, gid, st.st_rdev & 0xFFFFFFFF,
            st.st_blksize & 0xFFFFFFFF, 0,
        )  # fmt: skip

    def _nameless(self, st: os.stat_result) -> bool:
        """Has the file lost its last name, or never had one? What is shown instead of a file has that file's."""
        return not st.st_nlink and st.st_dev != self.instead.device

    def _entry(self, parent: Node, name: bytes, st: os.stat_result, number: int = 0) -> bytes:
        taken = False
        if st.st_mode & FORMAT in _CHANNELS:
            node = self.inodes.found(parent, name, st, stat.S_ISFIFO(st.st_mode) and self._fifos.held(st))
            taken = self._taken(node)
        else:
            node = self.inodes.found(parent, name, st, number=number)
        ttl = 0 if parent.shared else TTL
        return _ENTRY(node.id, 0, ttl, ttl, 0, 0) + self._told_beside(node, st, self.attr(st, taken))

    def put_back(self, number: int, parent: Node, name: bytes, st: os.stat_result) -> bool:
        """Know what `st` describes by the number that a process before this one has given it: ``taken_up``.

        False: there is another node of it. Raises ENOENT for what is not to be seen.
        """
        inodes = self.inodes
        with inodes.lock:
            after, inodes.next_number = inodes.next_number, number
            try:
                node = inodes.found(parent, name, st, stat.S_ISFIFO(st.st_mode) and self._fifos.held(st))
            finally:
                inodes.next_number = max(inodes.next_number, after)
            # How often the kernel refers to it is not known, and what it has of its pages neither.
            node.lookups, node.ctime = _FOR_EVER, node.ctime if node.kind == stat.S_IFLNK else 0
            return node.id == number

    def opened_again(self, number: int, node: Node, flags: int) -> None:
        """Open `node` by the number of a handle that a process before this one had of it. Raises OSError."""
        fd = reopen(self.inodes.descriptors, node, flags, self._outside)
        if self.inodes.opened(fd, node, flags, number).writable:
            self._notes.may_write(node)

    def written_before(self, node: Node) -> None:
        """Note that the job has had it open for writing."""
        self._notes.may_write(node)

    def _taken(self, node: Node) -> bool:
        """Is `node` a channel to a process of this machine?"""
        if node.kind != stat.S_IFSOCK:
            return node.held
        try:
            fd = self.inodes.descriptors.reopen(node, os.O_PATH)
        except OSError:
            return False  # it has gone: whoever uses it is told so
        return self._outside(lambda: channels.bound(fd))

    def _leave_bound(self, at: int, name: bytes, st: os.stat_result | None) -> None:
        """Raise EBUSY if `name` is that of a socket which a process of this machine has bound.

        The job's kernel says EOVERFLOW by itself, unless it was bound within the last second.
        """
        if st is None or not stat.S_ISSOCK(st.st_mode):
            return
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        if self._outside(lambda: channels.bound(fd)):
            raise OSError(errno.EBUSY, "a process of this machine has bound it")

    def _shown(self, st: os.stat_result, taken: bool) -> tuple[int, int, int]:
        """The uid, gid and mode to show: see ``channels``."""
        uid, gid = self.ids.of(st)
        if not taken:
            return uid, gid, st.st_mode
        if stat.S_ISFIFO(st.st_mode):
            return uid, gid, stat.S_IFCHR | stat.S_IMODE(st.st_mode)
        return uid, channels.NO_ID, st.st_mode

    def _new_entry(self, r: abi.Request, new: Place, fd: int = -1, lacking: int = 0) -> bytes:
        """Pack the entry of what was just made at `new` (and is open as `fd`), given to the user who made it.

        `lacking`: bits of its mode that this process's own umask has taken away.
        """
        name, at = new.name, new.at
        if self._root_user and (r.uid or r.gid):
            above = os.fstat(at)
            gid = -1 if above.st_mode & stat.S_ISGID else r.gid
            if fd >= 0:
                os.fchown(fd, r.uid, gid)
            else:
                os.chown(name, r.uid, gid, dir_fd=at, follow_symlinks=False)
        if lacking:
            _widen(name, at, fd, lacking)
        st = os.fstat(fd) if fd >= 0 else os.stat(name, dir_fd=at, follow_symlinks=False)
        self.room.named(st, new=True)
        return self._entry(new.parent, name, st, r.number)

    def _with_parent(self, body: bytes, place: Place) -> Reply:
        """`body`, with the directory's new attributes: the kernel's next step there begins with asking for them."""
        return Reply(body, Piggyback(self.attr(os.fstat(place.at))))

    def _mode(self, at: int, mode: int, umask: int) -> tuple[int, int]:
        """The mode to create with, and the bits of it that our own umask will take: a default ACL takes the place of
        either umask (acl(5))."""
        try:
            os.getxattr("/proc/self/fd/%d" % at, "system.posix_acl_default")
        except OSError:
            return mode & ~umask, mode & ~umask & self._umask
        return mode, 0

    def _attr_out(self, node: Node, st: os.stat_result) -> bytes:
        ttl = 0 if node.parent is not None and node.parent.shared else TTL
        node.ctime, node.nameless = st.st_ctime_ns, self._nameless(st)
        return abi.ATTR_OUT.pack(ttl, 0, 0) + self._told_beside(node, st, self.attr(st, self._taken(node)))

    def _told_beside(self, node: Node, st: os.stat_result, attr: bytes) -> bytes:
        """Mark attributes that are taken back when others change the file."""
        return attr[: -len(BESIDE)] + BESIDE if self._shown_beside(node, st) else attr

    def _shown_beside(self, node: Node, st: os.stat_result) -> bool:
        """Take note that the host is told of `node`, if what others do to it is seen, as it lies beside a locked one:
        by no other name than one there."""
        if node.parent is None or not node.parent.watched or st.st_nlink != 1:
            return False
        if node.told:
            return True
        node.told = True
        try:
            return same(st, self.inodes.descriptors.stat(node))  # else it was changed before that could be told
        except OSError:
            return False


_U64 = (1 << 64) - 1
_FOR_EVER = 1 << 62  # lookups
_NS = 1000000000
_ATTR, _ENTRY = abi.ATTR.pack, abi.ENTRY.pack
_CHANNELS = (stat.S_IFIFO, stat.S_IFSOCK)


def _widen(name: bytes, at: int, fd: int, lacking: int) -> None:
    """Give what was just made the bits that our umask took."""
    found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at) if fd < 0 else fd
    try:
        os.chmod("/proc/self/fd/%d" % found, stat.S_IMODE(os.fstat(found).st_mode) | lacking)
    except PermissionError:
        pass  # a filesystem that keeps no modes (vfat): it is made all the same
    finally:
        if fd < 0:
            os.close(found)


def lstat(name: bytes, at: int) -> os.stat_result | None:
    """Call lstat(2) on `name` in the directory open at `at`; None: nothing has that name."""
    try:
        return os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return None


def same(a: os.stat_result, b: os.stat_result | None) -> bool:
    """Say whether both tell the same of a file, but for when it was last read."""
    return (
        b is not None
        and tuple(a)[:7] == tuple(b)[:7]
        and (a.st_mtime_ns, a.st_ctime_ns, a.st_blocks) == (b.st_mtime_ns, b.st_ctime_ns, b.st_blocks)
    )


def drop_suid(path: str) -> None:
    mode = os.stat(path).st_mode
    drop = stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0)
    if mode & drop:
        os.chmod(path, stat.S_IMODE(mode) & ~drop)
