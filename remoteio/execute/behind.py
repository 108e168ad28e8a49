"""Execute side: changes that the kernel is told are done before home has done them. Shipped.

That is right as long as nobody can see a world in which they were not done (docs/consistency.md):

* home does them in the order in which they were answered, and nothing that was asked for later before them: each has a
  number, and what goes out while one is under way says which it comes after (remoteio/wire/behind.py);
* what the job says waits until home has done all before (``settle``): its output, that it stopped, its end;
* what home could not do after all is told by the next call on that file, by fsync(2) and, if there was none, with the
  job's end (``told``, ``untold``).

What is answered so is in ``answers``.

No more than ROOM of them, and ROOM_SIZE, are under way: the answer to what is too much waits for those
before, though it has been sent. What is sent is bounded too (`sent`), since home has to keep it.
"""

from __future__ import annotations

import errno
import threading
from collections import deque

from remoteio.execute.answers import Answers
from remoteio.execute.joined import joined
from remoteio.execute.sent import Sent
from remoteio.wire import fuse_abi as abi
from remoteio.wire.behind import HEAD, ROOM, ROOM_SIZE
from remoteio.wire.coherence import KNOWN_NODES
from remoteio.wire.frames import AFTER, FUSE
from remoteio.wire.link import Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remoteio.execute.known import Asked

_O_ACCMODE, _O_TRUNC = 0o3, 0o1000  # asm-generic/fcntl.h
# what cannot see a change of another node
_FREE = frozenset((abi.READ, abi.READLINK, abi.GETXATTR, abi.LISTXATTR, abi.LSEEK, abi.OPEN))
_BY_HANDLE = (abi.READ, abi.LSEEK)
TELL = frozenset((abi.FSYNC, abi.FLUSH, abi.FALLOCATE))  # tell also what has failed since they were asked for
_BODY, _HEAD = abi.OUT_HEADER.size, abi.ARGS + abi.SETATTR_IN.size
_NAMED = abi.ARGS + abi.CREATE_IN.size + 2 * 256  # bytes that are kept of a request that makes, or moves, a name


class Change:
    """A change under way.

    number, size  in its order; in bytes
    node          which it is of; that of what it makes, if it makes something
    asked         as ``relay`` has it, but for what is written
    answer        what the kernel is still to be told, b"" if it was
    """

    __slots__ = ("answer", "asked", "node", "number", "size")

    def __init__(self, number: int, size: int, asked: Asked, answer: bytes, node: int) -> None:
        self.number, self.size, self.asked, self.answer, self.node = number, size, asked, answer, node


class Behind:
    """Answers changes, and sends requests in their order.

    answers  what may be answered, and how
    sent     bounds what is sent

    Threads: any. `_turn` guards all, and is held for no call that waits. ``send`` looks without it whether anything is
    under way: what the asking program relies on is, since the kernel was answered after it had been entered.
    """

    def __init__(self, link: Link) -> None:
        self.answers, self.sent = Answers(), Sent()
        self._link = link
        self._turn = threading.Condition()
        self._changes: dict[int, Change] = {}  # unique -> under way, in their order
        self._waiting: deque[int] = deque()  # of these, those whose answer waits
        self._nodes: dict[int, int] = {}  # node -> how many of them are of it
        self._last = self._answered = 0  # numbers: the last given, and the last that the kernel knows of
        self._bytes = 0  # of those that the kernel knows of
        self._failed: dict[int, tuple[int, int]] = {}  # node -> operation and errno(3), until a call is told

    def at_close(self, fh: int, nodeid: int) -> bool:
        """Say whether a close waits until all is at home."""
        return self.answers.plenty(fh) and nodeid in self._nodes

    def done(self) -> int:
        """Return the number of the last change such that it and all before it are done at home."""
        with self._turn:
            return next((each.number - 1 for each in self._changes.values()), self._last)

    def oldest(self) -> int:
        """Return the stamp of the first change that is not done at home; 0: all are."""
        with self._turn:
            return next((each.asked[3] for each in self._changes.values()), 0)

    def next(self) -> int:
        """Return the number of the change that is entered next."""
        return self._last + 1

    def entered(self, unique: int, asked: Asked, answer: bytes, made: int = 0) -> tuple[int, bytes]:
        """Give a change its number; return that, and what the kernel is to be told once it is sent (b"": nothing).

        `made`: the node of what it makes, moves, or removes.
        """
        size = len(asked[5])
        op, nodeid, pid, stamp, at, raw = asked
        with self._turn:
            self._last += 1
            waits = not self._fits(size)
            asked, node = (op, nodeid, pid, stamp, at, bytes(raw[: _NAMED if made else _HEAD])), made or nodeid
            change = Change(self._last, size, asked, answer if waits else b"", node)
            self._nodes[node] = self._nodes.get(node, 0) + 1
            if waits:
                self._waiting.append(unique)
            else:
                self._bytes, self._answered = self._bytes + size, self._last
            self._changes[unique] = change
            return change.number, b"" if waits else answer

    def joins(self, asked: Asked) -> bool:
        """Have a SETATTR done with the change before it: that is one of the same node, and has not gone. False: it is
        to be ``entered``.

        The link's lock is taken here under the relay's, and the other way round where a link is renewed; but changes of
        a job whose home may be renewed are not answered (--checkpoint).
        """
        op, nodeid, pid, stamp, at, raw = asked
        with self._turn:
            change = next(reversed(self._changes.values()), None)
            if change is None or change.number != self._last or change.answer or change.asked[:2] != (op, nodeid):
                return False
            was, head = change.asked[5], HEAD.pack(change.number, change.number - 1)
            both = joined(was, raw)
            if both is None or not self._link.amend(AFTER, head + bytes(was), head + both):
                return False
            change.asked = op, nodeid, pid, stamp, at, both
            return True

    def _fits(self, size: int) -> bool:
        return len(self._changes) - len(self._waiting) < ROOM and self._bytes + size <= ROOM_SIZE

    def send_change(self, number: int, raw: bytes | memoryview) -> None:
        """Send a change that was entered. Raises LinkClosed."""
        self.sent.sends(raw)
        self._link.send(AFTER, HEAD.pack(number, number - 1), raw, later=True)

    def send(self, raw: bytes | memoryview, later: bool = False) -> None:
        """Send any other request: after all that the kernel takes for done; `later`: nobody waits for it. Raises
        LinkClosed."""
        after = self._after(raw) if self._changes else 0
        if after:
            self.sent.sends(raw)
            self._link.send(AFTER, HEAD.pack(0, after), raw, later=later)
        else:
            self._link.send(FUSE, raw, later=later)

    def _after(self, raw: bytes | memoryview) -> int:
        _, op, _, nodeid, *_ = abi.IN_HEADER.unpack_from(raw)
        with self._turn:
            free = op in _FREE and nodeid not in self._nodes
            if free and op == abi.OPEN:
                free = not abi.OPEN_IN.unpack_from(raw, abi.ARGS)[0] & (_O_ACCMODE | _O_TRUNC)
            elif free and op in _BY_HANDLE:  # what home is told to open before comes after all
                free = abi.HANDLE.unpack_from(raw, abi.ARGS)[0] < abi.OWN
            return 0 if free else self._answered

    def change(self, unique: int) -> Change | None:
        """Return the change of that number of the kernel's, if it is under way."""
        return self._changes.get(unique)

    def interrupted(self, unique: int) -> bytes:
        """Return the answer that the kernel waits for, though there is no room; b"": it has it, or knows no such."""
        with self._turn:
            return self._let_go(unique) if unique in self._waiting else b""

    def replied(
        self, unique: int, error: int, payload: bytes | memoryview
    ) -> tuple[Change | None, list[tuple[int, bytes]]]:
        """Take home's reply to a change. Return it, if it has failed; and what the kernel is to be told now, each with
        its operation."""
        self.sent.answered(unique)
        with self._turn:
            change = self._changes.pop(unique, None)
            if change is None:
                return None, []
            op, *_, raw = change.asked
            nodeid = change.node
            self._nodes[nodeid] -= 1
            if not self._nodes[nodeid]:
                del self._nodes[nodeid]
            if not error and op == abi.WRITE:
                written = abi.WRITE_OUT.unpack_from(payload, _BODY)[0]
                error = -errno.ENOSPC if written < abi.WRITE_IN.unpack_from(raw, abi.ARGS)[2] else 0
            told = []
            if change.answer:
                self._waiting.remove(unique)
                told.append((op, bytes(payload) if error else change.answer))
            else:
                self._bytes -= change.size
                if error and len(self._failed) < KNOWN_NODES:  # the first stand for all: the job's end tells of one
                    self._failed.setdefault(nodeid, (op, -error))
            while self._waiting and self._fits(self._changes[self._waiting[0]].size):
                op = self._changes[self._waiting[0]].asked[0]
                told.append((op, self._let_go(self._waiting[0])))
            self._turn.notify_all()
            return (change if error else None), told

    def _let_go(self, unique: int) -> bytes:
        change = self._changes[unique]
        self._waiting.remove(unique)
        self._bytes += change.size
        self._answered = max(self._answered, change.number)
        answer, change.answer = change.answer, b""
        return answer

    def settle(self) -> None:
        """Wait until home has done all that the kernel was told is done."""
        if not self._changes:
            return
        self._link.push()
        with self._turn:
            last = self._answered
            self._turn.wait_for(lambda: self.has_done(last))

    def admit(self, number: int) -> None:
        """Wait until a change that was entered counts as answered: what is asked for from then on comes after it."""
        with self._turn:
            self._turn.wait_for(lambda: self._answered >= number or self.has_done(number))

    def has_done(self, last: int) -> bool:
        """Say whether home has done the change of that number, and so all before."""
        return not self._changes or next(iter(self._changes.values())).number > last

    # what has failed

    def told(self, op: int, nodeid: int, unseen: bool = False) -> int:
        """Return the error that an operation on that node is to be told; 0: there is none.

        Once, but for what may be `unseen`, and for a close: nobody may look at what that says, as when a process ends.
        """
        if not self._failed:
            return 0
        with self._turn:
            take = self._failed.get if unseen or op == abi.FLUSH else self._failed.pop
            return take(nodeid, (0, 0))[1]

    def untold(self) -> tuple[int, int] | None:
        """Return the operation and the error of the first change that failed and of which no call was told."""
        return next(iter(self._failed.values()), None)
