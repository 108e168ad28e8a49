"""Execute side: names that home tells by itself. Pure. Shipped."""

from __future__ import annotations

from remoteio.execute.known import Known
from remoteio.execute.leased_names import named
from remoteio.execute.leases import attributes_of
from remoteio.execute.since import Since
from remoteio.wire import fuse_abi as abi
from remoteio.wire import names_ahead
from remoteio.wire.coherence import TTL
from remoteio.wire.listed import walk


class KnownNames(Known):
    """Keeps them, and of which moment what home sends unasked tells (`since`)."""

    def __init__(self) -> None:
        super().__init__()
        self.since = Since()
        self._job = 0  # how many changes there were before this job

    def credits(self, oldest: int) -> None:
        """Take note that home is about to be asked for more of what it sends unasked; `oldest`: the stamp of the first
        change that it has not done yet, 0: it has done all."""
        self.since.asks(oldest - 1 if oldest else self._count)

    def learn_names(self, told: list[tuple[int, int, bytes, bytes]], now: float) -> None:
        """Keep what a NAMES frame told: it is as old as the job may be, so what the job has changed since is not."""
        for what, nodeid, name, rest in told:
            if what == names_ahead.TARGET:
                self.learn_link(nodeid, 0, rest, now)
            elif what == names_ahead.LISTING:
                self._learn_whole(nodeid, rest, now)
            else:
                self.learn_name(nodeid, name, rest, now, 0)

    def learn_name(self, nodeid: int, name: bytes, entry: bytes, now: float, stamp: int) -> None:
        """Keep a name that was told by itself, as of that stamp, for its time; or give it back."""
        found = abi.ENTRY.unpack_from(entry)[0]
        if self.holds(nodeid, stamp) and self.holds(found, stamp):
            self.listings.learn_name(nodeid, name, entry, now)
            self.files.orders.named(nodeid, name, entry)
        elif found:
            self.listings.unused.append(found)

    def _learn_whole(self, nodeid: int, entries: bytes, now: float) -> None:
        if self._sweep or self._change:
            self.listings.refuse(entries)
        else:
            self.listings.learn(nodeid, entries, walk(entries), now + TTL)
            self.files.orders.listed(nodeid, entries)

    def unleased(self, names: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Return those of these names, with their directories, that the kernel may not keep when this job has ended:
        they are under no lease, or it, or others, have changed something of them."""
        since, self._job = self._job, self._count
        return [each for each in names if not self._is_leased(*each, since)]

    def _is_leased(self, parent: int, name: bytes, since: int) -> bool:
        nodeid = named(self.leases, parent, name)
        leased = self.leases.seconds > TTL and nodeid and attributes_of(self.leases, nodeid) is not None
        return bool(leased and self.holds(parent, since) and self.holds(nodeid, since))
