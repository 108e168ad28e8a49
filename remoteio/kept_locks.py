"""A job's locks at home while it goes from one host to the next: nobody else gets one in between.

Each is held by a copy of the descriptor that held it, so that neither the end of the old host's link nor what the
killed job's kernel still closes lets go of it. The restored job asks for its locks again, and is given those
descriptors.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading

from remoteio.inodes import Inodes

_F_OFD_SETLK = 37
_EVERYTHING = struct.pack("=hh4xqqi4x", fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0)  # struct flock, 64-bit
Place = tuple[int, int]  # device and inode


class KeptLocks:
    """Those of one job."""

    def __init__(self) -> None:
        self._kept: list[tuple[Place, int]] = []
        self._claimed: set[int] = set()
        self._guard = threading.Lock()

    def take(self, inodes: Inodes) -> None:
        """Keep what the job holds now through these handles; what was kept before is let go of."""
        with self._guard, inodes.lock:
            old, self._kept = self._kept, []
            for node in {id(handle.node): handle.node for handle in inodes.handles.values()}.values():
                fds = [owner.fd for owner in node.locks.values()] + list(node.handles)
                for fd in fds:
                    if _locks(fd):
                        self._kept.append(((node.dev, node.ino), fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)))
            self._let_go(old)

    def claim(self, place: Place, lock: tuple[str, int, int]) -> int:
        """A descriptor that holds this lock (`_locks`) on this file: the caller's own; -1: none was kept."""
        with self._guard:
            for at, fd in self._kept:
                if at == place and any(_covers(held, lock) for held in _locks(fd)):
                    self._claimed.add(fd)
                    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)
        return -1

    def clear(self) -> None:
        """The job runs again: what it did not ask for again is let go of."""
        with self._guard:
            old, self._kept = self._kept, []
            self._let_go(old)

    def _let_go(self, old: list[tuple[Place, int]]) -> None:
        for _, fd in old:
            if fd not in self._claimed:  # of a host that was lost the handle is open still, and would hold it
                fcntl.flock(fd, fcntl.LOCK_UN)
                fcntl.fcntl(fd, _F_OFD_SETLK, _EVERYTHING)
            os.close(fd)
        self._claimed.clear()


def flock(kind: int) -> tuple[str, int, int]:
    """A flock(2) as `claim` wants it; `kind`: F_RDLCK or F_WRLCK."""
    return "FLOCK" + _kind(kind), 0, -1


def record(kind: int, start: int, length: int) -> tuple[str, int, int]:
    """A record lock as `claim` wants it; `length` 0: to the end."""
    return "OFDLCK" + _kind(kind), start, start + length - 1 if length else -1


def _kind(kind: int) -> str:
    return "READ" if kind == fcntl.F_RDLCK else "WRITE"


def _covers(held: tuple[str, int, int], lock: tuple[str, int, int]) -> bool:
    """The kernel joins locks of a kind that touch."""
    kind, first, last = held
    return kind == lock[0] and first <= lock[1] and (last < 0 or 0 <= lock[2] <= last)


def _locks(fd: int) -> list[tuple[str, int, int]]:
    """The locks of the open file: (kind and type, first byte, last byte or -1: to the end); proc_pid_fdinfo(5)."""
    found = []
    with open(f"/proc/self/fdinfo/{fd}") as lines:
        for line in lines:
            if line.startswith("lock:"):
                _, _, what, _, how, _, _, first, last = line.split()
                found.append((what + how, int(first), -1 if last == "EOF" else int(last)))
    return found
