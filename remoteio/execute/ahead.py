"""Execute side: directories that are listed before the job opens them. Pure. Shipped.

What is guessed (``walks``) is asked for by a request of the relay's own, LIST, whose reply has what is below it along.
When the job opens such a directory the relay answers at once, with a handle of its own (from OWN on), of which the
submit side hears nothing: what is read by it is known. A request that goes beyond that (a rewind) travels with that
number, and the submit side opens the directory anew for it alone. Such a handle is also given to who opens a directory
again that he has just opened, as `find` does to go back up: that is read by nobody, or by who begins anew.

Who looks up names in such a directory, as `git status` does, is answered from it as well (``look``).

A directory that was listed before, and is under a lease since then, is opened from that (``leases``), though with the
attributes of its directories alone: files have a lease of their own, if any. A program that asks for those of all
files is given no such listing any more (``bare``): one from home has them all. (Nor is one given of which a directory
is not leased.) But who opened a directory and read nothing of it, as each program does that looks for its messages,
opens it here again.

A job that comes to a directory whose listing is under way waits for that, rather than ask again.

A listing has counted a lookup for each entry, as in ``known_listings``, which hands it out or gives it back. It may be
used for coherence.TTL; any change of the job's in it, or of all, forgets it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from remoteio.execute.bare import Bare
from remoteio.execute.counts import Guesses
from remoteio.execute.kept_listings import keeps
from remoteio.execute.known_listings import KnownListings
from remoteio.execute.leases import Leases
from remoteio.execute.walks import NameWalks, Walks
from remoteio.wire import fuse_abi as abi
from remoteio.wire.coherence import KNOWN_OPENED, LISTED_BELOW, TTL, WALK_AHEAD, WALK_KEPT
from remoteio.wire.listed import Entries, walk

Waiting = tuple[int, bytes]  # the number of an OPENDIR or LOOKUP, and it whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    _Guesser = Walks | NameWalks


_ALMOST_TTL = TTL * 1_000_000_000 - 1  # ns, of which there may be no whole second


class _Listed:
    __slots__ = ("entries", "found", "until", "walk")

    def __init__(self, entries: bytes, found: Entries, until: float, walk: _Guesser | None) -> None:
        self.entries, self.found, self.until = entries, found, until
        self.walk = walk  # which guessed it; None: home, which has sent it unasked


class Ahead:
    """Keeps what was listed ahead until the job opens it, and knows what to list next.

    guesses  how many listings came, and were opened or looked into
    moved    the job has come on: there may be more to list
    """

    def __init__(self, listings: KnownListings) -> None:
        self.guesses = Guesses()
        self.moved = False
        self.walks, self.lookups = Walks(), NameWalks()
        self._listings = listings
        self._asked: dict[int, tuple[_Guesser, list[Waiting]]] = {}  # nodeid -> which guessed it, who waits for it
        self._come: OrderedDict[int, _Listed] = OrderedDict()  # by nodeid
        self._bytes = 0  # of these
        self._where: dict[int, int] = {}  # nodeid of an entry of these -> of its directory
        self._opened: dict[int, float] = {}  # nodeid -> until when it is known to be a directory that can be opened
        self._handle = abi.OWN
        self.bare = Bare()

    def open(self, unique: int, nodeid: int, now: float, leases: Leases | None) -> bytes | None:
        """Answer an OPENDIR; None: its listing has not come, nor is it among `leases` that hold."""
        listed = self._come.get(nodeid)
        if listed is not None and listed.until < now:
            self._expire(now)
            listed = None
        leased = leases is not None and self._may_list(leases, nodeid)
        above = self.walks.above(nodeid)
        if not above:
            self.moved = True
            self.walks.opened(nodeid, listed is not None or leased)
        if listed is not None:
            self._used(nodeid)
            self._open_until(nodeid, listed.until)
            answer = self._opened_here(unique)
            self._listings.opened_ahead(self._handle, listed.entries, listed.found, now, listed.until)
            return answer
        if leased and leases is not None:
            self.walks.done(nodeid)
            flags = self._keeps(nodeid, now, leases)
        elif not above or self._opened.get(nodeid, 0.0) < now:
            return None
        else:
            flags = 0
        answer = self._opened_here(unique, flags)
        self._listings.opened_untold(self._handle)
        return answer

    def _keeps(self, nodeid: int, now: float, leases: Leases) -> int:
        """Return with which flags a directory is opened by its lease, the next handle is of."""
        flags, entries, found = keeps(leases, nodeid)
        if flags & abi.FOPEN_KEEP_CACHE:
            self.bare.given(nodeid, entries, found, now + TTL)
            self.bare.by_kernel.add(self._handle + 1)
            self._open_until(nodeid, now + TTL)
            self.walks.listed(nodeid, found)
        return flags

    def read(self, unique: int, nodeid: int, raw: memoryview, now: float, leases: Leases | None) -> bytes | None:
        """Answer a READDIRPLUS, if what is in the directory is known."""
        fh, offset, size, *_ = abi.READ_IN.unpack_from(raw, abi.ARGS)
        if offset:
            return self._listings.read(unique, fh, offset, size, now)
        found = self._listings.unread(fh)
        if self._listings.first(fh) and leases is not None and self._may_list(leases, nodeid):
            entries, found = leases.listing(nodeid, _ALMOST_TTL)
            self._listings.opened_leased(fh, entries, found, now + TTL)
            self.bare.given(nodeid, bytes(entries), found, now + TTL)
            self._open_until(nodeid, now + TTL)
            self.walks.listed(nodeid, found)
        if found is not None and self.walks.above(nodeid):  # nobody goes back there, but begins anew
            self.walks.opened(nodeid, True)
            self.walks.listed(nodeid, found)
            self.moved = True
        return self._listings.read(unique, fh, offset, size, now)

    def _may_list(self, leases: Leases, nodeid: int) -> bool:
        return self.bare.do(nodeid) and leases.lists(nodeid)

    def _opened_here(self, unique: int, flags: int = 0) -> bytes:
        self._handle += 1
        return abi.reply(unique, abi.OPEN_OUT.pack(self._handle, flags, 0))

    def opened(self, nodeid: int, found: Entries, now: float) -> None:
        """Take note that the submit side has opened a directory, and how its listing begins."""
        self._open_until(nodeid, now + TTL)
        if not self.walks.above(nodeid):
            self.walks.listed(nodeid, found)

    def goes_on(self, nodeid: int, entries: bytes) -> None:
        """Take note of more entries of a directory that the submit side has opened."""
        if self.walks.follows:
            self.walks.listed(nodeid, walk(entries))
            self.moved = True

    def closed(self, nodeid: int, fh: int) -> None:
        """Take note that the job has closed a directory."""
        unread = self._listings.first(fh) or self._listings.unread(fh) is not None
        if not self.bare.is_by_kernel(fh) and unread:
            self.bare.closed(nodeid)
        self._listings.closed(fh)

    def looked(self, nodeid: int, found: Entries, now: float) -> None:
        """Take note that the job looks up names in a directory, and what is in it."""
        self.lookups.opened(nodeid, False, now)
        self.lookups.listed(nodeid, found)
        self.moved = True

    def look(self, nodeid: int, name: bytes, now: float) -> bool:
        """Hand what has come of a directory over to who looks a name up in it. False: nothing has."""
        listed = self._come.get(nodeid)
        self.bare.asked(nodeid, name, self.walks.follows, now)
        if listed is None or listed.until < now:
            self.moved = self.lookups.met(nodeid, now) or self.moved
            return False
        self.moved = True
        self.lookups.opened(nodeid, True, now)
        self._used(nodeid)
        self._listings.learn(nodeid, listed.entries, listed.found, listed.until)
        return True

    def waits(self, nodeid: int, waiting: Waiting) -> bool:
        """Put an OPENDIR, or a LOOKUP in it, off if the listing is under way."""
        asked = self._asked.get(nodeid)
        if asked is None:
            return False
        asked[1].append(waiting)
        return True

    def nobody_waits(self) -> None:
        """Take note that each request that was put off is asked for by itself."""
        for _, waiting in self._asked.values():
            waiting.clear()

    def next(self, now: float, leases: Leases) -> tuple[list[int], list[int], int]:
        """Return the nodes to ask for with a LIST each, those to be opened and those in which names are to be looked
        up, and of how many directories each reply is to tell.

        They are taken as asked from now on. None that is opened by its lease.
        """
        self.moved = False
        self._expire(now)
        below = min(max(self.walks.window // 8, self.lookups.window // 8, 1), LISTED_BELOW)
        walked: list[int] = []
        looked: list[int] = []
        if self._bytes < WALK_KEPT:
            room = WALK_AHEAD - len(self._asked) * below - len(self._come)
            walked = self._guess(
                self.walks, [each for each in self.walks.next(room // below) if not self._may_list(leases, each)]
            )
            room -= len(walked) * below
            looked = self._guess(self.lookups, self.lookups.next(room // below, now))
        return walked, looked, below

    def _guess(self, walks: _Guesser, nodes: list[int]) -> list[int]:
        """Take those of these nodes as asked for of which nothing is under way, nor has come."""
        found = [nodeid for nodeid in nodes if nodeid not in self._asked and nodeid not in self._come]
        self._asked.update((nodeid, (walks, [])) for nodeid in found)
        return found

    def came(
        self, nodeid: int, listed: list[tuple[int, bytes]], holds: Callable[[int], bool], now: float
    ) -> list[Waiting]:
        """Keep what of the reply to a LIST still `holds`: (node, entries) each. Return who waits for that of `nodeid`.

        Nothing `listed`: it has failed.
        """
        walks, waiting = self._asked.pop(nodeid, (self.walks, []))
        self.walks.done(nodeid)
        self.lookups.answered(nodeid, now)
        for directory, entries in listed:
            self._keep(directory, entries, holds, now + TTL, walks)
        return waiting

    def pushed(self, nodeid: int, entries: bytes, holds: Callable[[int], bool], now: float) -> None:
        """Keep what home has listed unasked, if it still `holds`."""
        self._keep(nodeid, entries, holds, now + TTL, None)

    def _keep(
        self, nodeid: int, entries: bytes, holds: Callable[[int], bool], until: float, by: _Guesser | None
    ) -> None:
        found = walk(entries)
        named = [each[2] for each in found if each[2]]
        if nodeid in self._come or nodeid in self._asked or not holds(nodeid) or not all(map(holds, named)):
            self._listings.unused += named
            return
        self._come[nodeid] = _Listed(entries, found, until, by)
        self.guesses.came += by is not None
        self._bytes += len(entries)
        for each in named:
            self._where[each] = nodeid
        self.walks.guess(nodeid)
        for walks in (self.walks, self.lookups):
            walks.listed(nodeid, found)

    def changed(self, nodeid: int) -> None:
        """Forget what was told of a node that the job changes, and what is in it."""
        self._opened.pop(nodeid, None)
        for directory in {nodeid, self._where.get(nodeid, nodeid)}:
            self._drop(directory)

    def sweep(self) -> None:
        """Forget all listings: the job changes nodes that are not known by number."""
        self.walks.disturbed()
        self.lookups.disturbed()
        self._opened.clear()
        for nodeid in list(self._come):
            self._drop(nodeid)

    def _open_until(self, nodeid: int, until: float) -> None:
        if len(self._opened) >= KNOWN_OPENED:
            self._opened.clear()
        self._opened[nodeid] = until

    def _expire(self, now: float) -> None:
        late = [nodeid for nodeid, listed in self._come.items() if listed.until < now]
        guessed_by = {walks for nodeid in late if (walks := self._come[nodeid].walk) is not None}
        for nodeid in late:
            self._drop(nodeid)
        for walks in guessed_by:
            walks.wrong()

    def _drop(self, nodeid: int) -> None:
        if nodeid in self._come:
            self._listings.unused += [each[2] for each in self._take(nodeid, again=True).found if each[2]]

    def _used(self, nodeid: int) -> None:
        self.guesses.right += self._take(nodeid).walk is not None

    def _take(self, nodeid: int, again: bool = False) -> _Listed:
        listed = self._come.pop(nodeid)
        self._bytes -= len(listed.entries)
        self.walks.done(nodeid, again)
        for each in listed.found:
            if self._where.get(each[2]) == nodeid:
                del self._where[each[2]]
        return listed
