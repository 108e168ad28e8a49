"""The streams of a job that can be checkpointed: counted, and at rest when it is frozen. Shipped; execute side.

A dump says how much of each stream has crossed, so that after a move nothing is missing and nothing comes twice.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
import termios
import threading
from collections import deque
from collections.abc import Callable

from remoteio.errors import ProtocolError
from remoteio.wire.frames import CLOSED
from remoteio.wire.link import Link, credit
from shim.wire.stream_pumps import CHUNK, Source, guarded

UNREAD = (
    256 << 10
)  # bytes of standard input that may lie unread at a dump; a pipe holds 64 KiB unless the job widens it
QUIET = 20  # milliseconds in which a terminal has nothing more: the kernel passes on its output from a queue


class CountedSource(Source):
    """Counts what it sent, from `sent` on, and can be emptied at once; otherwise it is a Source.

    It keeps what home has not said it has written: who is home after one that was killed is sent it again.

    Threads: its own and the one that dumps read, each holding `turn` from the read until it is sent and counted: so
    what ``drain`` returns has left nothing in between, and all of it comes before the DUMPED that follows.
    """

    def __init__(self, link: Link, kind: int, fd: int, sent: int = 0, lives: Callable[[], bool] = lambda: True) -> None:
        """`lives`: asked at the stream's end, which is none if the job has not closed it but was killed."""
        super().__init__(link, kind, fd)
        self.sent, self._lives = sent, lives
        self.ended = False
        self.turn = threading.Lock()
        self._kept: deque[bytes] = deque()  # the last of what was sent, and at last its end: b""

    def _run(self) -> None:
        try:
            while not self.ended:
                room = self.window.take(CHUNK)
                if not room or not self._await():
                    return
                with self.turn:
                    taken = self._pass_on(room)
                self.window.give(room - taken)
        finally:
            self._close(self._fd)
            self._wakeup.close()
            self.done.set()

    def _pass_on(self, most: int) -> int:
        """Read and send what is there, if anything is; how much. Holding the turn."""
        if self.ended:
            return 0
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(0):
            return 0  # drain was faster
        try:
            data = os.read(self._fd, most)
        except OSError as e:
            if e.errno != errno.EIO:
                raise
            data = b""  # a terminal whose slaves have all been closed
        self.ended = not data
        if self.ended and not self._lives():
            return 0
        self._kept.append(data)
        self._link.send(self.kind, data)
        self.sent += len(data)
        return len(data)

    def credit(self, n: int) -> None:
        """Take note that home has written `n` bytes more."""
        self._let_go(n)
        self.window.give(n)

    def _let_go(self, n: int) -> None:
        while self._kept and 0 < len(self._kept[0]) <= n:
            n -= len(self._kept.popleft())
        if n and self._kept:
            self._kept[0] = self._kept[0][n:]

    def say_again(self, written: int) -> None:
        """Send what a home that was killed has not `written`; holding the turn. Raises ProtocolError, LinkClosed."""
        lacks = sum(map(len, self._kept)) - (self.sent - written)
        if lacks < 0 or written > self.sent:
            raise ProtocolError(
                "home has %d bytes of a stream of %d, and not all that is missing is kept" % (written, self.sent)
            )
        self._let_go(lacks)
        self.window.give(lacks)
        for data in tuple(self._kept):
            self._link.send(self.kind, data)

    def drain(self, quiet: int) -> int:
        """Send all that the job, which stands still, has written, whatever the window says: no more than a pipe holds.

        `quiet`: milliseconds of silence that mean there is no more. Returns the bytes sent ever.
        """
        if self.done.is_set():
            return self.sent
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        with self.turn:
            while not self.ended and poll.poll(quiet):
                self.window.give(-self._pass_on(CHUNK))
            return self.sent


class CountedSink:
    """Writes standard input to a pipe or a terminal's master, and knows which of it has not been read.

    Threads: its own writes; the link's calls ``put``, the one that dumps ``hold`` and ``unread``. `_turn` is held for
    each write and its count, so once ``hold`` has returned nothing more is written, and `written` is exact.
    """

    def __init__(self, link: Link, kind: int, fd: int, terminal: bool = False) -> None:
        self._link, self._kind, self._fd, self.terminal = link, kind, fd, terminal
        self.written = 0
        self.suspend: Callable[[], None] = lambda: None  # called when a terminal has been given its ^Z
        self.ended = False  # the end of file has been passed on, or nobody reads any more
        self._tail = bytearray()  # the last UNREAD bytes written
        self._queue: deque[bytes | memoryview] = deque()
        self._turn = threading.Condition()
        self._held = False
        os.set_blocking(fd, False)

    def start(self, fail: Callable[[BaseException], None]) -> None:
        """Begin, in a thread of its own."""
        threading.Thread(target=guarded, args=(self._run, fail), name="stdin", daemon=True).start()

    def prime(self, unread: bytes, read: int) -> None:
        """Give again, before ``start``, what the job was given and has not read; `read`: how much it had."""
        self.written = read
        if unread:
            # in front of what may have come over the link by now; no credit is due for it
            left = memoryview(unread)
            fcntl.fcntl(self._fd, _F_SETPIPE_SZ, max(len(unread), 1 << 16)) if not self.terminal else None
            while left:
                left = left[os.write(self._fd, left) :]
            self._wrote(unread)

    def put(self, data: bytes | memoryview) -> None:
        """Have `data` written; empty: the end."""
        with self._turn:
            self._queue.append(data)
            self._turn.notify_all()

    @property
    def given_all(self) -> bool:
        """Whether the end of it has come over the link."""
        with self._turn:
            return self.ended or (bool(self._queue) and not self._queue[-1])

    def hold(self, held: bool) -> None:
        """Hold back what comes, or no longer: while held nothing is written."""
        with self._turn:
            self._held = held
            self._turn.notify_all()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._queue and not self._held)
                data = self._queue.popleft()
            if not data:
                self._end()
                return
            left = memoryview(data)
            while left:
                poll.poll()
                with self._turn:
                    self._turn.wait_for(lambda: not self._held)
                    try:
                        n = os.write(self._fd, left)
                    except BlockingIOError:
                        continue
                    except OSError as e:
                        if e.errno not in (errno.EPIPE, errno.EIO):
                            raise
                        self.ended = True
                    else:
                        self._wrote(bytes(left[:n]))
                if self.ended:
                    # Not in its turn: who receives from the link takes that too, and what is sent may have to wait.
                    self._link.send(CLOSED, bytes((self._kind,)))
                    return
                if self.terminal and _suspends(self._fd, bytes(left[:n])):
                    self.suspend()
                left = left[n:]
            self._link.send(*credit(self._kind, len(data)))

    def _wrote(self, data: bytes) -> None:
        self.written += len(data)
        self._tail += data
        del self._tail[:-UNREAD]

    def _end(self) -> None:
        with self._turn:
            self.ended = True
            if self.terminal:
                return
            # the pipe's reading end tells how much the job has left; it comes to its end all the same
            reading = os.open("/proc/self/fd/%d" % self._fd, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.close(self._fd)
            self._fd = reading

    def unread(self) -> bytes:
        """Return what the job has been given and has not read, of a pipe. The job stands still. Raises ValueError."""
        with self._turn:
            (n,) = struct.unpack("i", fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4)))
            if n > len(self._tail):
                raise ValueError("%d bytes of its standard input are unread, and %d can be kept" % (n, UNREAD))
            return bytes(self._tail[len(self._tail) - n :]) if n else b""


def _suspends(master: int, keys: bytes) -> bool:
    """Is the key among them that stops a job, and has the terminal an eye on it? termios(3): ISIG, VSUSP."""
    settings = termios.tcgetattr(master)
    return bool(settings[3] & termios.ISIG) and settings[6][termios.VSUSP] in keys


_F_SETPIPE_SZ = 1031
