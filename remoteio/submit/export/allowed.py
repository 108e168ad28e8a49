"""Asks what a job may do with the files of an export, where that takes a look at the disk; refuses what it may not.

Each question is asked at one place: what a name leads to at its lookup, all else by ``dispatch`` before it is done.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from contextlib import AbstractContextManager, nullcontext, suppress

from remoteio import syscalls
from remoteio.submit.export import confine
from remoteio.submit.export.confine import Confinement, Rights
from remoteio.submit.export.descriptors import Descriptors
from remoteio.submit.export.filesystems import Filesystems
from remoteio.submit.export.nodes import Node, Stat
from remoteio.submit.export.refusals import Refusals


class Allowed:
    """Knows what `confinement` allows. `refusals`: what was refused so far.

    Threads: any.
    """

    def __init__(self, confinement: Confinement, descriptors: Descriptors, filesystems: Filesystems) -> None:
        self.confinement, self._descriptors, self._filesystems = confinement, descriptors, filesystems
        self.refusals = Refusals()
        self._moves = threading.RLock()

    def rights(self, parent: Node, name: bytes, st: Stat) -> Rights:
        """Return the rights of what `st` describes, seen as `name` in `parent`. Raises OSError."""
        rights = self.to_look(parent, name, st)
        if self.is_of_many(st) and self.confinement.keeps((st.st_dev, st.st_ino)):
            rights = confine.least(rights, confine.UNCHANGED)
        return rights

    def is_of_many(self, st: Stat) -> bool:
        """Could what `st` describes be, by another of its names, a file that is to be kept as it is?

        Not one that the user could not change: it does not matter which of the files to be kept so it is.
        """
        devices = self.confinement.devices
        return st.st_nlink > 1 and st.st_dev in devices and stat.S_ISREG(st.st_mode) and _changeable(st)

    def to_look(self, parent: Node, name: bytes, st: Stat) -> Rights:
        """Return them as far as no file is to be changed: who ``is_of_many`` may be allowed less. Raises OSError.

        To look through all files that are to be kept as they are takes longer than all else of a start.
        """
        rights, directory = parent.rights.child(name), stat.S_ISDIR(st.st_mode)
        if st.st_dev != parent.dev and name and not self._keeps_data(parent, name, st.st_dev):
            rights = confine.least(rights, confine.NOTHING_IN_IT if directory else confine.NO_FILE)
        if not directory and st.st_nlink == 1:
            return rights
        confinement, key = self.confinement, (st.st_dev, st.st_ino)
        if directory and key in confinement.made and confinement.made[key] == self._made_at(parent, name):
            rights = rights.owned
        rights = confine.least(rights, confinement.known.get(key, confine.ALL))
        if not directory and st.st_dev in confinement.devices and stat.S_ISREG(st.st_mode):
            rights = confine.least(rights, confinement.of_linked(key))
        return rights

    def _keeps_data(self, parent: Node, name: bytes, dev: int) -> bool:
        fd = self._descriptors.open_beneath(parent, name)
        try:
            if os.fstat(fd).st_dev != dev:
                raise OSError(errno.ESTALE, "something has just been mounted or unmounted there")
            return self._filesystems.keep_data(fd, dev)
        finally:
            os.close(fd)

    def hides(self, parent: Node, name: bytes, rights: Rights) -> None:
        """Raise ENOENT for what is there, and not to be seen."""
        self.refusals.note(parent, name, rights.rule, reading=True)
        raise FileNotFoundError(errno.ENOENT, "not to be seen by a job")

    def may_see(self, parent: Node, name: bytes, key: confine.Key) -> None:
        """Raise ENOENT unless a file that had that name and number may be seen."""
        rights = confine.least(parent.rights.child(name), self.confinement.known.get(key, confine.ALL))
        if rights.level == confine.HIDDEN:
            self.hides(parent, name, rights)

    # before something is done

    def may_name(
        self, parent: Node, name: bytes, st: Stat | None, directory: bool = False, leads: bool = False
    ) -> None:
        """Refuse to make, remove, replace or move what has that name (`st`; None: nothing): EACCES, EBUSY, EROFS.

        `directory`: a directory is to be made. `leads`: what is to have that name is, or may lead to, one.
        """
        named = parent.rights.child(name)
        if st is None:
            rights, level = named, named.level if leads or named.file < confine.FREE else confine.FREE
        else:
            rights = self.rights(parent, name, st)
            level = min(rights.of(is_leading(st)), named.level if leads else confine.FREE)
        e = confine.refused_name(level, st is not None, directory)
        if e:
            self._refuse(e, parent, name, rights)

    def may_move(self, source: Node, old: bytes, moved: Stat | None, target: Node) -> None:
        """Refuse with EXDEV to take a directory that was there before into a tree that the job has made.

        There nothing would be kept of it, nor when it comes back. Who copies it instead has made what arrives.
        """
        directory = moved is not None and stat.S_ISDIR(moved.st_mode)
        if target.rights.own and moved is not None and directory and not self.rights(source, old, moved).own:
            raise OSError(errno.EXDEV, "a directory that was there before is copied")

    def may_change(self, node: Node) -> None:
        """Raise EROFS if the file's contents and attributes may not be changed."""
        self._ask(node)
        self._refuse_node(confine.refused_change(node.rights.of(node.kind in _LEADING)), node)

    def may_link(self, node: Node) -> None:
        """Raise EROFS if the file may not get one more name."""
        self._ask(node)
        self._refuse_node(confine.refused_link(node.rights.of(node.kind in _LEADING)), node)

    def _ask(self, node: Node) -> None:
        """Find out of a node whose file was one of many, when it was looked up, whether it is to be kept as it is."""
        if node.of_many and self.confinement.keeps((node.dev, node.ino)):
            node.rights = confine.least(node.rights, confine.UNCHANGED)
        node.of_many = False

    def _refuse_node(self, e: int, node: Node) -> None:
        if e:
            self._refuse(e, node.parent or node, node.name, node.rights)

    def _refuse(self, e: int, parent: Node, name: bytes, rights: Rights) -> None:
        self.refusals.note(parent, name, rights.rule, reading=False)
        raise OSError(e, os.strerror(e))

    # what the job has made

    def made(self, parent: Node, name: bytes, at: int) -> None:
        """Take note that the job has made a directory of that name in `parent`, which is open as `at`.

        What is found there is the job's if it is empty: with two requests at once a host may have another in its place.
        """
        rights = parent.rights.child(name)
        if rights.owned is rights:
            return  # it is anyway, or is not by its name
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = self._descriptors.with_room(lambda: os.open(name, flags, dir_fd=at))
        except OSError:
            return  # the job may not read it itself, or it is gone
        try:
            with os.scandir(fd) as entries:
                empty = next(entries, None) is None
            if empty:
                self._remember(os.fstat(fd), fd)
        finally:
            os.close(fd)

    def moving(self, moved: Stat | None, target: Node) -> AbstractContextManager[object]:
        """Keep, in a ``with`` around a move and what is asked before it, another directory from taking its place."""
        alone = target.rights.own or (moved is not None and stat.S_ISDIR(moved.st_mode))
        return self._moves if alone else nullcontext()

    def moved(self, source: Node, target: Node, new: bytes, st: Stat | None) -> None:
        """Take note that what `st` describes is now `new` in `target`: the job's own stays that, wherever it is."""
        if st is None or not source.rights.own or target.rights.own or not stat.S_ISDIR(st.st_mode):
            return
        with suppress(OSError):  # it has gone on
            fd = self._descriptors.open_beneath(target, new)
            try:
                found = os.fstat(fd)
                if (found.st_dev, found.st_ino) == (st.st_dev, st.st_ino):
                    self._remember(st, fd)
            finally:
                os.close(fd)

    def _remember(self, st: Stat, fd: int) -> None:
        made = self.confinement.made
        if len(made) < confine.MOST_MADE:
            made[st.st_dev, st.st_ino] = syscalls.born(fd)

    def own(self, st: Stat) -> int | None:
        """Return what a directory is known by as one that the job has made; None: it has not."""
        return self.confinement.made.get((st.st_dev, st.st_ino))

    def removed(self, st: Stat, own: int | None) -> None:
        """Take note that a directory is gone that was its `own`; its number may be another's by now."""
        if own is not None and self.own(st) == own:
            del self.confinement.made[st.st_dev, st.st_ino]

    def _made_at(self, parent: Node, name: bytes) -> int:
        fd = self._descriptors.open_beneath(parent, name)
        try:
            return syscalls.born(fd)
        finally:
            os.close(fd)


_LEADING = (stat.S_IFDIR, stat.S_IFLNK)


def is_leading(st: Stat | None) -> bool:
    """Is it a directory, or a symbolic link, which may lead to one?"""
    return st is not None and stat.S_IFMT(st.st_mode) in _LEADING


def _changeable(st: Stat) -> bool:
    """Could this process's user change that file, or have it changed?"""
    return os.geteuid() in (0, st.st_uid) or bool(st.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
