"""A link that outlives its stream: the two processes live on, and what carries their bytes is cut and replaced.

What is kept and sent again, and why that is enough, is in session.py; how it is sent in session_sender.py; the
descriptors are in session_streams.py. Here is what receives, and what happens at a cut, at a join and at the end.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

from remoteio.syscalls import fill
from remoteio.wire import frames
from remoteio.wire.frames import FrameReader
from remoteio.wire.link import LinkClosed
from remoteio.wire.session import Session
from remoteio.wire.session_sender import LAST_WORDS
from remoteio.wire.session_settled import SessionSettled
from remoteio.wire.session_streams import stream_of

PLENTY = 4 << 20  # bytes received, after which an ACK is sent by itself, as where all goes one way
_BYE_S = 1.0
_LOOKED_AT = frozenset((frames.ACK, frames.BYE)) | LAST_WORDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remoteio.wire.session_streams import Stream


class SessionLink(SessionSettled):
    """A Link that lasts, from ``last`` on: a stream that ends is a cut, and ``join`` puts another in its place.

    Until then it is a Link, of whose bytes the count is kept.

    Threads: any may call what is here, unless it says otherwise. `_lock` guards all but the following. `_stream` is set
    under it and read by the receiver without: that one sets `_reading` first, then looks whether it is still the
    stream, and a stream given up is closed only when nobody reads or writes it (`_retire`), which is looked at after it
    was given up: so one of the two sees the other. `received` is the receiver's.
    """

    def __init__(self, read_fd: int, write_fd: int) -> None:
        super().__init__(read_fd, write_fd)
        self._on_cut: Callable[[str], None] | None = None
        self._parked = False  # who receives waits for a stream

    def last(self, on_cut: Callable[[str], None]) -> None:
        """Have it outlive its stream, from now on; before a second thread uses it.

        `on_cut` is called once per cut, with a sentence why, by the thread that noticed: it must not block. The
        descriptors that the link was made with are the caller's again, to be closed whenever it likes. Raises
        OSError: none is left for the copies.
        """
        self._stream = stream_of(self.read_fd, self.write_fd)
        self._session = Session(self.sent, self.received)
        self._on_cut = on_cut
        self.lasting = True

    def forgo(self) -> None:
        """Keep nothing any more: the next cut is the end, without a call of `on_cut`."""
        with self._lock:
            self._on_cut = None
            self._session.forgo()
            self._tell_waiting()
        if self.cut:
            self._end("it is cut, and nobody is to join it")

    # receiving

    def receive(self) -> list[tuple[int, bytes | memoryview]]:
        """Wait for bytes, over any number of cuts; return the frames that are whole with them, perhaps none.

        Raises LinkClosed, FrameError, and ProtocolError for an acknowledgement that cannot be.
        """
        if not self.lasting:
            return super().receive()
        self._receiver = threading.get_ident()
        session, reader = self._session, self._reader
        while True:
            stream = self._reading = self._stream
            if stream is None or self._stream is not stream:
                stream = self._enter(None)
                assert stream is not None
                reader = self._reader  # another, if it has begun anew
            room, why = reader.buffer(), "the other end closed the link"
            try:
                # The rest of a large frame in one go: each look waits for its turn among this process's threads.
                n = fill(stream.fd, room) if reader.large and stream.whole else os.readv(stream.fd, [room])
                if stream.given_up:
                    n = 0
                self.received = session.received = session.received + n
            except BlockingIOError:
                n = -1  # nothing came for SLOW seconds
            except OSError as e:
                n, why = 0, e.strerror or str(e)
            if not n:
                self._lost(stream, why)
            self._reading = None
            if self._stream is not stream:
                self._left()
            if n > 0:
                found = reader.filled(n)
                for kind, _ in found:
                    if kind in _LOOKED_AT:
                        return self._sort(found)
                if session.owed >= PLENTY:
                    self._acknowledge()
                return found

    def readable(self, timeout: float) -> bool:
        """Wait until ``receive`` need not wait, by the thread that calls that. False: not in `timeout` seconds."""
        if not self.lasting:
            return super().readable(timeout)
        try:
            stream = self._enter(timeout)
        except LinkClosed:
            return True
        if stream is None:
            return False
        poll = select.poll()
        poll.register(stream.fd, select.POLLIN)
        try:
            return bool(poll.poll(int(timeout * 1000)))
        finally:
            self._reading = None
            if self._stream is not stream:
                self._left()

    def _enter(self, timeout: float | None) -> Stream | None:
        """Wait for a stream, and begin to read it. None: there was none in `timeout` seconds. Raises LinkClosed."""
        with self._lock:
            self._reading = None
            self._retire()
            self._parked = True
            self._tell_waiting()
            self._wait(lambda: self._stream, timeout)
            self._parked = False
            if self._over:
                raise LinkClosed("the link is closed (%s)" % self._over)
            self._reading = self._stream
            return self._stream

    def _sort(self, received: list[tuple[int, bytes | memoryview]]) -> list[tuple[int, bytes | memoryview]]:
        """Return those that are not the link's own."""
        found, last_words = [], False
        for frame in received:
            kind = frame[0]
            if kind == frames.ACK:
                with self._lock:
                    self._session.told(frame[1])
                    self._tell_waiting()
            elif kind == frames.BYE:
                self._end("the other end has ended it")
                break
            else:
                found.append(frame)
                last_words = last_words or kind in LAST_WORDS
        if last_words or self._session.owed >= PLENTY:
            self._acknowledge()
        return found

    # cuts

    @property
    def position(self) -> int:
        """How many bytes of the session have been received; while it is cut, a number that stands still. LinkClosed."""
        with self._lock:
            self._await_old()
            if self._over:
                raise LinkClosed("the link is closed (%s)" % self._over)
            return self._session.received

    def join(self, read_fd: int, write_fd: int, theirs: int) -> None:
        """Go on with these descriptors, of which the link makes copies; the other end has received `theirs` bytes.

        What it has not is sent again, by the link's own thread. An old stream is given up. Raises LinkClosed, OSError
        (no descriptor is left), and ProtocolError if `theirs` cannot be: then it stays cut.
        """
        self._replace(read_fd, write_fd, lambda: self._session.rejoin(theirs))

    def parked(self) -> None:
        """Wait, while it is cut, until who receives has dealt with all that came. Raises LinkClosed."""
        with self._lock:
            self._wait(lambda: self._parked, None)
            if self._over:
                raise LinkClosed("the link is closed (%s)" % self._over)

    def renew(self, read_fd: int, write_fd: int, first: Callable[[], bytes]) -> None:
        """Begin anew with an end that has heard nothing, while it is cut and ``parked``: what was sent is dropped.

        `first` returns what goes first; it is called when all else is dropped, and must not send. Raises as ``join``.
        """

        def begun() -> list[bytes | memoryview]:
            self._session.begin_anew()
            self._queue.clear()
            self._reader = FrameReader()
            parts: list[bytes | memoryview] = [first()]
            self._session.keep(parts)
            return parts

        self._replace(read_fd, write_fd, begun)

    def _replace(self, read_fd: int, write_fd: int, first: Callable[[], list[bytes | memoryview]]) -> None:
        """Go on with these descriptors; `first` is called once no other is in use, and returns what goes first."""
        stream = stream_of(read_fd, write_fd)
        try:
            with self._lock:
                while (self._stream or self._old) and not self._over:
                    if self._stream is not None:
                        self._give_up(self._stream)
                    else:
                        self._await_old()
                if self._over:
                    raise LinkClosed("the link is closed (%s)" % self._over)
                parts = first()
                self._stream = stream
                self._writing = True
                alone = not self._hand_over(stream, parts)
                self._tell_waiting()
        except BaseException:
            stream.close()
            raise
        if alone:  # no thread is to be had for it
            self._write_out(stream, parts, True)

    def _lost(self, stream: Stream, why: str) -> None:
        """Take note that the stream has ended; whoever is first tells it on."""
        with self._lock:
            if self._stream is not stream:
                return
            self._give_up(stream)
            tell = self._on_cut
        if tell is None:
            self._end(why)
        else:
            tell(why)

    # the end

    def bye(self) -> None:
        """End it for good when no thread writes, so that the other end can be told: within a second."""
        if self.lasting:
            with self._lock:
                self._queue.clear()
                self._wait(lambda: not self._writing, _BYE_S)
                self._ends("it is over here")

    def shut(self, why: str = "it is over here") -> None:
        """End it for good: whoever waits or comes gets LinkClosed. The other end is told if that needs no waiting."""
        if not self.lasting:
            super().shut()
            return
        self._end(why)

    def _end(self, why: str) -> None:
        with self._lock:
            self._ends(why)

    def close(self) -> None:
        """End it for good, and wait until no thread uses a descriptor of it."""
        if not self.lasting:
            super().close()
            return
        self.shut()
        with self._lock:
            self._await_old()
