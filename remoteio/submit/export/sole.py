"""Submit side: which of the job's files nobody else has open, so that the locks on them may be left to its host.

That nobody has a file open is known in the moment in which the kernel gives a lease for writing (fcntl(2), F_SETLEASE)
on the only descriptor that this process has of it; who opens it from then on, inotify tells, as it does of what is
leased. Nobody waits for it: whoever has opened the file finds the locks of the job held, for as long as it takes to
hear from the host which of them are. So nothing rests on it but how long that is.
"""

from __future__ import annotations

import stat
from collections.abc import Callable

from remoteio import inotify as ino
from remoteio import syscalls
from remoteio.submit.export.filesystems import LOCAL
from remoteio.submit.export.held_open import unopened
from remoteio.submit.export.leases import Leases
from remoteio.submit.export.nodes import Handle, Node
from remoteio.wire import leases as wire
from remoteio.wire.behind import LOCKS

_SHARED = -1  # in place of a watch
_LOCAL = frozenset(LOCAL.values())


class Soles:
    """Knows which files the job alone has open, and tells its host when that is over, by way of `leases`.

    Threads: any, under the lock of `leases`; nothing is waited for under it but a file that is opened.
    """

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._watches: dict[int, int] = {}  # node -> its watch, or _SHARED: others have it open
        self._nodes: dict[int, int] = {}  # by watch
        self._told: set[int] = set()  # nodes that were asked for by `again`, and nobody has opened since
        self._opens = _SHARED  # the watch of what this process opens now
        leases.opened = self._opened

    def alone(self, handle: Handle, opens: Callable[[], object]) -> bool:
        """Say whether nobody but the job has a file open, of which it has that handle alone, and no locks so far.

        `opens` opens it once more, for those. Raises what that does.
        """
        node, leases = handle.node, self._leases
        known = self._watches.get(node.id)
        if known == _SHARED:
            return False
        if known is not None and node.locks:
            with leases.lock:
                leases.drain()
                return self._watches[node.id] != _SHARED
        if node.kind != stat.S_IFREG or node.locks or len(node.handles) != 1 or not leases.wanted():
            return False
        if known is None and syscalls.fstatfs(int(handle.fd))[0] not in _LOCAL:
            return False
        with leases.lock:
            if known is None:
                known = self._watch(int(handle.fd))
                if known == _SHARED:
                    return False
                self._watches[node.id], self._nodes[known] = known, node.id
                if not unopened(int(handle.fd)):
                    self._share(known)
            leases.drain()
            self._opens = known
            try:
                opens()
                leases.drain()
            finally:
                self._opens = _SHARED
            return self._watches[node.id] != _SHARED

    def made(self, handle: Handle) -> None:
        """See who opens a file, which the job has just made, before the job locks it."""
        if self.alone(handle, lambda: None):
            self.again(handle.node)

    def again(self, node: Node) -> bool:
        """Say whether nobody else has had a file open since this was last asked of it."""
        with self._leases.lock:
            self._leases.drain()
            told = node.id in self._told
            if self._watches.get(node.id, _SHARED) != _SHARED:
                self._told.add(node.id)
            return told

    def closed(self, node: Node) -> None:
        """Take note that the job has that file open no more."""
        if node.id in self._watches:
            with self._leases.lock:
                self._told.discard(node.id)
                watch = self._watches.pop(node.id, _SHARED)
                if self._nodes.pop(watch, None) is not None:
                    self._unwatch(watch)

    def _watch(self, fd: int) -> int:
        watches = self._leases.inotify
        try:
            return _SHARED if watches is None else watches.add(b"/proc/self/fd/%d" % fd, ino.IN_OPEN | ino.IN_MASK_ADD)
        except OSError:  # there are no more
            return _SHARED

    def _unwatch(self, watch: int) -> None:
        if self._leases.inotify is not None and watch not in self._leases.numbers:  # else something of it is leased
            self._leases.inotify.remove(watch)

    def _opened(self, watch: int, mask: int) -> None:
        """Take note of what happened, if it is anything to one of these files. Under the lock of `leases`."""
        if mask & ino.IN_Q_OVERFLOW:
            for each in list(self._nodes):
                self._share(each)
        elif watch in self._nodes and not (watch == self._opens and mask & ino.IN_OPEN):
            self._share(watch)

    def _share(self, watch: int) -> None:
        nodeid = self._nodes.pop(watch)
        self._told.discard(nodeid)
        self._watches[nodeid] = _SHARED
        self._leases.news.append(wire.pack_break(nodeid, LOCKS))
