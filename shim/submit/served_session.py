"""A run's session whose files are served by another process here, the resident (resident.py); in place of HostSession.

All that is not about files comes over the link as from the host, and goes to the handler. What HostSession's own lease
and dialler find, the resident's do, which says so; that the host is silent is told by the resident's silence.

Threads: `serve` blocks the one that calls it, which calls the handler; all else may be called by any.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Protocol

from remoteio.wire import frames
from remoteio.wire.link import Link, LinkClosed
from shim.submit import host_frames, resident_words
from shim.submit.hosts.redial import Lost
from shim.submit.refusals_told import NOTHING, Told
from shim.wire import lease

if TYPE_CHECKING:
    from collections.abc import Callable


class Handler(Protocol):
    """As of HostSession, and Told of dialler.py."""

    def greeted(self, hello: host_frames.Hello) -> None:
        """See host_session.Handler; so for the others."""

    def take(self, kind: int, payload: bytes | memoryview) -> None: ...

    def silent(self) -> None: ...

    def unleased(self, why: str) -> None: ...

    def away(self, why: str) -> None: ...

    def joined(self) -> None: ...

    def lost(self, lost: Lost) -> None: ...


class ServedSession:
    """See HostSession, of which this has what a plain run needs. `refused`: what its job was, once it has ended."""

    export = None

    def __init__(self, link: Link, handler: Handler) -> None:
        self.host = "the host"
        self.away = False
        self._link, self._handler = link, handler
        self._heard = time.monotonic()
        self.refused = NOTHING

    def serve(self) -> None:
        """Take what comes until the link ends. Raises what ended the session."""
        while True:
            for kind, payload in self._link.receive():
                self._heard = time.monotonic()
                if kind == frames.HELLO:
                    hello = host_frames.hello(payload)
                    self.host = hello.host
                    self._handler.greeted(hello)
                elif kind == frames.NEWS:
                    for what, said in json.loads(bytes(payload)).items():
                        self._hear(what, said)
                elif kind != frames.PING:
                    self._handler.take(kind, payload)

    def _hear(self, what: str, said: object) -> None:
        handler = self._handler
        if what == "over":
            assert isinstance(said, dict)
            self.refused = Told(said["rows"], said["sentences"])
            self._link.received, self._link.sent = said["received"], said["sent"]
        elif what == "failed":
            assert isinstance(said, list)
            raise resident_words.FAILURES[said[0]](said[1])
        elif what == "away":
            self.away = True
            handler.away(str(said))
        elif what == "joined":
            self.away = False
            handler.joined()
        elif what == "lost":
            handler.lost(Lost(str(said), False))
        elif what == "silent":
            handler.silent()
        else:
            handler.unleased(str(said))

    def send(self, kind: int, *payload: bytes | bytearray | memoryview) -> None:
        """See HostSession."""
        try:
            self._link.send(kind, *payload)
        except LinkClosed:
            return

    @property
    def silent(self) -> float:
        """Seconds since the host was heard of."""
        return time.monotonic() - self._heard

    def mark(self) -> int:
        """See HostSession."""
        return 0

    def lacks(self, mark: int) -> bool:
        """Tell whether the host is not known to have what had been sent then: not while it is silent."""
        return self.silent > 2 * lease.PULSE

    def pause(self) -> bool:
        """Do nothing: the resident gives signs of life on. False: it is gone."""
        try:
            self._link.send(frames.PING)
        except LinkClosed:
            return False
        return True

    def resume(self) -> None:
        """Take note that this process goes on."""
        self._heard = time.monotonic()

    def start_outside(self, run: Callable[[], None]) -> None:
        """Do nothing: there is no dialler here."""

    def close(self, *, done: bool = False) -> None:
        """See HostSession: the resident sees the end of the stream."""
        self._link.shut()
        self._link.close()

    def release(self) -> None:
        """Do nothing: the files are the resident's."""
