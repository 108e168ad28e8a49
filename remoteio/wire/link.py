"""Frames over a pair of descriptors: sent by whichever thread comes, small ahead of large, received by one.

There is no writer thread. A sender queues its frame and, if nobody is writing, writes all that is queued: an idle link
costs no handover between threads. What waits goes small frames first (metadata ahead of bulk).
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import struct
import threading
from collections import deque
from collections.abc import Callable

from remoteio.errors import ProtocolError, RexecError
from remoteio.syscalls import fill
from remoteio.wire.frames import BULK, CREDIT, HEADER, LARGE, FrameReader
from remoteio.wire.later import Later

SLOW = 1  # seconds after which what came of a large frame is taken by itself: it is a sign of life


class LinkClosed(RexecError):
    """The other end is gone: end of file, or an error of the stream."""


class _Queue:
    """Frames that wait to be sent, small ones first; `size` is their bytes. `ahead` tells what goes before the next;
    `later` has what nobody waits for written. `last` is the last, if it is small."""

    __slots__ = ("_large", "_small", "ahead", "last", "later", "size")

    def __init__(self) -> None:
        self.ahead: Callable[[], bytes] = bytes
        self.later = Later(lambda: None)
        self.last: list[bytes | memoryview] | None = None
        self._small: deque[list[bytes | memoryview]] = deque()
        self._large: deque[list[bytes | memoryview]] = deque()
        self.size = 0

    def put(self, parts: list[bytes | memoryview], large: bool, ahead: bytes = b"") -> None:
        if ahead:  # with the small ones, before any of which it goes that comes later
            self._small.append([ahead])
        (self._large if large else self._small).append(parts)
        self.last = None if large else parts
        self.size += sum(map(len, parts)) + len(ahead)

    def take(self) -> list[bytes | memoryview]:
        """Return all that are small, as one, or else one large; nothing if none waits."""
        self.last = None
        if self._small:
            parts: list[bytes | memoryview] = [b"".join(p[0] for p in self._small)]
            self._small.clear()
        elif self._large:
            parts = self._large.popleft()
        else:
            return []
        self.size -= sum(map(len, parts))
        return parts

    def clear(self) -> None:
        self._small.clear()
        self._large.clear()
        self.size, self.last = 0, None

    def end(self) -> None:
        """Drop all: nothing is written any more."""
        self.clear()
        self.later.end()


class Link:
    """One end of a link. `read_fd` and `write_fd` are blocking and become the link's own.

    Threads: any may send; one at a time receives. `_lock` guards the queues and who writes, and is not held while
    writing. `_closed` is read and set under it: no descriptor is shut down that may be another's by now.
    """

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd, self.write_fd = read_fd, write_fd
        self._reader = FrameReader()
        self._lock = threading.Lock()
        self._queue = _Queue()
        self._writing = False
        self._idle = threading.Condition(self._lock)
        self._broken: OSError | None = None
        self._closed = False
        self._waits = stat.S_ISSOCK(os.fstat(read_fd).st_mode)
        if self._waits:
            with socket.socket(fileno=os.dup(read_fd)) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", SLOW, 0))
        self.received = self.sent = 0  # bytes

    def send(self, kind: int, *payload: bytes | bytearray | memoryview, later: bool = False) -> None:
        """Send one frame, or leave it to the thread that writes. Raises LinkClosed once the link is known broken.

        `later`: nobody waits for it, and a link that has a thread for that may send it with what comes next.
        """
        size = sum(map(len, payload))
        head = HEADER.pack(size, kind, 0, 0, 0)
        large = size >= LARGE or kind in BULK
        parts: list[bytes | memoryview] = (
            [head, *(memoryview(p) for p in payload)] if large else [head + b"".join(payload)]
        )
        with self._lock:
            if self._broken is not None:
                raise LinkClosed("the link is closed (%s)" % self._broken.strerror)
            ahead = self._queue.ahead()
            if self._writing:
                self._queue.put(parts, large, ahead)
                return
            if ahead:
                parts.insert(0, ahead)
            self._writing = True
        self._drain(parts)

    def go_ahead(self, due: Callable[[], bytes]) -> None:
        """Have all that is sent from now on go behind what is `due`, whole frames, small or none.

        It is asked with each frame, one thread at a time, and must not block.
        """
        self._queue.ahead = due

    def _drain(self, parts: list[bytes | memoryview]) -> None:
        while True:
            try:
                self._write(parts)
            except OSError as e:
                with self._lock:
                    self._broken = e
                    self._writing = False
                    self._idle.notify_all()
                    self._queue.clear()
                raise LinkClosed("the link is closed (%s)" % e.strerror) from e
            with self._lock:
                parts = self._queue.take()
                if not parts:
                    self._writing = False
                    self._idle.notify_all()
                    return

    def push(self) -> None:
        """Write what was sent for later: here there is no such thing."""

    def amend(self, kind: int, was: bytes, now: bytes) -> bool:
        """Send that payload, of the same size, in place of one that was sent for later, unless that has gone, or more
        was sent since: then False, as here always."""
        return False

    @property
    def queued(self) -> int:
        """Bytes that wait to be sent."""
        return self._queue.size

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that was sent has been written. False: in `timeout` seconds it was not. Raises LinkClosed."""
        with self._idle:
            idle = self._idle.wait_for(lambda: not self._writing, timeout)
            if self._broken is not None:
                raise LinkClosed("the link is closed (%s)" % self._broken.strerror)
            return idle

    def settled(self, timeout: float | None = None) -> bool:
        """Wait until this process may end, and what it sent arrives all the same: see ``flush``."""
        return self.flush(timeout)

    def mark(self) -> int:
        """Return what `acknowledged` reaches once the other end has all that was sent before; 0: it is not told."""
        return 0

    @property
    def acknowledged(self) -> int:
        """How many of the bytes that were sent the other end is known to have."""
        return 0

    def bye(self) -> None:
        """Have the other end know that all is over, before ``shut``: here the end of the stream says it."""

    def shut(self) -> None:
        """Shut the stream down: whoever waits for it is woken, and gets LinkClosed. Does not wait."""
        with self._lock:
            if self._closed:
                return  # the descriptor may be closed by now, and its number another's
            end = socket.socket(fileno=self.read_fd)  # no copy: there may be no descriptor left for one
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it has ended by itself
            finally:
                end.detach()

    def close(self) -> None:
        """Refuse all that is sent from now on; then the descriptors may be closed, and their numbers be another's.

        Waits for whoever is writing: cut the stream first, or the other end must be reading.
        """
        with self._idle:
            if self._broken is None:
                self._broken = OSError(errno.EPIPE, "it is over here")
            self._queue.clear()
            self._idle.wait_for(lambda: not self._writing)
            self._closed = True

    def _write(self, parts: list[bytes | memoryview]) -> None:
        total = sum(map(len, parts))
        self.sent += total
        n = os.write(self.write_fd, parts[0]) if len(parts) == 1 else os.writev(self.write_fd, parts)
        while n < total:
            total -= n
            while n >= len(parts[0]):
                n -= len(parts.pop(0))
            parts[0] = memoryview(parts[0])[n:]
            n = os.writev(self.write_fd, parts)

    def receive(self) -> list[tuple[int, bytes | memoryview]]:
        """Wait for bytes; return the frames that are whole with them, perhaps none. Raises LinkClosed, FrameError."""
        room = self._reader.buffer()
        n = -1
        while n < 0:
            try:
                # The rest of a large frame in one go: each look waits for its turn among this process's threads.
                n = fill(self.read_fd, room) if self._waits and self._reader.large else os.readv(self.read_fd, [room])
            except BlockingIOError:
                continue  # nothing came for SLOW seconds
            except OSError as e:
                raise LinkClosed("the link is closed (%s)" % e.strerror) from e
        if n == 0:
            raise LinkClosed("the other end closed the link")
        self.received += n
        return self._reader.filled(n)

    def readable(self, timeout: float) -> bool:
        """Wait until ``receive`` need not wait, by the thread that calls that. False: not in `timeout` seconds."""
        poll = select.poll()
        poll.register(self.read_fd, select.POLLIN)
        return bool(poll.poll(int(timeout * 1000)))


class Window:
    """Bounds how many bytes of one stream may be under way: the sender takes, the receiver's CREDIT gives.

    Threads: one or more take, and wait; the link's receiver gives. All under the lock of `_change`.
    """

    SIZE = 1 << 20
    IMAGE = 4 << 20  # of an image, each way

    def __init__(self, size: int = SIZE) -> None:
        self._size = self._left = size
        self._change = threading.Condition()
        self.closed = False

    def take(self, most: int) -> int:
        """Wait until something may be sent; return how much of `most`. 0: nobody reads this stream any more."""
        with self._change:
            while self._left <= 0 and not self.closed:
                self._change.wait()
            if self.closed:
                return 0
            n = min(most, self._left)
            self._left -= n
            return n

    def take_all(self, n: int) -> bool:
        """Wait until all `n` may be sent. False: nobody reads this stream any more."""
        while n:
            taken = self.take(n)
            if not taken:
                return False
            n -= taken
        return True

    def give(self, n: int) -> None:
        """Let `n` bytes more be taken: the receiver took them (or a taker leaves them unused)."""
        with self._change:
            self._left += n
            self._change.notify()

    def credited(self, n: int) -> None:
        """Take the other end's CREDIT for `n` bytes. Raises ProtocolError if they were never under way."""
        with self._change:
            if self._left + n > self._size:
                raise ProtocolError("it gives credit for %d bytes, which is more than was under way" % n)
            self._left += n
            self._change.notify()

    def _check(self) -> None:
        """Assert that what is under way is not less than nothing, and no more than the window: for tests."""
        with self._change:
            assert 0 <= self._left <= self._size

    def close(self) -> None:
        """Let every taker go: nobody reads this stream any more."""
        with self._change:
            self.closed = True
            self._change.notify_all()


class Arrivals:
    """Bounds what has come of one stream and has not been dealt with, whatever its sender makes of the window.

    Threads: the link's receiver tells what came, any what was dealt with; under a lock that nobody holds for long.
    """

    SLACK = 4  # windows: what is left of a dump that was given up comes beyond the next one's

    def __init__(self, window: int = Window.SIZE) -> None:
        self._most, self._utmost = self.SLACK * window, 256 * window
        self._lock = threading.Lock()
        self._here = 0

    def came(self, n: int) -> None:
        """Take note of `n` bytes more. Raises ProtocolError if it was not to send so much."""
        with self._lock:
            self._here += n
            if self._here > self._most:
                raise ProtocolError("it sends %d bytes of a stream for which it has no credit" % self._here)

    def allow(self, n: int) -> None:
        """Let `n` bytes more be here: a job that is dumped sends what its pipe holds, whatever the window says."""
        with self._lock:
            self._most = min(self._most + n, self._utmost)

    def done(self, n: int) -> None:
        """Take note that `n` bytes were dealt with; before CREDIT is given for them."""
        with self._lock:
            self._here -= n


def credit(stream: int, n: int) -> tuple[int, bytes]:
    """Make the CREDIT frame for `n` bytes of `stream`, as arguments of ``Link.send``."""
    return CREDIT, bytes((stream,)) + n.to_bytes(4, "little")
