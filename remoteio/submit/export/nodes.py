"""What the job's kernel refers to: nodes, open handles, owners of locks. Data alone; the table is ``inodes``."""

from __future__ import annotations

import os
import stat

from remoteio.submit.export.added import Grown
from remoteio.submit.export.changes import File
from remoteio.submit.export.confine import Rights
from remoteio.submit.export.page_twins import PageTwins

FORMAT = stat.S_IFMT(0xFFFF)  # of st_mode
_PATH_MAX = 4096  # bytes: linux/limits.h
MOST_LINKS = 64  # names of one file that are remembered
Stat = os.stat_result
Found = tuple[
    bytes, int, int, int
]  # entry of a directory: name, inode number as the job sees it, d_type, position after


class Node:
    """One file as the job's kernel knows it. Three concerns in one object, since there may be a million of them.

    Identity: id, dev, ino, kind; parent, name and links, where it was seen; rights; lookups, how often the kernel
    refers to it; nameless; held; handles; fd and used, see ``descriptors.Descriptors``.

    Cache policy: ctime, seen and twins, what the kernel's copies stand for; of a directory asked, listed and shared,
    what of it is told ahead, or not at all.

    What the job does to it: locks, changes, grown.

    Threads: any. lookups, handles and where it was seen change under ``Inodes.lock``, fd under a lock of
    ``Descriptors``, locks under one of ``Locks``, contents under ``changes.lock``. Cache policy is written without a
    lock, one attribute at a time: what is lost of it makes the kernel ask once more, and shared is set for good.
    """

    __slots__ = (
        "asked", "changes", "ctime", "dev", "fd", "grown", "handles", "held", "id", "ino", "kind", "links", "listed",
        "locks", "lookups", "name", "nameless", "noted", "of_many", "parent", "rights", "seen", "shared", "told",
        "twins", "used", "watched",
    )  # fmt: skip

    def __init__(self, nodeid: int, st: Stat, parent: Node | None, name: bytes, rights: Rights) -> None:
        self.rights = rights
        self.id, self.dev, self.ino, self.kind = nodeid, st.st_dev, st.st_ino, stat.S_IFMT(st.st_mode)
        self.parent, self.name = parent, name
        self.links: tuple[tuple[Node, bytes], ...] = ()  # other names it was seen by, if it has several or is open
        self.held = False  # a fifo that a process of this machine has open, and that is shown as something else
        self.nameless = False  # the kernel has been told that it has no links any more
        self.noted = False  # in a log, for a process after this one
        self.of_many = False  # whether it is to be kept as it is is to be asked before it is changed
        self.lookups = 0
        self.fd = -1  # O_PATH, of directories; and of what is shown instead of a file: open for good
        self.used = False  # `fd`, since it was last asked
        self.ctime = st.st_ctime_ns  # as the kernel was last told
        self.handles: dict[int, Handle] = {}  # that are open on it, by their numbers
        self.seen: tuple[int, int, int] | None = None  # (mtime_ns, ctime_ns, size) the kernel's page cache stands for
        self.locks: dict[int, LockOwner] = {}
        self.asked = 0  # lookups in this directory since it was last told whole
        self.listed = 0.0  # when it was told
        self.shared = False  # a file in this directory has been locked: names here are not to be cached
        self.watched = False  # and it tells what others do to the files in it
        self.told = False  # of a file in such a directory: the host has been told of it since others changed it
        self.twins: PageTwins | None = None  # of its pages, once a lock may guard them
        self.changes: File | None = None  # what the job does to it, if that is to be known
        self.grown: Grown | None = None  # what it has got from the job, if that is counted

    def altered(self) -> None:
        """Take note that what the job's kernel has of its pages stands for nothing any more."""
        self.seen = self.twins = None

    def names(self) -> tuple[tuple[Node, bytes], ...]:
        """List the names that it was seen by, directory and name, the latest first; () of the root."""
        return () if self.parent is None else ((self.parent, self.name), *self.links)


class LockOwner:
    """What holds one owner's record locks on a file: `fd`, a Descriptor; `fh`: the handle first asked through."""

    __slots__ = ("fd", "fh", "pid")

    def __init__(self, fd: int, pid: int, fh: int) -> None:
        self.fd, self.pid, self.fh = fd, pid, fh


class Handle:
    """One open file or directory of the job: `fd`, a Descriptor, -1: it is closed; `number`, its own on the wire."""

    __slots__ = ("append", "beside", "direct", "entries", "fd", "flocked", "node", "number", "where", "writable")

    def __init__(self, fd: int, node: Node, flags: int, number: int) -> None:
        self.fd, self.node, self.number = fd, node, number
        self.append = self.direct = bool(flags & os.O_APPEND)  # direct: the kernel has no pages of what it reads by it
        self.writable = flags & os.O_ACCMODE != os.O_RDONLY
        self.flocked = False  # flock(2) was ever asked of it
        self.beside = False  # the host knows that it lies beside a file that is locked
        self.entries: list[Found] | None = None  # directory: as last read, from its start or a position on
        self.where: dict[int, int] | None = None  # which of these is next, by position; None: nobody has asked

    def unlist(self) -> None:
        """Let go of the entries: who asks for more is told them from that position on."""
        self.entries = self.where = None

    def after(self, position: int) -> int | None:
        """Return which entry is the next at that position; None: it was not given with any of them."""
        entries = self.entries or []
        if entries and entries[-1][3] == position:
            return len(entries)  # as everybody asks in the end
        where = self.where
        if where is None:
            where = self.where = {position: k for k, (_, _, _, position) in enumerate(entries, 1)}
        return where.get(position)


class Place:
    """A name in a directory: `parent`, `name`, and `at`, a descriptor of the directory. `taken`: it was there."""

    __slots__ = ("at", "name", "parent", "taken")

    def __init__(self, parent: Node, name: bytes, at: int) -> None:
        self.parent, self.name, self.at = parent, name, at
        self.taken = False


def path(parent: Node | None, name: bytes) -> bytes:
    """Name what has that name in that directory."""
    names = [name]
    # What was seen at several times may be beneath itself; a path of so many names is too long to lead anywhere.
    while parent is not None and parent.parent is not None and len(names) <= _PATH_MAX:
        names.append(parent.name)
        parent = parent.parent
    return b"/" + b"/".join(reversed([each for each in names if each]))
