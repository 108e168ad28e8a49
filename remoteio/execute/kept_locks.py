"""Execute side: files whose locks home has left to this host, as nobody there has them open. Pure. Shipped.

Home has then locked the whole of such a file, for the one process of the job that has locked some of it
(``wire.behind.WHOLE``). What this process locks and unlocks from then on is known here, and need not travel. Before
anybody can tell the difference home is told what is locked (``leave``, ``left``):

* when somebody at home opens the file, or another process of the job asks for a lock on it;
* before the job says something, or changes what does not lie beside the file;
* after IDLE in which the job asks for nothing, and after LONGEST in any case: should home have missed that somebody
  opened it.

The caller sees to it that one thread at a time is here (``relay.Relay._order``).
"""

from __future__ import annotations

from remoteio.wire import fuse_abi as abi

IDLE = 0.2  # seconds
LONGEST = 1.0
F_RDLCK, F_WRLCK, F_UNLCK = 0, 1, 2
END = (1 << 63) - 1  # of each file

TYPE_CHECKING = False
if TYPE_CHECKING:
    Range = tuple[int, int, int]  # first, last, kind
    Key = tuple[int, int]  # node and owner


class _Kept:
    """A file whose locks are left to this host, for one `owner`. `leaves`: they are about to be home's again."""

    __slots__ = ("fh", "leaves", "owner", "since")

    def __init__(self, owner: int, fh: int, now: float) -> None:
        self.owner, self.fh, self.since = owner, fh, now
        self.leaves = False


class KeptLocks:
    """Keeps which record locks the job holds, and whose are left to this host."""

    def __init__(self) -> None:
        self._held: dict[Key, list[Range]] = {}
        self._through: dict[int, set[Key]] = {}  # handle -> whose locks were asked for by it
        self._kept: dict[int, _Kept] = {}
        self._lost: dict[int, float] = {}  # node -> when home said that others have opened it
        self._left: dict[int, float] = {}  # node -> when it was home's again
        self._worked = 0.0  # when the job last asked for anything

    def __bool__(self) -> bool:
        return bool(self._kept)

    def has(self, nodeid: int) -> bool:
        """Say whether the locks on a file are left to this host."""
        return nodeid in self._kept

    def answer(self, op: int, nodeid: int, raw: bytes | memoryview, now: float) -> bool:
        """Lock or unlock, if that is for this host to do. False: home is to be asked."""
        kept = self._kept.get(nodeid)
        if kept is None or kept.leaves or op == abi.GETLK:
            return False
        _, owner, *_, flags, _ = abi.LK_IN.unpack_from(raw, abi.ARGS)
        if flags & abi.LK_FLOCK or owner != kept.owner:
            return False
        self._set(nodeid, raw)
        self._worked = now
        return True

    def replied(self, nodeid: int, raw: bytes | memoryview, whole: bool, asked: float, now: float) -> bool:
        """Take note that home has locked or unlocked what was `asked` for then, and perhaps the `whole` file for us.

        False: that is to be home's again at once, as somebody has opened the file meanwhile.
        """
        fh, owner, _, _, _, _, flags, _ = abi.LK_IN.unpack_from(raw, abi.ARGS)
        if flags & abi.LK_FLOCK:
            return True
        self._set(nodeid, raw)
        if whole:
            self._kept[nodeid], self._worked = _Kept(owner, fh, now), now
        return not whole or self._lost.get(nodeid, -1.0) < asked

    def was(self, nodeid: int, asked: float) -> bool:
        """Say whether home may have refused a lock that was `asked` for then since it had left them to this host."""
        return nodeid in self._kept or self._left.get(nodeid, 0.0) >= asked

    def lost(self, nodeid: int, now: float) -> None:
        """Take note that others have opened the file: what was asked for before leaves nothing to this host."""
        self._lost[nodeid] = now

    def due(self, now: float) -> bool:
        """Say whether any were left to this host for as long as they may be."""
        return any(now - self._worked >= IDLE or now - each.since >= LONGEST for each in self._kept.values())

    def at_work(self, now: float) -> None:
        """Take note that the job has asked for something."""
        self._worked = now

    def leave(self) -> list[int]:
        """Answer no more; list the nodes that are to be home's again, once their pages are written out."""
        for kept in self._kept.values():
            kept.leaves = True
        return list(self._kept)

    def left(self, nodes: list[int], now: float) -> list[tuple[int, bytes]]:
        """Take note that these are home's again; list what it is to do for that: nodes, and struct fuse_lk_in each."""
        plan: list[tuple[int, bytes]] = []
        for nodeid in nodes:
            kept = self._kept.pop(nodeid, None)
            if kept is not None:
                self._left[nodeid] = now
                plan += [
                    (nodeid, abi.LK_IN.pack(kept.fh, kept.owner, first, last, kind, 0, 0, 0))
                    for first, last, kind in _weaker(self._held.get((nodeid, kept.owner), []))
                ]
        return plan

    def flushed(self, nodeid: int, owner: int) -> None:
        """Take note that a process has closed the file, and so has no locks on it any more: home is told so."""
        self._held.pop((nodeid, owner), None)
        kept = self._kept.get(nodeid)
        if kept is not None and kept.owner == owner:
            del self._kept[nodeid]

    def closed(self, fh: int) -> None:
        """Take note that nobody has that handle any more, nor what was locked through it."""
        for nodeid, owner in self._through.pop(fh, ()):
            self.flushed(nodeid, owner)

    def _set(self, nodeid: int, raw: bytes | memoryview) -> None:
        fh, owner, first, last, kind, *_ = abi.LK_IN.unpack_from(raw, abi.ARGS)
        key = nodeid, owner
        held: list[Range] = []
        for a, b, had in self._held.get(key, ()):
            if b < first or last < a:
                held.append((a, b, had))
            else:
                held += [(a, first - 1, had)] * (a < first) + [(last + 1, b, had)] * (last < b)
        if kind != F_UNLCK:
            held.append((first, last, kind))
        if held:
            self._held[key] = sorted(held)
            self._through.setdefault(fh, set()).add(key)
        else:
            self._held.pop(key, None)


def _weaker(held: list[Range]) -> list[Range]:
    """What a whole file that is locked for writing is to be: unlocked where nothing is held, or locked for reading."""
    plan: list[Range] = []
    at = 0
    for first, last, kind in held:
        if at < first:
            plan.append((at, first - 1, F_UNLCK))
        if kind == F_RDLCK:
            plan.append((first, last, kind))
        at = last + 1
    return [*plan, (at, END, F_UNLCK)] if at <= END else plan
