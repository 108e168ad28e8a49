"""Keep what a copy of a job that stands still asks for from changing its files: another may be going on with them.

A generation whose image is committed stands still on its host until the job goes on elsewhere, or there after all
(docs/walk-vacate.md). All that its kernel still says passes here, at this one place, and what would change a
file or a lock waits until it is known which of the two it is: then it is done, or refused for ever.
"""

from __future__ import annotations

import errno
import os
import threading

from remoteio.wire import fuse_abi

MOST = 1024  # requests kept: a kernel has no more under way for which no program waits
MOST_BYTES = 64 << 20
KEPT, DONE = -1, -2
_CRIU = b".criu."  # mkdtemp in criu/kerndat.c
_LOCKS = frozenset((fuse_abi.SETLK, fuse_abi.SETLKW))
_CHANGES = _LOCKS | {op for op, (_, _, _, changes) in fuse_abi.OPERATIONS.items() if changes != fuse_abi.READS}


class Fence:
    """Stands between one generation's requests and the files.

    up      it keeps requests; else `passes` need not be asked
    opened  it did, and what it kept is to be done first

    Threads: any; `_lock` is held while one request is looked at.
    """

    def __init__(self) -> None:
        self.up = self.opened = self._over = False
        self._kept: list[bytes | memoryview] = []
        self._bytes = 0
        self._lock = threading.Lock()

    def keep(self) -> None:
        """Keep what comes from now on and would change something: the job stands still."""
        with self._lock:
            self.up = True

    def end(self) -> None:
        """Refuse all that is kept, and what comes: the job goes on elsewhere."""
        with self._lock:
            self.up = self._over = True
            self._kept, self._bytes = [], 0

    def open(self) -> None:
        """Let everything through again: the job goes on here. Nothing happens after `end`."""
        with self._lock:
            self.up, self.opened = self._over, bool(self._kept)

    def kept(self) -> list[bytes | memoryview]:
        """Return what was kept before it was opened, in order, once."""
        with self._lock:
            self.opened = False
            kept, self._kept, self._bytes = self._kept, [], 0
            return kept

    def passes(self, request: fuse_abi.Request) -> int:
        """Return 0 for a request that may be done; else it is KEPT, or refused with that error (errno(3)), or (DONE)
        it is answered as if it had been done.

        Raises FuseError for one too many: no kernel says so much for a job that stands still.
        """
        if request.op not in _CHANGES:
            return 0
        with self._lock:
            if not self.up:
                return 0
            if self._over:
                return errno.ESTALE
            self._kept.append(bytes(request.raw))
            self._bytes += len(request.raw)
            if len(self._kept) > MOST or self._bytes > MOST_BYTES:
                raise fuse_abi.FuseError("a job that stands still changes files")
            return KEPT


class ReadOnly(Fence):
    """Lets nothing change the files: for a copy of the job that never runs, beside the job itself.

    A file may be opened for writing, as a restored process has it; no lock is taken, and each is granted, since the job
    has them. The directories that criu makes for a moment to try out the kernel are no files of the job's.

    refused  something was refused: what could not be done without it says nothing of the job
    """

    def __init__(self) -> None:
        super().__init__()
        self.up, self.refused = True, False

    def passes(self, request: fuse_abi.Request) -> int:
        op = request.op
        if op in _LOCKS:
            return DONE
        if op not in _CHANGES:
            return 0
        if op == fuse_abi.OPEN and not fuse_abi.OPEN_IN.unpack_from(request.raw, fuse_abi.ARGS)[0] & os.O_TRUNC:
            return 0
        if op in (fuse_abi.MKDIR, fuse_abi.RMDIR) and _name(request).startswith(_CRIU):
            return 0
        self.refused = True
        return errno.EROFS


def _name(request: fuse_abi.Request) -> bytes:
    """The name of what is made or removed. Raises FuseError."""
    return request.name(fuse_abi.ARGS + fuse_abi.OPERATIONS[request.op][1])
