"""Keep what a job asked for after a change until that change is done: the relay has answered the change already.

Most requests come in order and are done by one thread, so there is seldom anything to keep: a change is late when the
disk is, or when it is a large one, which small ones overtake on the link.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from remoteio.wire import fuse_abi as abi
from remoteio.wire.behind import CHANGES, MOST_HELD, MOST_HELD_BYTES, split
from remoteio.wire.frames import AFTER

TYPE_CHECKING = False
if TYPE_CHECKING:
    Payload = bytes | memoryview


def unordered(kind: int, request: Payload) -> list[Payload]:
    """Take a FUSE frame where no request waits for another; return its request. Raises ProtocolError."""
    if len(request) > abi.MAX_REQUEST:
        raise abi.FuseError("a request of %d bytes is longer than was agreed" % len(request))
    return [request]


class Ordered:
    """Lets requests through as the changes before them are done.

    begin  has a request begun by another thread, without waiting. False: none is to be had

    Threads: one receives (``take``); any does them (``done``). `_lock` is held while what was kept is
    begun, so that nothing that comes then is begun before it.
    """

    def __init__(self) -> None:
        self.begin: Callable[[Payload], bool] = lambda request: False
        self._lock = threading.Lock()
        self._done = 0
        self._numbers: dict[int, int] = {}  # unique -> the number of a change that is not done
        self._not_done: set[int] = set()  # these numbers
        self._held: dict[int, list[Payload]] = {}  # number -> what waits for that change, in the order in which it came
        self._count = self._bytes = 0  # of those

    def take(self, kind: int, payload: Payload) -> list[Payload]:
        """Take a frame, FUSE or AFTER; return its request, if it may be done now. Raises ProtocolError."""
        number, after, request = split(payload) if kind == AFTER else (0, 0, payload)
        unordered(kind, request)
        if kind != AFTER:
            return self._passes(request)
        with self._lock:
            if number:
                _, op, unique, *_ = abi.IN_HEADER.unpack_from(request)
                if op not in CHANGES:
                    raise abi.FuseError("operation %d is no change that may be answered before it is done" % op)
                if number <= self._done or number in self._not_done or unique in self._numbers:
                    raise abi.FuseError("change %d comes twice" % number)
                self._numbers[unique] = number
                self._not_done.add(number)
            return self._enter(after, request)

    def _passes(self, request: Payload) -> list[Payload]:
        """Return a request that is not in order, if it may be done now: an interrupt comes after what it interrupts."""
        if not self._held or len(request) < abi.ARGS or abi.IN_HEADER.unpack_from(request)[1] != abi.INTERRUPT:
            return [request]
        with self._lock:
            return self._enter(max(self._held, default=0), request)

    def _enter(self, after: int, request: Payload) -> list[Payload]:
        if after <= self._done:
            return [request]
        self._held.setdefault(after, []).append(request)
        self._count, self._bytes = self._count + 1, self._bytes + len(request)
        if self._count > MOST_HELD or self._bytes > MOST_HELD_BYTES:
            raise abi.FuseError("it asks for more after a change than any kernel does, and not for the change")
        return []

    def request(self, payload: Payload) -> abi.Request:
        """Read a request that may be done now, with its number if it is a change. Raises FuseError."""
        request = abi.Request(payload)
        request.number = self._numbers.get(request.unique, 0)
        return request

    def done(self, unique: int) -> list[Payload]:
        """Take note that a request has been answered; return those that the caller has to do, in their order: the next
        change, which no other thread would begin sooner; all, where nobody waits for one; and what nobody else can."""
        if unique not in self._numbers:
            return []
        with self._lock:
            number = self._numbers.pop(unique)
            if number != self._done + 1:
                raise abi.FuseError("change %d has the number of a request that is no change" % number)
            self._done = number
            self._not_done.discard(number)
            due = self._held.pop(self._done, [])
            self._count, self._bytes = self._count - len(due), self._bytes - sum(map(len, due))
            if not any(map(self._is_waited_for, due)):
                return due
            return [each for each in due if self._is_change(each) or not self.begin(each)]

    def _is_waited_for(self, request: Payload) -> bool:
        return abi.IN_HEADER.unpack_from(request)[1] not in abi.UNANSWERED and not self._is_change(request)

    def _is_change(self, request: Payload) -> bool:
        return abi.IN_HEADER.unpack_from(request)[2] in self._numbers
