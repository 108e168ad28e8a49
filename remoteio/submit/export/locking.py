"""Submit side: the operations on locks, and what the job's host is told with them."""

from __future__ import annotations

from functools import partial

from remoteio.submit.export.base import ExportBase
from remoteio.submit.export.beside_locks import break_in, touched
from remoteio.submit.export.reply import DONE, Reply
from remoteio.wire import fuse_abi as abi
from remoteio.wire.behind import SAME_FILE, SAME_LARGE, WHOLE


class Locking(ExportBase):
    """Locks and unlocks, and leaves the locks of a file that nobody else has open to the host."""

    def do_getlk(self, r: abi.Request) -> Reply:
        if self.behind:  # who asks first, locks next
            self.locks.alone(r)
        return Reply(self.locks.test(r))

    def do_setlk(self, r: abi.Request) -> Reply:
        return self._lock(r, wait=False)

    def do_setlkw(self, r: abi.Request) -> Reply:
        try:
            return self._lock(r, wait=True)
        finally:
            self.locks.over(r.unique)

    def _same(self, r: abi.Request) -> bytes:
        return SAME_LARGE if self.locks.is_large(r) else SAME_FILE

    def _lock(self, r: abi.Request, wait: bool) -> Reply:
        parent = self.inodes.get(r.nodeid).parent
        first = parent is not None and not parent.shared
        alone = self.behind and not r.number and self.locks.alone(r)
        self.locks.set(r, wait)
        whole = alone and self.locks.whole(r)
        sole = whole and self.locks.soles.again(self.inodes.get(r.nodeid))
        stale = self.locks.stale_pages(r, sole)
        body = b"" if not whole else self._same(r) if sole and not stale else WHOLE
        before = abi.inval_inode(r.nodeid) if stale else b""
        if first:  # from now on the job's kernel is given no time for what is in this directory
            assert parent is not None
            self.leases.touched = partial(touched, self.inodes)
            at = self.inodes.descriptors.directory(parent)
            parent.watched = break_in(self.leases, parent, at, self.inodes.nodes)
            beside = {h.node.id for h in tuple(self.inodes.handles.values()) if h.node.parent is parent}
            before += b"".join(abi.inval_inode(node, -1) for node in beside - {r.nodeid})
        return Reply(body, before=before) if body or before else DONE
