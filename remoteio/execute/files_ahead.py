"""Execute side: small files that are opened and read before the job opens them. Pure. Shipped.

What is guessed (``orders``) is asked for by a request of the relay's own, FETCH: home opens the file, watches it, and
tells its handle, attributes and contents. When the job opens it for reading, it is given that handle, and reads what
has come. What it asks of it beyond that, and its close, go home as with any other.

A job that opens a file whose FETCH is under way waits for that, rather than ask again.

What has come is used for coherence.TTL from when it was asked for, unless home takes it back (``wire.leases``) or the
job changes it. What is not used is closed (``unused``).

How many bytes are under way is learned from how long each takes: what the job asks for meanwhile waits behind them. On
a link on which they take half as long again as the fastest has, they are made fewer.
"""

from __future__ import annotations

from collections.abc import Callable

from remoteio.execute.counts import Guesses
from remoteio.execute.orders import Orders
from remoteio.wire.coherence import FETCHED, FETCHED_FIRST, FETCHED_LEAST, ORDER_WINDOW, TTL
from remoteio.wire.fetched import parse

Waiting = tuple[int, bytes]  # the number of an OPEN, and it whole

# Opened with any of these, a file is not read as it is, or not alone: O_ACCMODE, O_TRUNC, O_APPEND, O_DSYNC, O_DIRECT,
# O_NOATIME, O_SYNC of x86-64 and arm64 alike, and __FMODE_EXEC of linux/fs.h.
_NOT_READ = 0o3 | 0o1000 | 0o2000 | 0o10000 | 0o40000 | 0o200000 | 0o1000000 | 0o4000000 | 0x20
_LATE = 0.005  # seconds that are no sign of a narrow link: a processor was busy
_UNWANTED = -1  # in place of a size: what comes is not to be used, and who waits for it asks home then


class File:
    """A file that is open at home, and all that is in it."""

    __slots__ = ("attr", "contents", "handle", "until")

    def __init__(self, handle: int, attr: bytes, contents: bytes, until: float) -> None:
        self.handle, self.attr, self.contents, self.until = handle, attr, contents, until


class FilesAhead:
    """Keeps what was fetched until the job opens it, and knows what to fetch next.

    unused   handles that home is to be told to close
    until    when the oldest of what has come is to be forgotten
    guesses  how many came, and were opened
    """

    def __init__(self) -> None:
        self.orders = Orders()
        self.guesses = Guesses()
        self.unused: list[int] = []
        self.until = float("inf")
        self._asked: dict[int, tuple[int, list[Waiting]]] = {}  # nodeid -> size as it was listed, who waits for it
        self._come: dict[int, File] = {}  # by nodeid
        self._bytes = self._flying = 0  # of what has come, and of what is under way
        self._most = FETCHED_FIRST  # that may be under way
        self._fastest = float("inf")  # seconds that a FETCH took
        self._fewer = 0.0  # when that was last made less
        self._refused = False  # home fetches nothing in this session

    def open(self, nodeid: int, flags: int, now: float, leased: bool) -> File | None:
        """Take what the job opens, if it has come and may be used; else, if it is not `leased`, ask whether it
        ``waits``."""
        file = self.take(nodeid, flags, now)
        if leased or file is not None or nodeid not in self._asked:
            self.orders.opened(nodeid, leased or file is not None)
        return file

    def take(self, nodeid: int, flags: int, now: float) -> File | None:
        """Take what has come and may be used, for an OPEN that was noted already."""
        self.expire(now)
        if nodeid not in self._come:
            return None
        if flags & _NOT_READ:
            self._drop(nodeid)
            return None
        self.guesses.right += 1
        return self._take(nodeid)

    def waits(self, nodeid: int, flags: int, waiting: Waiting) -> bool:
        """Put an OPEN off if its file is under way; else what comes of it is not used."""
        asked = self._asked.get(nodeid)
        if asked is None:
            return False
        self.orders.opened(nodeid, False)
        if flags & _NOT_READ:
            others = self._gone(nodeid)
            if others:  # nobody else would answer them
                self._asked[nodeid] = _UNWANTED, others
        elif asked[0] != _UNWANTED:
            asked[1].append(waiting)
            return True
        return False

    def next(self, now: float, leased: Callable[[int], bool]) -> list[int]:
        """Return the nodes to ask for with a FETCH each; they are taken as asked from now on.

        None that is `leased`: it is opened here as it is.
        """
        self.expire(now)
        if self._refused or not self.orders.window:
            return []
        room = min(FETCHED - self._bytes - self._flying, self._most - self._flying)
        found = []
        for nodeid, size in self.orders.next(ORDER_WINDOW - len(self._asked), room):
            if nodeid not in self._asked and nodeid not in self._come and not leased(nodeid):
                self._asked[nodeid] = size, []
                self._flying += size
                found.append(nodeid)
        return found

    def came(self, nodeid: int, body: bytes, holds: bool, asked: float, now: float) -> list[Waiting]:
        """Keep the reply to a FETCH that was `asked` for then, if it still `holds`; without a body: it was refused.

        Return who waits for it. Raises ProtocolError.
        """
        waiting = self._gone(nodeid)
        if not body:
            return waiting
        self.guesses.came += 1
        handle, attr, _, _, contents = parse(body)
        self._learn_pace(len(contents), asked, now)
        if not holds:
            self.unused.append(handle)
            return waiting
        self._come[nodeid] = File(handle, attr, contents, asked + TTL)
        self.until = min(self.until, asked + TTL)
        self._bytes += len(contents)
        return waiting

    def nobody_waits(self) -> None:
        """Take note that each OPEN that was put off is asked for by itself."""
        for _, waiting in self._asked.values():
            waiting.clear()

    def is_asked(self, nodeid: int) -> bool:
        """Say whether its FETCH is under way, and wanted still."""
        return self._asked.get(nodeid, (_UNWANTED, []))[0] != _UNWANTED

    def forgotten(self, nodeid: int) -> None:
        """Take note that home is told to forget a node: what comes of it may not be used."""
        asked = self._asked.get(nodeid)
        if asked is not None and not asked[1]:
            self._gone(nodeid)

    def refused(self) -> None:
        """Take note that home fetches nothing in this session."""
        self._refused = True

    def _learn_pace(self, size: int, asked: float, now: float) -> None:
        self._fastest = min(self._fastest, now - asked)
        if now - asked <= 1.5 * self._fastest + _LATE:
            self._most = min(self._most + (size // 2 if self._fewer else size), FETCHED)
        elif asked >= self._fewer:  # else it was under way when they were made fewer
            self._most, self._fewer = max(self._most // 2, FETCHED_LEAST), now

    def changed(self, nodeid: int) -> None:
        """Forget a file that somebody changes."""
        if nodeid in self._come:
            self._drop(nodeid)

    def sweep(self) -> None:
        """Forget all files: the job changes some that are not known by number."""
        self.orders.disturbed()
        for nodeid in list(self._come):
            self._drop(nodeid)

    def expire(self, now: float) -> None:
        """Forget what the job has not opened in time."""
        if now <= self.until:
            return
        late = [nodeid for nodeid, file in self._come.items() if file.until < now]
        for nodeid in late:
            self._drop(nodeid)
        self.until = min((file.until for file in self._come.values()), default=float("inf"))
        if late:
            self.orders.wrong()

    def _gone(self, nodeid: int) -> list[Waiting]:
        size, waiting = self._asked.pop(nodeid, (0, []))
        self._flying -= max(size, 0)
        return waiting

    def _drop(self, nodeid: int) -> None:
        self.unused.append(self._take(nodeid).handle)

    def _take(self, nodeid: int) -> File:
        file = self._come.pop(nodeid)
        self._bytes -= len(file.contents)
        return file
