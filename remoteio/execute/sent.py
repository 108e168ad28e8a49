"""Execute side: how much of what home may have to keep, until a change before it is done, is under way. Shipped."""

from __future__ import annotations

import threading

from remoteio.wire import fuse_abi as abi
from remoteio.wire.behind import ROOM_SENT, SMALL


class Sent:
    """Bounds the bytes of requests that are sent in order and not answered by home.

    What is SMALL is not counted, and waits for nothing.

    Threads: any, under the lock of `_change`. ``await_room`` is for those that read the kernel's requests: as for a
    full link they wait, and home needs none of them to answer what is under way.
    """

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._sizes: dict[int, int] = {}  # unique -> bytes
        self._bytes = 0  # of those

    def await_room(self, size: int) -> None:
        """Wait until a request of that size may be sent."""
        if size >= SMALL and self._bytes >= ROOM_SENT:
            with self._change:
                self._change.wait_for(lambda: self._bytes < ROOM_SENT)

    def sends(self, raw: bytes | memoryview) -> None:
        """Take note of a request that is about to be sent."""
        if len(raw) < SMALL:
            return
        _, op, unique, *_ = abi.IN_HEADER.unpack_from(raw)
        if op not in abi.NO_REPLY:
            with self._change:
                self._sizes[unique] = len(raw)
                self._bytes += len(raw)

    def answered(self, unique: int) -> None:
        """Take note of the reply to any request."""
        if unique in self._sizes:
            with self._change:
                self._bytes -= self._sizes.pop(unique, 0)
                self._change.notify_all()
