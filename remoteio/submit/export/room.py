"""How much a job may add to the files here: asked before each request that adds something, told what it did.

What counts is kept in ``added``. A write costs no system call for it: the look after each write, which is taken anyway,
tells all of it; before it, as long as there is room for all its bytes, nothing need be known.

Why so: docs/decisions/quota.md.
"""

from __future__ import annotations

import errno
import os

from remoteio.submit.export.added import BLOCK, NAME, Added, Grown
from remoteio.submit.export.nodes import Node
from remoteio.submit.export.refusals import Refusals
from remoteio.submit.export.rights import FREE, Rule

LOOK = 16 << 20  # bytes between two looks at how much is free
KEPT_FREE = 1 << 30  # bytes that a job leaves free where no limit is given it, or
KEPT_PART = 20  # this part of the filesystem, if that is less

FULL = Rule((), FREE, "taking the last free space here")


class Room:
    """Lets a job add what it likes; what limits it is derived from this. Raises OSError.

    counts    what each file has got is counted
    refusals  is told what was refused
    """

    counts = False
    refusals: Refusals

    def enter(self, node: Node, fd: int, offset: int, size: int) -> int:
        """Ask whether so many bytes may be put there, or at the end (`offset` -1). Give what it returns to `leave`.

        `fd` is open on `node`.
        """
        return 0

    def enter_name(self, parent: Node, name: bytes, at: int) -> int:
        """Ask whether a name may be made in `parent`, which is open as `at`. Give what it returns to `leave`."""
        return 0

    def enter_more(self, node: Node, size: int) -> int:
        """Ask whether so many bytes may be added to its extended attributes. Give what it returns to `leave`."""
        return 0

    def leave(self, ahead: int) -> None:
        """Take note that it is done, or failed."""

    # what was done; of files that are not counted, nothing is said but their names

    def of(self, st: os.stat_result) -> Grown | None:
        """Count from now on what the file that `st` describes gets; None: nothing is counted."""
        return None

    def wrote(self, grown: Grown, st: os.stat_result, done: int) -> None:
        """Take note that the job has put `done` bytes into the file, which is now as `st` says."""

    def changed(self, grown: Grown, st: os.stat_result, allocated: int = 0) -> None:
        """Take note that the file is as `st` says, and that the job had so many bytes allocated for it."""

    def attributes(self, grown: Grown, more: int, st: os.stat_result) -> None:
        """Take note that its extended attributes are longer by so many bytes."""

    def named(self, st: os.stat_result, new: bool) -> None:
        """Take note that the job has given what `st` describes a name; `new`: it is new, and may have none."""

    def unnamed(self, st: os.stat_result, last: bool, is_open: bool) -> None:
        """Take note that the job has taken a name away from what `st` describes; `last`: it has no other."""

    def closed(self, grown: Grown) -> None:
        """Take note that the job has the file open no more."""

    def end(self) -> None:
        """Take note that the job has nothing open any more."""


class Quota(Room):
    """Lets a job add `most` bytes, of which `added` keeps account, by `rule`. Raises EDQUOT. Threads: any."""

    counts = True

    def __init__(self, most: int, added: Added, rule: Rule) -> None:
        self.most, self.added, self._rule = most, added, rule
        self._nameless: set[Grown] = set()  # open, and without a name

    def enter(self, node: Node, fd: int, offset: int, size: int) -> int:
        added = self.added
        with added.lock:
            if added.total + added.ahead + size <= self.most:
                added.ahead += size
                return size
        more = growth(os.fstat(fd), offset, size)
        with added.lock:
            if not more or added.total + added.ahead + more <= self.most:
                added.ahead += more
                return more
        raise self._refused(node.parent or node, node.name)

    def enter_name(self, parent: Node, name: bytes, at: int) -> int:
        with self.added.lock:
            if self.added.total + self.added.ahead + NAME <= self.most:
                self.added.ahead += NAME
                return NAME
        raise self._refused(parent, name)

    def enter_more(self, node: Node, size: int) -> int:
        with self.added.lock:
            if size <= 0 or self.added.total + self.added.ahead + size <= self.most:
                self.added.ahead += max(size, 0)
                return max(size, 0)
        raise self._refused(node.parent or node, node.name)

    def leave(self, ahead: int) -> None:
        with self.added.lock:
            self.added.ahead -= ahead

    def _refused(self, parent: Node, name: bytes) -> OSError:
        self.refusals.note(parent, name, self._rule, reading=False)
        return OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    def of(self, st: os.stat_result) -> Grown:
        return self.added.of(st)

    def wrote(self, grown: Grown, st: os.stat_result, done: int) -> None:
        with self.added.lock:
            grown.written += done
            grown.became(st.st_size, done)
            self.added.settle(grown, st.st_blocks * BLOCK)

    def changed(self, grown: Grown, st: os.stat_result, allocated: int = 0) -> None:
        with self.added.lock:
            grown.written += allocated
            grown.became(st.st_size, 0)
            self.added.settle(grown, st.st_blocks * BLOCK)

    def attributes(self, grown: Grown, more: int, st: os.stat_result) -> None:
        with self.added.lock:
            grown.more += more
            self.added.settle(grown, st.st_blocks * BLOCK)

    def named(self, st: os.stat_result, new: bool) -> None:
        grown = self.added.known(st)
        if grown is not None and new:
            self.added.forget(grown)  # the number was another file's
        grown = self.added.of(st)
        with self.added.lock:
            self._nameless.discard(grown)
            if st.st_nlink:
                grown.names += 1
            else:
                self._nameless.add(grown)
            self.added.settle(grown, st.st_blocks * BLOCK)

    def unnamed(self, st: os.stat_result, last: bool, is_open: bool) -> None:
        grown = self.added.known(st)
        if grown is None:
            return
        if last and not is_open:
            self.added.forget(grown)
            return
        with self.added.lock:
            grown.names -= 1
            if last:
                grown.names, grown.more = 0, 0
                self._nameless.add(grown)
            self.added.settle(grown, st.st_blocks * BLOCK)

    def closed(self, grown: Grown) -> None:
        if grown in self._nameless:
            self._nameless.discard(grown)
            self.added.forget(grown)

    def end(self) -> None:
        for grown in tuple(self._nameless):
            self.closed(grown)


class Reserve(Room):
    """Keeps a job from the last KEPT_FREE bytes, or part, of each filesystem. Raises ENOSPC. Threads: any.

    It looks once in LOOK bytes, so a filesystem that has less than that to give is left to itself.
    """

    def __init__(self) -> None:
        self._until: dict[int, int] = {}  # by st_dev: bytes until the next look

    def enter(self, node: Node, fd: int, offset: int, size: int) -> int:
        until = self._until.get(node.dev, LOOK) - size
        if until < 0:
            more = growth(os.fstat(fd), offset, size)
            free = left_free(fd)
            if more > free:
                raise self._refused(node.parent or node, node.name)
            until = min(free - more, LOOK)
        self._until[node.dev] = until  # what another thread has taken meanwhile is lost: one look comes later by that
        return 0

    def enter_name(self, parent: Node, name: bytes, at: int) -> int:
        until = self._until.get(parent.dev, LOOK) - NAME
        if until < 0:
            free = left_free(at)
            if free < NAME:
                raise self._refused(parent, name)
            until = min(free, LOOK)
        self._until[parent.dev] = until
        return 0

    def _refused(self, parent: Node, name: bytes) -> OSError:
        self.refusals.note(parent, name, FULL, reading=False)
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def growth(st: os.stat_result, offset: int, size: int) -> int:
    """Tell by how much a file may grow if so many bytes are put at `offset`; negative: at its end."""
    if offset < 0 or st.st_blocks * BLOCK < st.st_size:
        return size  # there are holes, and who knows where
    return max(0, offset + size - max(offset, st.st_size))


def left_free(fd: int) -> int:
    """Tell how much may be added to the filesystem of `fd` still: bytes, or inodes at NAME each."""
    found = os.fstatvfs(fd)
    free = found.f_bavail * found.f_frsize - min(KEPT_FREE, found.f_blocks * found.f_frsize // KEPT_PART)
    if found.f_files:
        free = min(free, (found.f_favail - min(KEPT_FREE // NAME, found.f_files // KEPT_PART)) * NAME)
    return free
