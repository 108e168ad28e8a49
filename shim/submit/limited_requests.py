"""Limit what a host has asked for and not taken: that is in the memory of this machine, and a request is short."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from remoteio.errors import ProtocolError
from remoteio.wire import fuse_abi

Payload = bytes | memoryview

AT_ONCE = 64  # requests let in together: as many as Linux has under way for which no program waits
MOST_UNTAKEN = 256 << 20  # bytes of answers that wait to be sent, and of requests that take long
MOST_ASIDE = 1 << 30  # bytes of requests that are let in later
_OBJECT = 128  # bytes that each of them takes beside its own


class LimitedRequests:
    """Lets in requests for files, in order, as long as what was answered is taken; others are put aside.

    The link is read on meanwhile: signs of life, and what ends a wait for a lock, come by it too.

    Threads: the session's leader alone.
    """

    def __init__(
        self, receive: Callable[[], list[Payload]], queued: Callable[[], int], busy: Callable[[], int]
    ) -> None:
        """`receive` waits for requests; `queued`: bytes that wait to be sent; `busy`: requests that take long now."""
        self._receive, self._queued, self._busy = receive, queued, busy
        self._aside: deque[Payload] = deque()
        self._bytes = 0

    def receive(self) -> list[Payload]:
        """Return requests that may be answered now, perhaps none. Raises ProtocolError when too many are put aside."""
        if self._aside and not self._full():
            return self._let_in()
        requests = self._receive()
        if self._aside or len(requests) > AT_ONCE or (requests and self._full()):
            return self._put_aside(requests)
        return requests

    def _full(self) -> bool:
        return self._queued() + self._busy() * fuse_abi.MAX_WRITE > MOST_UNTAKEN

    def _let_in(self) -> list[Payload]:
        found = [self._aside.popleft() for _ in range(min(AT_ONCE, len(self._aside)))]
        self._bytes -= sum(len(payload) + _OBJECT for payload in found)
        return found

    def _put_aside(self, requests: list[Payload]) -> list[Payload]:
        """Return those of them that are not answered, and perhaps some of the others."""
        at_once = []
        for payload in requests:
            if len(payload) < fuse_abi.ARGS or fuse_abi.IN_HEADER.unpack_from(payload)[1] in fuse_abi.UNANSWERED:
                at_once.append(payload)
            else:
                self._aside.append(payload)
                self._bytes += len(payload) + _OBJECT
        if self._bytes > MOST_ASIDE:
            raise ProtocolError("it asks for more at once than any kernel does, and takes none of the answers")
        return at_once if self._full() else at_once + self._let_in()
