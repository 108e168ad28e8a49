"""Execute side: guesses which directories a job opens next. Pure. Shipped.

Programs that walk a tree (find, du, tar, git status) open the directories that a listing named, mostly in its order and
each with all that is below it before the next. So each directory that a listing names has a place in that order, a
tuple that sorts so, and what comes next is what sorts behind the directory opened last. A program with an order of its
own (`ls -R` has the alphabet's) finds what was guessed all the same, while that is kept.

Programs that know what was there (`git status`, make, rsync) look up the names in each directory instead, in the
alphabet's order of the directories: see ``NameWalks``.

Who opens directories here and there (a python those of its modules) walks none: only those count that are beside
another that was opened, or the first or last, in the order of the listing or of the alphabet; one that is not halves
the count.

How many are guessed, the window, is learned: it doubles when the job opens a directory of the walk that has not come,
and is halved when one was listed in vain. On a network without delay it stays small by itself.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable

from remoteio.wire.coherence import TTL, WALK_HITS, WALK_KNOWN, WALK_WINDOW
from remoteio.wire.listed import DIRECTORY, Entries

TYPE_CHECKING = False
if TYPE_CHECKING:
    _Place = tuple["int | bytes", ...]


_MOST_HITS = 8  # that count: who stops walking is soon taken for one who does not


class _Learned:
    """How many directories are guessed, and whether the job is taken to walk at all."""

    def __init__(self) -> None:
        self._hits = self.window = 0

    def wrong(self) -> None:
        """Take note that something was listed in vain."""
        self.window //= 2

    def sent(self) -> None:
        """Take note that home lists by itself what comes next: no more is to be guessed while that is right."""
        self.window = 0

    def disturbed(self) -> None:
        """Take note that the job goes elsewhere, or changes names, so that what it is told ahead would not hold."""
        self._hits = 0


class Walks(_Learned):
    """Knows the directories that the job was told of, which of them it has come to, and which were guessed."""

    def __init__(self) -> None:
        super().__init__()
        self._places: dict[int, _Place] = {}  # of each directory that was named, by nodeid
        self._order: list[tuple[_Place, int]] = []  # those that are neither opened nor guessed yet
        self._guessed: list[tuple[_Place, int]] = []  # those that are asked for, or have come and are not opened
        self._beside: dict[int, tuple[int, ...]] = {}  # which are beside each one that is named; 0: the end
        self._opened: set[int] = set()
        self._at: _Place = ()
        self._named = 0

    def opened(self, nodeid: int, had: bool) -> None:
        """Take note that the job opens a directory. `had`: its listing had come."""
        place = self._places.get(nodeid)
        if place is None:  # where another walk may begin
            self._named += 1
            self._places[nodeid] = (self._named,)
            return
        self._at = place
        _remove(self._order, (place, nodeid))
        follows = any(not each or each in self._opened for each in self._beside.get(nodeid, (0,)))
        self._opened.add(nodeid)
        self._hits = min(self._hits + 1, _MOST_HITS) if follows else self._hits // 2
        if not had and self._hits >= WALK_HITS:
            self.window = min(max(2 * self.window, 2), WALK_WINDOW)

    @property
    def follows(self) -> bool:
        """Whether the job is taken to walk a tree."""
        return self._hits >= WALK_HITS

    def above(self, nodeid: int) -> bool:
        """Say whether the job is below that directory: `find` opens it again to go back there."""
        place = self._places.get(nodeid)
        return place is not None and len(place) < len(self._at) and self._at[: len(place)] == place

    def listed(self, nodeid: int, found: Entries) -> None:
        """Take note of entries of a directory, in the order in which they are listed: all, or some behind others."""
        place, places = self._places.get(nodeid), self._places
        named = {each: name for _, _, each, name, _, kind in found if kind == DIRECTORY and each}
        within = list(named)
        if place is None or not within:
            return
        new = [each for each in within if each not in places]
        if len(places) + len(new) > WALK_KNOWN:
            self.forget()  # the walk goes on where the job opens the next
            return
        if len(new) < len(within):
            self._again(each for each in within if each in places)
        if new:
            placed = [((*place, k), each) for k, each in enumerate(new, self._named + 1)]
            self._named += len(placed)
            places.update((each, its) for its, each in placed)
            at = bisect_left(self._order, placed[0])
            self._order[at:at] = placed
            self._beside.update((each, ()) for each in within)
            for row in (within, sorted(within, key=named.__getitem__)):
                for before, each, after in zip([0, *row], row, [*row[1:], 0]):
                    self._beside[each] += before, after

    def _again(self, nodes: Iterable[int]) -> None:
        """Take these for those that the job may come to once more: the directory that they are in was listed anew."""
        for nodeid in nodes:
            its = self._places[nodeid], nodeid
            if not (_is_in(self._order, its) or _is_in(self._guessed, its)):
                insort(self._order, its)

    def next(self, most: int) -> list[int]:
        """Return which directories to guess now, `most` at the most."""
        if not self.follows:
            return []
        order, guessed, here = self._order, self._guessed, (self._at, 0)
        found: list[tuple[_Place, int]] = []
        first = at = bisect_right(order, here)
        begin = ahead = bisect_right(guessed, here)
        # What is nearer than others that were guessed is guessed all the same: it is needed before them.
        while at < len(order) and len(found) < most:
            ahead = bisect_left(guessed, order[at], ahead)
            if ahead - begin + len(found) >= self.window:
                break
            found.append(order[at])
            at += 1
        del order[first:at]
        for each in found:
            insort(guessed, each)
        return [nodeid for _, nodeid in found]

    def guess(self, nodeid: int) -> None:
        """Take note that a directory has come with another."""
        place = self._places.get(nodeid)
        if place is not None:
            _remove(self._order, (place, nodeid))
            insort(self._guessed, (place, nodeid))

    def done(self, nodeid: int, again: bool = False) -> None:
        """Take note that a guess is neither under way nor kept any more. `again`: it may be guessed once more."""
        place = self._places.get(nodeid)
        if place is not None and _remove(self._guessed, (place, nodeid)) and again:
            insort(self._order, (place, nodeid))

    def forget(self) -> None:
        """Forget all places: whatever the job opens next is where another walk begins."""
        self._places.clear()
        self._order.clear()
        self._guessed.clear()
        self._beside.clear()
        self._opened.clear()
        self._at = ()


class NameWalks(_Learned):
    """The same for directories in which names are looked up, and for the alphabet's order of their names.

    Compilers and interpreters look names up in directories too, in no order. So here only those count that come right
    behind another in which names were looked up: wherever that is, as `git status` has several threads.
    """

    def __init__(self) -> None:
        super().__init__()
        self._places: dict[int, _Place] = {}  # of each directory that was named, by nodeid
        self._order: list[tuple[_Place, int]] = []  # all of them
        self._before: dict[int, int] = {}  # of each directory, the one before it; of the first, that in which it is
        self._entered: dict[int, float] = {}  # when the job came to it, or home answered a guess of it
        self._at: _Place = ()
        self._roots = 0

    def opened(self, nodeid: int, had: bool, now: float) -> None:
        """Take note that the job looks up names in a directory. `had`: its listing had come."""
        place, before = self._places.get(nodeid), self._before.get(nodeid)
        follows = had or before in self._entered
        self._entered[nodeid] = now
        if place is None:  # where another walk may begin
            self._roots += 1
            self._places[nodeid] = (self._roots,)
            return
        self._at = place
        if not follows:
            self.disturbed()
            return
        first = before is not None and len(self._places[before]) < len(place)
        if had or not first:  # who goes down along a path comes to the first of a directory too
            self._hits += 1
        if not had and self._hits >= WALK_HITS:
            self.window = min(max(2 * self.window, 2), WALK_WINDOW)

    def met(self, nodeid: int, now: float) -> bool:
        """Say whether a directory of which nothing has come is where the walk goes on; then it is taken for opened."""
        fresh = now - self._entered.get(nodeid, -TTL) >= TTL
        if self._hits < WALK_HITS or not fresh or self._before.get(nodeid) not in self._entered:
            return False
        self.opened(nodeid, False, now)
        return True

    def listed(self, nodeid: int, found: Entries) -> None:
        """Take note of all entries of a directory."""
        place, places = self._places.get(nodeid), self._places
        new = [(name, each) for _, _, each, name, _, kind in found if kind == DIRECTORY and each and each not in places]
        if place is None or not new:
            return
        if len(places) + len(new) > WALK_KNOWN:
            self.forget()
            return
        before = nodeid
        for name, each in sorted(new):
            places[each] = its = (*place, name)
            insort(self._order, (its, each))
            self._before[each], before = before, each

    def next(self, most: int, now: float) -> list[int]:
        """Return which directories to guess now, `most` at the most; they may have been asked for already."""
        if self._hits < WALK_HITS:
            return []
        at = bisect_right(self._order, (self._at, 0))
        ahead = [nodeid for _, nodeid in self._order[at : at + self.window]]
        return [nodeid for nodeid in ahead if now - self._entered.get(nodeid, -TTL) >= TTL][: max(most, 0)]

    def answered(self, nodeid: int, now: float) -> None:
        """Take note that home has answered a guess: if it is not kept, it is not to be asked for again at once."""
        if nodeid in self._places:
            self._entered[nodeid] = now

    def forget(self) -> None:
        """Forget all places, and where the job was."""
        self._places.clear()
        self._order.clear()
        self._before.clear()
        self._entered.clear()
        self._at = ()


def _is_in(places: list[tuple[_Place, int]], which: tuple[_Place, int]) -> bool:
    at = bisect_left(places, which)
    return at < len(places) and places[at] == which


def _remove(places: list[tuple[_Place, int]], which: tuple[_Place, int]) -> bool:
    at = bisect_left(places, which)
    if at == len(places) or places[at] != which:
        return False
    del places[at]
    return True
