"""How an end of a session sends: what is kept, what waits, and that who receives never does. Shipped.

Never a deadlock. Both ends may be full, each waiting to send until the other has taken something. What frees them are
ACKs, so the thread that receives may wait for nothing but the stream's next bytes: it waits for no room, and what it
has to send it sends as far as that needs no waiting (MSG_DONTWAIT) and leaves the rest to a thread of the link's own.
So each end always receives, so what is written arrives, so it is acknowledged, so there is room.

A stream that takes nothing any more may still hold what the other end said last: that it is over, when it hung up. So
who cannot write leaves it to who receives to find the end, which is behind that, for as long as UNREAD.

An ACK goes along with a small frame when DUE bytes have come since the last: it costs next to nothing.

What nobody waits for may wait itself, up to LATER bytes of it: for what is sent at once, or for a moment (later.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from remoteio.wire.frames import BULK, BYE, EXIT, FAIL, HEADER, LARGE, NEWS, PING, frame
from remoteio.wire.later import Later
from remoteio.wire.link import Link, LinkClosed
from remoteio.wire.session import Session

MOST = 16 << 20  # bytes kept, from which on what is sent waits
RESERVE = 8 << 20  # beyond that, for what is SMALL: signals and orders wait for no bulk
SMALL = 4096
DUE = 256 << 10
LATER = 16 << 10
UNREAD = 2.0  # seconds
# What may be the last that an end says before it ends: it waits for the acknowledgement, which comes at once.
LAST_WORDS = frozenset((EXIT, FAIL, NEWS))

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remoteio.wire.session_streams import Parts, Stream


class SessionSender(Link):
    """The sending half of a SessionLink.

    lasting  whether it outlives its stream; until then it is a Link

    Threads, beside Link's: `_lock` guards all that is here. `_receiver` is the thread that receives, or has done so
    last. `_handed` goes to the link's own thread, which is started when it is first needed, and has `_writing` until it
    is done. `_old` is a stream that was given up, and is closed when nobody is in it any more.
    """

    def __init__(self, read_fd: int, write_fd: int) -> None:
        super().__init__(read_fd, write_fd)
        self.lasting = False
        self._session = Session()
        self._over = ""  # why, once it is
        self._stream: Stream | None = None
        self._old: Stream | None = None
        self._reading: Stream | None = None
        self._receiver = 0
        self._waiting = 0  # how many wait for a change
        self._handed: tuple[Stream, Parts, str] | None = None  # the last: why it takes nothing, else empty
        self._helper: threading.Thread | None = None
        self._queue.later = Later(self.push)

    def send(self, kind: int, *payload: bytes | bytearray | memoryview, later: bool = False) -> None:
        """Send one frame, now or when there is a stream; wait while too much is kept. Raises LinkClosed.

        The payload must not be changed afterwards. PING waits for nothing, and is not sent while there is no stream.
        """
        if not self.lasting:
            super().send(kind, *payload)
            return
        size = sum(map(len, payload))
        head = HEADER.pack(size, kind, 0, 0, 0)
        large = size >= LARGE or kind in BULK
        parts: Parts = [head, *(memoryview(p) for p in payload)] if large else [head + b"".join(payload)]
        session, wait = self._session, threading.get_ident() != self._receiver
        with self._lock:
            if wait and session.held + self._queue.size >= MOST and kind != PING:
                self._await_room(MOST if size >= SMALL else MOST + RESERVE)
            if self._over:
                raise LinkClosed("the link is closed (%s)" % self._over)
            stream = self._stream
            if kind == PING:
                if stream is None:
                    return
                if session.owed:
                    parts = [session.tell() + parts[0]]
            elif session.owed >= DUE and not large:
                parts = [session.tell() + parts[0]]
            waits = later and not large and self._queue.size < LATER and self._queue.later.due()
            self._queue.put(parts, large, self._queue.ahead())
            if kind in LAST_WORDS:
                session.last_word = session.sent + self._queue.size
            if stream is None or self._writing or waits:
                return
            parts = self._begin()
        if not self._write_out(stream, parts, wait) and self._over:
            raise LinkClosed("the link is closed (%s)" % self._over)

    def push(self) -> None:
        """Write what was sent for later, as far as that is not under way."""
        with self._lock:
            stream = self._stream
            if stream is None or self._writing or not self._queue.size:
                return
            parts = self._begin()
        self._write_out(stream, parts, threading.get_ident() != self._receiver)

    def amend(self, kind: int, was: bytes, now: bytes) -> bool:
        """See Link.amend."""
        with self._lock:
            last = self._queue.last
            if last is None or last[0] != frame(kind, was):
                return False
            last[0] = frame(kind, now)
            return True

    def _begin(self) -> Parts:
        """Under the lock: have this thread write, and return what comes first."""
        self._writing, parts = True, self._queue.take()
        self._session.keep(parts)
        self.sent = self._session.sent
        return parts

    def _acknowledge(self) -> None:
        """Send an ACK by itself, by the thread that receives."""
        with self._lock:
            stream = self._stream
            if stream is None or not self._session.owed:
                return
            parts: Parts = [self._session.tell()]
            if self._writing:
                self._queue.put(parts, False)
                return
            self._writing = True
            self._session.keep(parts)
        self._write_out(stream, parts, False)

    def _await_room(self, most: int) -> None:
        held = self._session
        self._wait(lambda: held.held + self._queue.size < most, None)

    def _wait(self, done: Callable[[], object], timeout: float | None) -> None:
        """Under the lock: wait until it is `done`, or over, or `timeout` seconds have passed."""
        self._waiting += 1
        try:
            self._idle.wait_for(lambda: done() or self._over, timeout)
        finally:
            self._waiting -= 1

    def _tell_waiting(self) -> None:
        if self._waiting:
            self._idle.notify_all()

    def _write_out(self, stream: Stream, parts: Parts, wait: bool) -> bool:
        """Write `parts`, which are kept, and what waits behind them. False: the stream was cut, they are sent again."""
        while True:
            try:
                left = stream.put(parts, wait)
            except OSError as e:
                why = e.strerror or str(e)
                with self._lock:
                    if self._stream is stream and self._hand_over(stream, [], why):
                        return False
                self._take_end(stream, why)
                return False
            with self._lock:
                if self._stream is not stream:
                    self._stop_writing()
                    return False
                if not left:
                    left = self._queue.take()
                    if not left:
                        self._stop_writing()
                        return True
                    self._session.keep(left)
                    self.sent = self._session.sent
                elif self._hand_over(stream, left):
                    return True
                else:
                    wait = True  # no thread is to be had: nobody else can write it
            parts = left

    def _take_end(self, stream: Stream, why: str) -> None:
        """Give up a stream that cannot be written to, unless who receives has found its end before."""
        with self._lock:
            if threading.get_ident() != self._receiver:
                self._wait(lambda: self._stream is not stream, UNREAD)
            self._stop_writing()
        self._lost(stream, why)

    def _stop_writing(self) -> None:
        self._writing = False
        if self._old is not None:
            self._retire()
        self._tell_waiting()

    def _hand_over(self, stream: Stream, parts: Parts, why: str = "") -> bool:
        """Under the lock: leave it to the link's own thread to write, or `why` it cannot. False: no thread is left."""
        if self._helper is None:
            helper = threading.Thread(target=self._help, name="link", daemon=True)
            try:
                helper.start()
            except RuntimeError:
                return False
            self._helper = helper
        self._handed = (stream, parts, why)
        self._tell_waiting()
        return True

    def _help(self) -> None:
        while True:
            with self._lock:
                self._wait(lambda: self._handed, None)
                handed, self._handed = self._handed, None
            if handed is None:
                return
            stream, parts, why = handed
            del handed  # or what it refers to lives until there is something else to write
            if why:
                self._take_end(stream, why)
            else:
                self._write_out(stream, parts, True)
            del stream, parts

    @property
    def cut(self) -> bool:
        """Whether there is no stream now."""
        return self._stream is None and self.lasting

    @property
    def over(self) -> bool:
        """Whether it has ended for good."""
        return bool(self._over)

    def drop(self, why: str = "it was given up") -> None:
        """Give this stream up: from now on it is cut. Does not wait; nothing if it is cut, or over."""
        stream = self._stream
        if stream is not None:
            self._lost(stream, why)

    def _lost(self, stream: Stream, why: str) -> None:
        """Take note that the stream has ended."""
        raise NotImplementedError

    def _retire(self) -> None:
        """Under the lock: close what was given up, once nobody is in it."""
        if self._old is not None and not self._writing and self._reading is None:
            self._old.close()
            self._old = None
            self._tell_waiting()

    def _await_old(self) -> None:
        """Under the lock: wait until what was given up is closed, over or not."""
        self._waiting += 1
        try:
            self._idle.wait_for(lambda: self._old is None)
        finally:
            self._waiting -= 1

    def _give_up(self, stream: Stream) -> None:
        self._stream, self._old = None, stream
        stream.shut()
        self._retire()
        self._tell_waiting()

    def _ends(self, why: str) -> None:
        """Under the lock: end it for good. The other end is told if that needs no waiting."""
        if self._over:
            return
        self._over = why
        stream = self._stream
        if stream is not None:
            if not self._writing:
                try:
                    stream.put([frame(BYE)], False)
                except OSError:
                    pass  # it is over there too
            self._give_up(stream)
        self._queue.end()
        self._session.forgo()
        self._tell_waiting()

    def _left(self) -> None:
        with self._lock:
            self._retire()
