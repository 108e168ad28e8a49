"""Execute side: has the kernel ask again for what it was told of leases and is not so any more. Shipped.

The kernel of a host that has a session is told of names and attributes under leases for KEPT_BY_KERNEL seconds, and not
for TTL: a later `git status` asks the agent for none of 5,000 names. So it is told (FUSE_NOTIFY_INVAL_ENTRY with
EXPIRE_ONLY, Linux 6.2: the name stays, with what is mounted on it; FUSE_NOTIFY_INVAL_INODE)

* when home takes something back, or it is forgotten here for lack of room (``leases.Leases.dropped``);
* when nothing is heard of home, and what it takes back would not be: of everything;
* when the job has renamed something: what the kernel was told of the old name it holds for the new one;
* before the job locks a file: from then on it is told of everything for TTL alone, until the next job.

Each is told at once, and again a second or two later. For an answer that was under way may come to the kernel after it;
and who waits for an answer about a name that the kernel knew already takes no lock as he notes for how long it holds.

Told aside: a name is in a directory that the kernel has locked while a request in it is under way, perhaps for as long
as the link is cut.
"""

from __future__ import annotations

from collections.abc import Callable

from remoteio.execute.leases import everything
from remoteio.execute.to_kernel import ToKernel
from remoteio.execute.told import Told
from remoteio.wire import fuse_abi as abi
from remoteio.wire import leases as wire
from remoteio.wire.coherence import KEPT_BY_KERNEL, TTL
from remoteio.wire.link import Link
from remoteio.wire.makes import names_of

Items = list[tuple[int, bytes]]
"""Nodes of directories and names in them; no name: a node's attributes."""


class Invalidating(Told, ToKernel):
    """Tells the kernel. Threads: see ``relay``, of which this is a part."""

    def __init__(self, fd: int, link: Link, fail: Callable[[BaseException], None]) -> None:
        Told.__init__(self, link)
        ToKernel.__init__(self, fd, fail)
        self._again: Items = []  # told since the last tick
        self._before: Items = []  # and in the second before that
        self._silent = False  # home is not heard of, and the kernel was told of everything

    def _keeps(self, seconds: int) -> None:
        """Have the kernel told for so long of what is leased, from now on."""
        leases = self._known.leases
        with self._order:
            items = everything(leases) if seconds == TTL else []
            leases.seconds = seconds
        self._invalidate(items)

    def _invalidate(self, items: Items) -> None:
        """Have the kernel ask again for these."""
        if items:
            self._again.extend(items)
            self._beside(lambda: self._tell(items))

    def _tell(self, items: Items) -> None:
        for nodeid, name in items:
            self._to_kernel(
                abi.inval_entry(nodeid, name, abi.EXPIRE_ONLY) if name else abi.inval_inode(nodeid, offset=-1)
            )

    def tick(self) -> None:
        """Do what is due: to be called each second."""
        leases = self._known.leases
        if leases.seconds > TTL:
            with self._order:
                silent = not leases.holds(self.now())
                items = everything(leases) if silent and not self._silent else []
            self._silent = silent
            self._invalidate(items)
        before, self._before, self._again = self._before, self._again, []
        if before:
            self._beside(lambda: self._tell(before))

    def broken(self, payload: bytes | memoryview) -> None:
        """Forget what is leased no more; so does the kernel. Raises ProtocolError."""
        super().broken(payload)
        if self._known.leases.seconds > TTL:
            items = [(nodeid, name) for nodeid, name in wire.broken(payload) if nodeid != wire.EVERYTHING]
            self._invalidate([(nodeid, b"") for nodeid, _ in items] + [each for each in items if each[1]])

    def give_back(self) -> None:
        """Give home back what is used no more; the kernel forgets what is forgotten here."""
        super().give_back()
        leases = self._known.leases
        if leases.dropped:
            with self._order:
                items, leases.dropped = leases.dropped, []
            self._invalidate(items)

    def _renamed(self, nodeid: int, raw: bytes | memoryview) -> None:
        """Take note of a RENAME or RENAME2 in that directory."""
        if self._known.leases.seconds > TTL:
            old, new = names_of(raw)
            self._invalidate([(nodeid, old), (abi.HANDLE.unpack_from(raw, abi.ARGS)[0], new)])

    def _begins_with(self, raw: bytes) -> None:
        """Take note of what the kernel says of itself in an INIT."""
        if len(raw) < abi.ARGS + abi.INIT_IN.size or not abi.INIT_IN.unpack_from(raw, abi.ARGS)[4] & _EXPIRES:
            self.lately = None
        if self.lately is not None:
            self._keeps(KEPT_BY_KERNEL)

    def _rested(self) -> None:
        """Wait until the kernel was told of what home took back since a job has ended: before another begins."""
        self._aside.rest(TTL)
        if self.lately is not None:
            self._keeps(KEPT_BY_KERNEL)


_EXPIRES = abi.HAS_EXPIRE_ONLY >> 32
