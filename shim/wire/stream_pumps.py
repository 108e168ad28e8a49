"""Streams between a descriptor and the link, one thread each, with flow control. Shipped; used at both ends.

That the reader of a stream has gone is told at once, not at the next write: a job whose output nobody reads any more
finds its pipe closed as it would at home.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import threading
from collections import deque
from collections.abc import Callable

from remoteio.errors import RexecError
from remoteio.wire.frames import CLOSED, LARGE
from remoteio.wire.link import Arrivals, Link, LinkClosed, Window, credit
from shim.wire.wakeup import Wakeup

CHUNK = LARGE - 4096  # below LARGE: the frames of a stream, and its end, stay in order
AWAY = 200  # milliseconds between looks whether a terminal is ours again: there is no event for that
_GONE = (errno.EPIPE, errno.EIO, errno.ECONNRESET)


class Source:
    """Reads `fd` and sends it as frames of `kind`, as far as the other end gives credit; an empty frame is its end.

    Threads: its own reads and sends; the link's gives credit to `window` and calls ``stop``; any may wait for `done`.
    """

    def __init__(
        self,
        link: Link,
        kind: int,
        fd: int,
        close: Callable[[int], None] = os.close,
        ours: Callable[[], bool] = lambda: True,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """`fd` is given to `close` at the end. `ours` tells whether `fd` may be read now, or is somebody else's.
        `before` is called when something was read, and waits until it may be sent."""
        self._link, self.kind, self._fd, self._close, self._ours = link, kind, fd, close, ours
        self._before = before
        self.window = Window()
        self._wakeup = Wakeup()
        self.done = threading.Event()

    def start(self, fail: Callable[[BaseException], None]) -> None:
        """Begin, in a thread of its own."""
        threading.Thread(target=guarded, args=(self._run, fail), name="source-%d" % self.kind, daemon=True).start()

    def stop(self) -> None:
        """Let go of `fd`: nobody reads this stream there any more."""
        self.window.close()
        self._wakeup.set()

    def _run(self) -> None:
        try:
            while True:
                room = self.window.take(CHUNK)
                if not room or not self._await():
                    return
                try:
                    data = os.read(self._fd, room)
                except OSError as e:
                    if not is_gone(self._fd, e):
                        raise RexecError("standard input cannot be read: %s" % e.strerror) from e
                    if not self._ours():
                        self.window.give(room)
                        continue  # a terminal that was taken from us between the look and the read
                    data = b""  # a terminal whose other side has closed
                self._before()
                if not data:
                    self._link.send(self.kind, b"")
                    return
                self.window.give(room - len(data))
                self._link.send(self.kind, data)
        finally:
            self._close(self._fd)
            self._wakeup.close()
            self.done.set()

    def _await(self) -> bool:
        """Wait until there is something to read and it is ours. False: it is not wanted any more."""
        rung, either = select.poll(), select.poll()
        rung.register(self._wakeup.fd, select.POLLIN)
        either.register(self._wakeup.fd, select.POLLIN)
        either.register(self._fd, select.POLLIN)
        while True:
            if not self._ours():
                if rung.poll(AWAY):
                    return False
            elif any(fd == self._wakeup.fd for fd, _ in either.poll()):
                return False
            elif self._ours():
                return True


class Sink:
    """Writes what comes as frames of one kind to `fd`, and gives credit for it; closes `fd` at the end.

    Threads: its own writes; the link's calls ``put``. The queue between them is a deque, whose append and popleft are
    each one step (collections.deque); the wakeup is cleared before the queue is looked at, so nothing put is missed.
    """

    def __init__(
        self,
        link: Link,
        kind: int,
        fd: int,
        close: Callable[[int], None] = os.close,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """`fd` is given to `close` at the end. `before` waits until it may be told that nobody reads it."""
        self._link, self.kind, self._fd, self._close = link, kind, fd, close
        self._before = before
        self._queue: deque[bytes | memoryview] = deque()
        self._arrivals = Arrivals()
        self._wakeup = Wakeup()
        self.came = 0  # bytes, by the link's thread
        self.done = threading.Event()

    def start(self, fail: Callable[[BaseException], None]) -> None:
        """Begin, in a thread of its own."""
        threading.Thread(target=guarded, args=(self._run, fail), name="sink-%d" % self.kind, daemon=True).start()

    def put(self, data: bytes | memoryview) -> None:
        """Have `data` written; empty: the end. Never blocks. Raises ProtocolError if more waits than was to be sent."""
        self._arrivals.came(len(data))
        self.came += len(data)
        self._queue.append(data)
        self._wakeup.set()

    def _run(self) -> None:
        wait = select.poll()
        wait.register(self._wakeup.fd, select.POLLIN)
        wait.register(self._fd, 0)  # no event but that its reader has gone
        try:
            while True:
                if any(fd == self._fd for fd, _ in wait.poll()):
                    self._tell_closed()
                    return
                self._wakeup.clear()
                while self._queue:
                    data = self._queue.popleft()
                    if not data:
                        return
                    if not self._write(data):
                        self._tell_closed()
                        return
                    self._arrivals.done(len(data))
                    self._tell(*credit(self.kind, len(data)))
        finally:
            self._close(self._fd)
            self._wakeup.close()
            self.done.set()

    def _tell_closed(self) -> None:
        self._before()
        self._tell(CLOSED, bytes((self.kind,)))

    def _tell(self, kind: int, payload: bytes) -> None:
        try:
            self._link.send(kind, payload)
        except LinkClosed:
            return  # it has sent all and ended: what it sent is written all the same

    def _write(self, data: bytes | memoryview) -> bool:
        """False: its reader has gone."""
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError as e:
            if not is_gone(self._fd, e):
                raise RexecError("the job's output cannot be written: %s" % e.strerror) from e
            return False
        return True


def is_gone(fd: int, error: OSError) -> bool:
    """Tell whether the other side of what is open as `fd` has gone: EIO says so of a terminal, but not of a disk."""
    return error.errno in _GONE and (error.errno != errno.EIO or not on_disk(fd))


def on_disk(fd: int) -> bool:
    """Tell whether what is open as `fd` is a file's contents, or a disk's."""
    mode = os.fstat(fd).st_mode
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode)


def guarded(run: Callable[[], None], fail: Callable[[BaseException], None]) -> None:
    """Run a thread's work; what ends it by an error is given to `fail`."""
    try:
        run()
    except BaseException as e:  # whatever ends a thread of ours ends the run, and is raised there
        fail(e)
