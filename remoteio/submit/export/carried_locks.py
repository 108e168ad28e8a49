"""File locks of a job on its way from one host to the next: held here meanwhile, and claimed by the files it reopens.

CRIU sees no lock on our filesystem, since the kernel that grants it is this machine's. So the submit side says which
there are, and they are put among the image's own (shim/submit/job/image_locks.py, checkpoint/execute/restore.py): a
restored process asks for each again by itself, and is given the very descriptor that has held it all the time. Nobody
gets in between.
"""

from __future__ import annotations

import fcntl
import os
import threading
from typing import NamedTuple

from remoteio.submit.export.inodes import Inodes
from remoteio.submit.export.nodes import Handle

Range = tuple[int, int, int]  # F_RDLCK or F_WRLCK, start, length (0: to the end)


class Held(NamedTuple):
    """A lock as it stands: through which handle it was asked, and by which process of the execute host."""

    flock: bool
    fh: int
    pid: int
    kind: int
    start: int
    length: int


class _Kept(NamedTuple):
    """A descriptor that holds locks on the file `key` (device, inode)."""

    fd: int
    key: tuple[int, int]
    flock: bool
    ranges: frozenset[Range]


def held(inodes: Inodes) -> list[Held]:
    """List all locks on the files of `inodes`, which must stand still."""
    return [Held(flock, fh, pid, *each) for _, flock, fh, pid, _, ranges in _holders(inodes) for each in ranges]


def _holders(inodes: Inodes) -> list[tuple[int, bool, int, int, tuple[int, int], list[Range]]]:
    """(descriptor, flock, handle, pid, key, ranges) of each descriptor that holds locks."""
    handles = [handle for handle in tuple(inodes.handles.values()) if handle.flocked]
    nodes = {handle.node.id: handle.node for handle in tuple(inodes.handles.values()) if handle.node.locks}
    found = [(h.fd, True, h.number, 0, (h.node.dev, h.node.ino), _ranges(h.fd, b"FLOCK")) for h in handles]
    for node in nodes.values():
        found += [
            (owner.fd, False, owner.fh, owner.pid, (node.dev, node.ino), _ranges(owner.fd, b"OFDLCK"))
            for owner in tuple(node.locks.values())
        ]
    return [each for each in found if each[-1]]


def _ranges(fd: int, what: bytes) -> list[Range]:
    """The locks of the open file description `fd`: proc_pid_fdinfo(5)."""
    with open("/proc/self/fdinfo/%d" % fd, "rb") as f:
        words = [line.split() for line in f if line.startswith(b"lock:")]
    found = []
    for _, _, kind, _, how, _, _, start, end in words:
        if kind == what:
            length = 0 if end == b"EOF" else int(end) - int(start) + 1
            found.append((fcntl.F_RDLCK if how == b"READ" else fcntl.F_WRLCK, int(start), length))
    return found


class CarriedLocks:
    """Holds the locks of one job while no host runs it.

    Threads: any. Under `_guard` a descriptor is closed, or used to claim a lock: its number may be another file's next.
    """

    def __init__(self) -> None:
        self._kept: list[_Kept] = []
        self._guard = threading.Lock()

    def keep(self, inodes: Inodes) -> None:
        """Hold the locks on the files of `inodes` from now on, whatever is closed there. Raises OSError: not all."""
        self.release()
        for fd, flock, _, _, key, ranges in _holders(inodes):
            self._kept.append(_Kept(os.dup(fd), key, flock, frozenset(ranges)))

    def claims(self) -> Claims:
        """Let the export claim them through which the job's files are reopened: each lock once."""
        return Claims(self, self._kept)

    def drop(self, key: tuple[int, int]) -> bool:
        """Hold nothing on that file any more. False: nothing was held."""
        with self._guard:
            dropped = [kept for kept in self._kept if kept.key == key]
            self._kept = [kept for kept in self._kept if kept.key != key]
            for kept in dropped:
                os.close(kept.fd)
        return bool(dropped)

    def release(self) -> None:
        """Let go of all: whoever claimed a lock has it, the others are free."""
        with self._guard:
            for kept in self._kept:
                os.close(kept.fd)
            self._kept = []

    def give(self, kept: _Kept, to: int = -1) -> int:
        """Return a copy of a descriptor that is held, made as the number `to` if given; -1: it is held no more."""
        with self._guard:
            if not any(each is kept for each in self._kept):
                return -1
            return os.dup(kept.fd) if to < 0 else os.dup2(kept.fd, to, inheritable=False)


class Claims:
    """Gives out those of the locks carried that are asked for again."""

    def __init__(self, carried: CarriedLocks, kept: list[_Kept]) -> None:
        self._carried, self._left = carried, list(kept)

    def flock(self, handle: Handle, kind: int) -> None:
        """Make `handle`, which asks for such a lock, the description that holds it, if one carried does."""
        kept = self._take(handle, True, (kind, 0, 0))
        if kept is not None:
            self._carried.give(kept, handle.fd)

    def owner(self, handle: Handle, asked: Range) -> int:
        """Return a descriptor that holds such a record lock for a process that is asking for it, or -1."""
        kept = self._take(handle, False, asked)
        return self._carried.give(kept) if kept is not None else -1

    def of_mapped(self, inodes: Inodes) -> None:
        """Leave each flock(2) that nobody has asked for to what the job has of that file: it was mapped, and closed.

        Such a lock is the mapping's, and ends with it (__fput in fs/file_table.c). Which of the handles is the
        mapping's is not known here: all have it.
        """
        for kept in [kept for kept in self._left if kept.flock]:
            for handle in tuple(inodes.handles.values()):
                fd = handle.fd  # -1: what criu had open is being closed just now
                if fd >= 0 and (handle.node.dev, handle.node.ino) == kept.key and not handle.flocked:
                    handle.flocked = self._carried.give(kept, fd) >= 0

    def drop(self, handle: Handle) -> bool:
        """Let go of what is carried of a file, as it is in the way: a lost host left other locks than the image has."""
        key = (handle.node.dev, handle.node.ino)
        self._left = [kept for kept in self._left if kept.key != key]
        return self._carried.drop(key)

    def _take(self, handle: Handle, flock: bool, asked: Range) -> _Kept | None:
        key = (handle.node.dev, handle.node.ino)
        for kept in self._left:
            if kept.flock == flock and kept.key == key and asked in kept.ranges:
                self._left.remove(kept)
                return kept
        return None
