"""The conversation about an image with the store at home: IMAGE frames, each way under a window. Shipped."""

from __future__ import annotations

import queue
from math import inf

from checkpoint.execute.dump import DumpError
from remoteio.wire import frames
from remoteio.wire.link import Window, credit
from remoteio.wire.session_link import SessionLink

STORE_S = 600.0  # without a word of the store, while there is a stream to it
_LOOK_S = 1.0


class CutShort(Exception):
    """Say that the conversation is over before its end: home has given the image up, or the job has ended."""


class ImageChannel:
    """Carries one dump's payloads after the other's.

    Threads: the agent's main thread hands in what comes over the link (`receive`, `credit`), the one that dumps puts
    and gets, and `cut` may be called by any.
    """

    def __init__(self, link: SessionLink) -> None:
        self._link = link
        self._leaves = False
        self._window = Window(Window.IMAGE)
        self._payloads: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()  # None: cut short

    def begin(self, leaves: bool) -> None:
        """Begin anew, with nothing left of a dump that was given up; `leaves`: the tree stands still meanwhile."""
        self._leaves = leaves
        while not self._payloads.empty():
            self._payloads.get()
        self._window = Window(Window.IMAGE)

    def receive(self, payload: bytes | memoryview) -> None:
        """Take the payload of an IMAGE frame."""
        self._payloads.put(bytes(payload))
        self._link.send(*credit(frames.IMAGE, len(payload)))

    def credit(self, n: int) -> None:
        """Take the credit for `n` bytes."""
        self._window.give(n)

    def cut(self) -> None:
        """End the conversation: who waits in ``put`` or ``get`` gets CutShort."""
        self._payloads.put(None)
        self._window.close()

    def put(self, payload: list[bytes | memoryview]) -> None:
        """Send a payload, given in parts, once there is credit for it. Raises CutShort, LinkClosed."""
        if not self._window.take_all(sum(map(len, payload))):
            raise CutShort
        self._link.send(frames.IMAGE, *payload)

    def get(self, wait: bool, ended: bool) -> bytes | None:
        """Return the store's next payload; without `wait` None if there is none yet. Raises CutShort, DumpError.

        `ended`: it has all, and may be committing, be its disk however slow. A tree that leaves and went on by itself
        would run twice: home says COMMITTED or THAW, or is gone.
        """
        left = limit = inf if ended and self._leaves else STORE_S
        while True:
            try:
                payload = self._payloads.get(wait, _LOOK_S)
                break
            except queue.Empty as e:
                if not wait:
                    return None
                # While the link is cut the store may commit, and say so when it is joined: to go on then is too early.
                left = limit if self._link.cut else left - _LOOK_S
                if left <= 0:
                    raise DumpError("nothing was heard of the store for %.0f s" % STORE_S) from e
        if payload is None:
            raise CutShort
        return payload
