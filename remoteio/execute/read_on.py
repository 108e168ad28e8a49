"""Execute side: large files that are read from one end to the other are asked for ahead of the kernel. Pure. Shipped.

The kernel reads ahead too, as far as it is allowed to: 128 KiB where an ordinary user has mounted, which is all that is
under way in a round trip then. So who has read a file for a while is read on for (``next``): as far as he has read
already, but no more than the link carries in a round trip or two, nor than MOST. How much that is, is measured as in
``pace``. Nothing is read on where home is near.

What has come answers the kernel's READs of it, each byte once; who asks for what is under way waits for it. It is used
for coherence.TTL from when it was asked for, as all that is told of a file, and not if the job, or somebody at home,
changes the file meanwhile. The last part of a file is left to the kernel to ask for: where it ends, home says.

A handle is not closed at home while something is under way that names it (``closes``).

The caller tells the time, and sees to it that one thread at a time is here (``relay.Relay._order``).
"""

from __future__ import annotations

from collections import OrderedDict, deque

from remoteio.execute.counts import Guesses
from remoteio.wire import fuse_abi as abi
from remoteio.wire.coherence import TTL

AFTER = 2 << 20
"""Bytes of a file that are read in its order before the next are asked for."""

MOST = 8 << 20
"""Bytes that are under way or have come, and that the kernel has not asked for, of all files together."""

EACH = 4 << 20
"""Bytes of those of one file: what ssh has under way, of 2 MiB, and what home has ready behind that."""

PIECE = 256 << 10
"""Bytes that are asked for at once, or as many as the kernel asks for."""

FILES = 16
"""Files that are known to be read in their order."""

_NOT = 0o3 | 0o40000  # flags of who may write the file, or reads past the kernel's pages: O_ACCMODE, O_DIRECT
_TURNED = 4  # READs: the kernel's, or two threads of the relay, may turn some round
_GAIN = 2.0  # times what the link carries in a round trip
_ARRIVALS = 64  # of which it is known when they came

Waiting = tuple[int, bytes]  # the number of a READ, and it whole


class _Piece:
    __slots__ = ("asked", "begin", "data", "end", "left")

    def __init__(self, begin: int, end: int, asked: float) -> None:
        self.begin, self.end, self.asked = begin, end, asked
        self.left = end - begin  # bytes that the kernel has not asked for
        self.data: memoryview | None = None


class _File:
    __slots__ = ("at", "fh", "pieces", "read", "size", "until", "waiting")

    def __init__(self) -> None:
        self.fh = self.size = 0  # as the last READ has them
        self.at = self.read = 0  # how far it was read, and how much of it in its order
        self.until = 0  # up to where it was asked for
        self.pieces: list[_Piece] = []  # in their order
        self.waiting: list[Waiting] = []

    def holds(self, begin: int, end: int, coming: bool) -> list[_Piece] | None:
        """List the pieces that have all of that; `coming`: or will have it. None: it is not all here."""
        found = []
        for piece in self.pieces:
            if begin < end and piece.begin <= begin < piece.end:
                if piece.data is None and not coming:
                    return None
                found.append(piece)
                begin = min(piece.end, end)
        return found if begin == end else None


class ReadOn:
    """Knows what to ask for ahead of the kernel, and keeps it.

    moved     something is to be done: ``ready``, ``next``
    released  who waited for what does not come
    guesses   how many pieces came, and were used
    """

    def __init__(self) -> None:
        self.moved = False
        self.released: list[Waiting] = []
        self.guesses = Guesses()
        self._files: OrderedDict[int, _File] = OrderedDict()  # by nodeid, the one read last behind
        self._asked: dict[int, tuple[int, int, _Piece]] = {}  # unique -> nodeid, handle, what it asks for
        self._closing: dict[int, bytes] = {}  # handle -> the RELEASE that waits
        self._ready: list[tuple[int, list[memoryview]]] = []
        self._bytes = 0  # of all pieces
        self._come: deque[tuple[float, int]] = deque(((0.0, 0),), _ARRIVALS)  # when how many bytes had ever come
        self._rate = 0.0  # the most that came in a second

    # what the kernel asks for

    def waits(self, nodeid: int, waiting: Waiting, now: float) -> bool:
        """Take note of a READ; whether it is answered here, now (``ready``) or when what it asks for has come."""
        fh, offset, size, _, _, flags, _ = abi.READ_IN.unpack_from(waiting[1], abi.ARGS)
        if flags & _NOT or not size:
            return False
        file = self._files.get(nodeid)
        if file is None:
            file = self._files[nodeid] = _File()
            file.at = offset
            while len(self._files) > FILES:
                self._forget(next(iter(self._files)))
        self._files.move_to_end(nodeid)
        if not -_TURNED * size <= offset - file.at <= 2 * size:
            self._drop(file)
            file.at, file.read = offset, 0
        file.fh, file.size = fh, size
        file.at, file.read = max(file.at, offset + size), file.read + size
        self.moved = self.moved or file.read >= AFTER
        self._expire(file, now)
        if file.holds(offset, offset + size, True) is None:
            return False
        file.waiting.append(waiting)
        self._serve(file)
        return True

    def next(self, trip: float, locked: set[int]) -> list[tuple[int, int, int]]:
        """Return what to ask for where a round trip takes so long: node, offset, size.

        Each is to be ``asked``, unless it is here already. Those `locked` are left alone.
        """
        nodeid, file = next(reversed(self._files.items()), (0, None))
        if file is None or file.read < AFTER or nodeid in locked:
            return []
        found: list[tuple[int, int, int]] = []
        last = file.at + min(file.read, EACH, int(_GAIN * self._rate * trip))
        begin, step, room = max(file.until, file.at), max(file.size, PIECE), MOST - self._bytes
        while begin + step <= last and step <= room:
            found.append((nodeid, begin, step))
            begin, room = begin + step, room - step
            file.until = begin
        return found

    def asked(self, nodeid: int, offset: int, size: int) -> int:
        """Return the handle by which that is to be asked for; 0: it is wanted no more."""
        file = self._files.get(nodeid)
        return file.fh if file is not None and file.until >= offset + size else 0

    def asks(self, unique: int, nodeid: int, offset: int, size: int, now: float) -> None:
        """Take note of what is asked for."""
        file = self._files[nodeid]
        piece = _Piece(offset, offset + size, now)
        file.pieces.append(piece)
        self._bytes += size
        self._asked[unique] = nodeid, file.fh, piece

    # what comes

    def came(self, unique: int, data: memoryview, holds: bool, now: float) -> bytes | None:
        """Keep what came of what was asked for; empty: it has failed. Return the RELEASE that has waited for it."""
        nodeid, fh, piece = self._asked.pop(unique)
        self.arrived(len(data), piece.asked, now)
        file = self._files.get(nodeid)
        if file is not None and piece in file.pieces:
            if holds and len(data) == piece.end - piece.begin:
                self.guesses.came += 1
                piece.data = data
                self._serve(file)
            else:
                self._drop(file)
                file.read = 0
        return None if self._names(fh) else self._closing.pop(fh, None)

    def arrived(self, size: int, asked: float, now: float) -> None:
        """Take note that so many bytes came of what was asked for then."""
        come = self._come[-1][1] + size
        before = next((each for when, each in reversed(self._come) if when <= asked), self._come[0][1])
        self._come.append((now, come))
        self._rate = max(self._rate, (come - before) / max(now - asked, 1e-6))

    def ready(self) -> list[tuple[int, list[memoryview]]]:
        """Return the numbers of the READs that can be answered, and with what."""
        self.moved = False
        ready, self._ready = self._ready, []
        return ready

    def _serve(self, file: _File) -> None:
        waiting, file.waiting = file.waiting, []
        for each in waiting:
            _, offset, size, *_ = abi.READ_IN.unpack_from(each[1], abi.ARGS)
            found = file.holds(offset, offset + size, False)
            if found is None:
                file.waiting.append(each)
            else:
                self._ready.append((each[0], [self._part(piece, offset, offset + size) for piece in found]))
                self.moved = True
        # what the kernel had already, and what nobody waits for
        first = min((abi.READ_IN.unpack_from(raw, abi.ARGS)[1] for _, raw in file.waiting), default=file.at)
        old = min(file.at - _TURNED * file.size, first)
        for piece in [each for each in file.pieces if each.end <= old or not (each.left or file.waiting)]:
            file.pieces.remove(piece)
            self._bytes -= piece.end - piece.begin

    def _part(self, piece: _Piece, begin: int, end: int) -> memoryview:
        assert piece.data is not None
        part = piece.data[max(begin - piece.begin, 0) : end - piece.begin]
        piece.left = max(piece.left - len(part), 0)
        self.guesses.right += not piece.left
        return part

    # what is wanted no more

    def closes(self, fh: int, raw: bytes) -> bool:
        """Take note that the kernel closes a handle; whether its RELEASE waits for what is under way and names it."""
        for nodeid in [each for each, file in self._files.items() if file.fh == fh]:
            self._forget(nodeid)
        if not self._names(fh):
            return False
        self._closing[fh] = raw
        return True

    def _names(self, fh: int) -> bool:
        return any(each == fh for _, each, _ in self._asked.values())

    def changed(self, nodeid: int) -> None:
        """Forget what has come of a file that somebody changes, or opens."""
        file = self._files.get(nodeid)
        if file is not None:
            self._drop(file)

    def clear(self) -> None:
        """Forget what has come of all files."""
        for file in self._files.values():
            self._drop(file)

    def nobody_waits(self) -> None:
        """Take note that each READ that waits is asked for by itself."""
        self.clear()
        self.released.clear()

    def expire(self, now: float) -> None:
        """Forget what has not been asked for in time."""
        for file in self._files.values():
            self._expire(file, now)

    def _expire(self, file: _File, now: float) -> None:
        if any(piece.asked + TTL < now for piece in file.pieces):
            self._drop(file)
            file.read = 0

    def _forget(self, nodeid: int) -> None:
        self._drop(self._files.pop(nodeid))

    def _drop(self, file: _File) -> None:
        self._bytes -= sum(piece.end - piece.begin for piece in file.pieces)
        file.pieces.clear()
        file.until = 0
        self.released += file.waiting
        file.waiting.clear()
