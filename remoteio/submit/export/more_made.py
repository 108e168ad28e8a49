"""Decide where a job may be told that it has made something before it is made here (remoteio/wire/makes.py).

What is answered so must be known to succeed, and to look as the one before it: so there has to be room for files and
open ones, a filesystem of this machine, no rule of this job's, and no default ACL or set-group-id bit, by which what is
made gets other rights. The directory is leased, so that who changes its rights takes all of this back.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable

from remoteio import inotify as ino
from remoteio import syscalls
from remoteio.submit.export.confine import FREE
from remoteio.submit.export.filesystems import LOCAL
from remoteio.submit.export.granted import LEAST_FREE
from remoteio.submit.export.inodes import Inodes
from remoteio.submit.export.instead import Instead
from remoteio.submit.export.leases import Leases, gone
from remoteio.submit.export.more_removed import MoreRemoved
from remoteio.submit.export.nodes import Node, Place
from remoteio.submit.export.numbers import MOST_TOLD
from remoteio.submit.export.reply import Reply
from remoteio.submit.export.rights import Rights
from remoteio.submit.export.room import Room
from remoteio.wire import fuse_abi as abi
from remoteio.wire.behind import ROOM
from remoteio.wire.leases import ATTR
from remoteio.wire.makes import (
    EMPTY,
    INODES,
    ITSELF,
    MADE,
    MORE,
    NOREPLACE,
    NUMBERS,
    OWN,
    REMOVE,
    SET,
    SHOWN,
    Granted,
    meant,
)

LEAST_FILES = 1 << 14  # that the filesystem has room for still
_FEW = 4096  # bytes of the names of which rules speak
# a name may be another's there, by case or by what Unicode takes for the same: so it may, though it is absent
_FOLDS = ("zfs", "jfs")
_LOCAL = frozenset(magic for name, magic in LOCAL.items() if name not in _FOLDS)


class MoreMade:
    """Makes what makes a name, and tells with the reply whether more may be made there at once.

    `plain`: ids are shown as they are. `instead`: what is shown instead of files.
    """

    def __init__(self, inodes: Inodes, leases: Leases, room: Room, plain: bool, instead: Instead) -> None:
        self._inodes, self._leases, self._room, self._plain = inodes, leases, room, plain
        self._instead = instead
        self.removed = MoreRemoved(inodes.allowed.confinement.hidden)

    def make(self, do: Callable[[abi.Request, Place], Reply], r: abi.Request, place: Place) -> Reply:
        """Do it. Raises OSError; ENFILE for more than may be told of."""
        if not r.number:
            if not self._leases.wanted() or self._room.counts:
                return do(r, place)
            reply = self._known_to_host(do, r, place, ino.IN_CREATE)
            reply.granted = self._granted(r, place, reply, self._may_be_told(place))
            return reply
        numbers = self._inodes.numbers
        if r.number >= NUMBERS or len(numbers.told) >= MOST_TOLD + ROOM:
            raise OSError(errno.ENFILE, "the host has told of more that it makes than may be")
        itself = self._armed(place)
        reply = self._known_to_host(do, r, place, ino.IN_CREATE)
        node = self._inodes.get(MADE + r.number)
        numbers.tell(node.dev, node.ino, INODES + r.number)
        reply.granted = self._granted(r, place, reply, True)
        reply.granted.what |= ITSELF if itself else 0
        return reply

    def remove(self, do: Callable[[abi.Request, Place], Reply], r: abi.Request, place: Place) -> Reply:
        """Take a name away; of a change that was answered, if it is that of the file which the host means, as looked at
        in the last moment. Raises OSError."""
        if not r.number:
            return self._with_grant(self._removed_alone(do, r, place), place)
        self._check(place, r.pid)
        itself = self._armed(place)
        reply = self._removed_alone(do, r, place)
        reply.leased = ATTR if itself else 0
        return reply

    def _removed_alone(self, do: Callable[[abi.Request, Place], Reply], r: abi.Request, place: Place) -> Reply:
        node = None
        if r.op == abi.RMDIR:
            node = self._inodes.known(os.stat(place.name, dir_fd=place.at, follow_symlinks=False))
        reply = self._known_to_host(do, r, place, ino.IN_DELETE)
        if node is not None:
            gone(self._leases, node)
        return reply

    def move(self, do: Callable[..., Reply], r: abi.Request, source: Place, to: Place, flags: int) -> Reply:
        """Move a name; of a change that was answered, within one directory, and if it is that of the file which the
        host means, as is the one that it takes, or there is none. Raises OSError."""
        if not r.number:
            reply = do(r, source, to, flags)
            return self._with_grant(reply, to) if source.parent is to.parent else reply
        taken = abi.RENAME2_IN.unpack_from(r.raw, abi.ARGS)[2]
        if source.parent is not to.parent or flags != (0 if taken else NOREPLACE):
            raise OSError(errno.EINVAL, "that may not be moved before it is done here")
        self._check(source, r.pid)
        if taken:
            self._check(to, taken)
        itself, own = self._armed(to), ((source.name, ino.IN_MOVED_FROM), (to.name, ino.IN_MOVED_TO))
        for name, event in own:
            self._leases.making(to.parent, name, event=event)
        try:
            reply = do(r, source, to, flags)
        except OSError:
            for name, event in own:
                self._leases.making(to.parent, name, True, event)
            raise
        reply.leased = ATTR if itself else 0
        return reply

    def _armed(self, place: Place) -> bool:
        """Arm the directory, whose attributes are about to be read once it is changed. False: do not lease them."""
        return not place.parent.shared and self._leases.attributes(place.parent, place.at) >= 0

    def _check(self, place: Place, number: int) -> None:
        """Raise ESTALE unless the name is that of the file which the host means by that number."""
        st = os.stat(place.name, dir_fd=place.at, follow_symlinks=False)
        if self._inodes.known(st) is not self._inodes.get(meant(number)):
            raise OSError(errno.ESTALE, "another file has the name by now")

    def _known_to_host(
        self, do: Callable[[abi.Request, Place], Reply], r: abi.Request, place: Place, event: int
    ) -> Reply:
        """Do what makes or removes a name with no lease broken for that: the host knows, or hears by the reply."""
        self._leases.making(place.parent, place.name, event=event)
        try:
            reply = do(r, place)
        except OSError:
            self._leases.making(place.parent, place.name, True, event)
            raise
        if place.taken:
            self._leases.making(place.parent, place.name, True, event)
        return reply

    def _granted(self, r: abi.Request, place: Place, reply: Reply, told: bool) -> Granted:
        what = MORE if told and self._has_room(place.at) else 0
        words = place.parent.rights.words if what and not r.number else ()
        if what and r.op == abi.MKDIR:
            what |= self._of_directory(self._inodes.get(abi.ENTRY.unpack_from(reply.body)[0]))
        return Granted(what, time.time_ns(), words)

    def _has_room(self, at: int) -> bool:
        disk = os.fstatvfs(at)
        try:
            self._inodes.may_open(2 * ROOM)
        except OSError:
            return False
        return (
            disk.f_bavail * disk.f_frsize >= LEAST_FREE
            and (not disk.f_files or disk.f_favail >= LEAST_FILES)
            and len(self._inodes.numbers.told) < MOST_TOLD
        )

    def _may_be_told(self, place: Place) -> bool:
        """Whether what is made in that directory is known beforehand, until a break."""
        parent, at = place.parent, place.at
        if parent.shared or not _alike(parent.rights) or not self._leases.name(parent, at, place.name):
            return False
        if os.fstat(at).st_mode & stat.S_ISGID or syscalls.fstatfs(at)[0] not in _LOCAL:
            return False
        try:
            os.getxattr("/proc/self/fd/%d" % at, "system.posix_acl_default")
        except OSError as e:
            return e.errno in (errno.ENODATA, errno.EOPNOTSUPP)
        return False

    def _with_grant(self, reply: Reply, place: Place) -> Reply:
        if self._leases.wanted() and not self._room.counts:
            armed = not place.parent.shared and self._leases.name(place.parent, place.at, place.name)
            reply.granted = self._may_take(place.parent, place.at) if armed else Granted(0, time.time_ns())
        return reply

    def granted(self, node: Node, at: int) -> Granted | None:
        """Say how names may be taken away of a directory that is armed, and open as `at`; None: it is not said."""
        return self._may_take(node, at) if not self._room.counts else None

    def _may_take(self, node: Node, at: int) -> Granted:
        """What of the names in that directory may be taken away before it is done here, until a break."""
        kept = None
        own = _alike(node.rights) and not self._instead.names(node)
        if own and syscalls.fstatfs(at)[0] in _LOCAL and self._has_room(at):
            try:
                kept = self.removed.kept(node, at)
            except OSError:
                kept = None  # it is asked for each name, and told then what forbids it
        if kept is None:
            return Granted(0, time.time_ns())
        words, shown = kept
        return Granted(REMOVE | (SHOWN if shown else 0), time.time_ns(), (*node.rights.words, *words))

    def _of_directory(self, node: Node) -> int:
        """What holds of a directory that was just made."""
        fd = self._inodes.descriptors.directory(node)
        st, what = os.fstat(fd), 0
        if st.st_uid == os.geteuid():
            what = SET | (OWN if self._plain else 0)
        if _alike(node.rights) and not node.rights.words and self._leases.listing(node, fd):
            what |= 0 if os.listdir("/proc/self/fd/%d" % fd) else EMPTY
        return what


def _alike(rights: Rights) -> bool:
    """May all be made there of which no rule speaks, and are the words of the rules few?"""
    others = rights.others
    return others.level == others.file == FREE and len(b"/".join(rights.words)) <= _FEW
