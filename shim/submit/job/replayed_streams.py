"""A job's standard streams at home, while it goes from host to host: each byte once, in order.

An image knows how many bytes of output its job had sent, and how many of input it had been given. The outputs know how
many they have taken: what a job restored from an older image says again is dropped. The input keeps what was given
since the newest image, so that it can be given again. Positions count from the job's first byte, and are the same
bytes for every generation: that is all that "exactly once" rests on. What must hold between them is what `_check`
asserts, wherever one of them changes.

Not taken: numbers on the frames. The link neither loses nor doubles a byte, and what is lost or doubled is so because a
generation ended, of which the image, and not the frame, tells where it was.
"""

from __future__ import annotations

import errno
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from remoteio import syscalls
from remoteio.errors import RexecError
from remoteio.wire.frames import CLOSED, STDIN
from remoteio.wire.link import Arrivals, Link, LinkClosed, Window, credit
from shim.submit.job import output_file
from shim.submit.job.output_file import FULL, OutputFile
from shim.wire.stream_pumps import CHUNK, guarded, is_gone
from shim.wire.wakeup import await_any

Fail = Callable[[BaseException], None]

# What may be under way to the job and not yet read by it: the window, its pipe, and what lies in between.
KEPT = 4 << 20
HEAVY = 1 << 30  # bytes kept since the last image, at which a new one would be welcome
_HOLE = 0x03  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, linux/falloc.h
_AWAY = 0.2  # seconds between looks whether a terminal is ours
Reader = Callable[[bytes], None]


class OutputOnce:
    """One output stream: what comes from the job goes to a file and to those who are attached, each byte once.

    taken   bytes of the stream that have come here, ever
    said    bytes of it that the present generation has said, by its own count, which begins with its image's

    said <= taken: what it has said is here; and the next taken - said bytes that it says are here already.

    Threads: its own, from `start` to `close`, writes; everything else may be called by any. All is under `_change`, but
    for the writing itself.
    """

    def __init__(self, kind: int, file: OutputFile, *, taken: int = 0) -> None:
        """`file` is shut when the job closes the stream, or is over; `taken`: bytes that were written before."""
        self.kind, self.taken, self.said = kind, taken, 0
        self._file = file
        self._link: Link | None = None
        self._arrivals = Arrivals()
        self._change = threading.Condition()
        # what came and is not written: where from, what of it is new, where in the stream that ends, how much it was
        self._queue: deque[tuple[Link, bytes | memoryview, int, int]] = deque()
        self._busy = self._over = False
        self._readers: list[Reader] = []

    def start(self, fail: Fail) -> None:
        """Begin to write, in a thread of its own; `fail` is told of what ends that."""
        _thread(self._run, fail)

    def close(self) -> None:
        """Write what is left, then shut the file and end: the job is over."""
        with self._change:
            self._over = True
            self._change.notify_all()

    def _check(self) -> None:
        assert 0 <= self.said <= self.taken, (self.said, self.taken)

    def begin(self, link: Link, offset: int) -> None:
        """Go on with the job at the other end of `link`, which has said `offset` bytes by the image's count."""
        with self._change:
            self._link, self.said = link, offset
            self._arrivals = Arrivals()
            self.taken = max(self.taken, offset)  # less, if somebody has cut the file that it goes to
            self._check()
        if self._file.closed:
            link.send(CLOSED, bytes((self.kind,)))

    def put(self, link: Link, data: bytes | memoryview) -> None:
        """Take bytes that came. Never blocks. Raises ProtocolError if more wait than were to be sent."""
        with self._change:
            if link is not self._link:
                return  # the last words of a generation that is over
            self._arrivals.came(len(data))
            drop = min(self.taken - self.said, len(data))
            self.said += len(data)
            self.taken += len(data) - drop
            self._check()
            self._queue.append((link, data[drop:], self.taken, len(data)))
            self._change.notify_all()

    def dumping(self) -> None:
        """Take note that the job is being dumped: it says all that its pipe holds."""
        self._arrivals.allow(Window.SIZE)

    def end(self, link: Link) -> None:
        """Close it as the job has: who reads it here is to see that, once all is written.

        Nothing where the job is not at the other end of `link`: a tree that could not be restored ends there too.
        """
        with self._change:
            if not self._file.closed and link is self._link:
                self._queue.append((link, b"", self.taken, 0))
                self._change.notify_all()

    def drain(self, timeout: float) -> bool:
        """Wait until all that came is written. False: in `timeout` seconds it was not."""
        with self._change:
            return self._change.wait_for(lambda: not self._queue and not self._busy, timeout)

    def attach(self, reader: Reader) -> None:
        """Have `reader` called with all bytes too from now on; b"" at the end."""
        with self._change:
            self._readers.append(reader)

    def detach(self, reader: Reader) -> None:
        with self._change:
            self._readers = [other for other in self._readers if other is not reader]

    def _run(self) -> None:
        while True:
            with self._change:
                self._busy = False
                self._change.notify_all()
                self._change.wait_for(lambda: self._queue or self._over)
                if not self._queue:
                    break
                link, data, end, size = self._queue.popleft()
                arrivals = self._arrivals if link is self._link else None
                self._busy = True
                readers = self._readers
            for reader in readers:
                reader(bytes(data))
            if not size:
                self._file.shut()
                continue
            if not self._file.closed:
                self._file.write(data, end)
            if arrivals is not None:
                arrivals.done(size)
            try:
                link.send(*((CLOSED, bytes((self.kind,))) if self._file.closed else credit(self.kind, size)))
            except LinkClosed:
                continue  # whoever receives from it says so
        self._file.shut()


class ReplayedInput:
    """The input stream. What it is given is kept in a file without a name, at the offset it has in the stream.

    size    bytes of the stream that have come here
    given   bytes of it that were sent to the present generation, with what its image had been given
    kept    from here on they are in the file

    kept <= given <= size; and nothing below kept is asked for again: not by the present generation, which is past it,
    and by none after it, which begins where an image was, the newest (`saved`). While one is made (`keep`) nothing is
    let go, as it is not known yet where it will be; where there is none and none is made, no generation will follow.

    Threads: one reads `fd`, from `start` to `close`; one gives, for each generation, until the next one's begins;
    everything else may be called by any. All is under `_change`, but for the reading and sending themselves.
    """

    def __init__(self, directory: Path, fd: int, ours: Callable[[], bool] = lambda: True) -> None:
        """`fd`: what is read, -1: only what `feed` brings. `ours` tells whether it may be read now."""
        self.size = self.given = self.kept = 0
        self.heavy: Callable[[], None] = lambda: None  # called at every HEAVY bytes that are kept since an image
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - as long as the job
        self._fd, self._ours = fd, ours
        self._change = threading.Condition()
        self._ended = False  # no more will come
        self._hungry = False  # the job has read what there is
        self._keep = self._saved = False
        self._told = 0  # the size at which `heavy` was called last
        self._generation = 0
        self._over = False
        self._fail: Fail = lambda error: None

    def start(self, fail: Fail) -> None:
        """Begin to read, in a thread of its own; `fail` is told of what ends any of this stream's threads."""
        self._fail = fail
        if self._fd >= 0:
            _thread(self._read, fail)

    def close(self) -> None:
        """Read, give and keep no more: the job is over."""
        with self._change:
            self._over = self._ended = True
            self._generation += 1
            self._file.close()
            self._change.notify_all()

    def _check(self) -> None:
        assert 0 <= self.kept <= self.given <= self.size, (self.kept, self.given, self.size)

    def feed(self, data: bytes) -> None:
        """Take more input, from one who is attached."""
        with self._change:
            self._append(data)

    def finish(self) -> None:
        """Take note that no more will come."""
        with self._change:
            self._ended = True
            self._change.notify_all()

    def skip_to(self, offset: int) -> None:
        """Begin in the middle: what the job had been given before is not here."""
        with self._change:
            self.size = self.given = self.kept = offset
            self._keep = self._saved = True
            self._check()

    def keep(self) -> None:
        """Keep all, for an image is being made: from now on only `saved` says what is not needed any more."""
        with self._change:
            self._keep = True

    def unkeep(self) -> None:
        """Keep it no more: it will not be made. Where there is none before it, nothing will ever be asked for again."""
        with self._change:
            self._keep = self._saved

    def saved(self, offset: int) -> None:
        """Forget what an image has made needless, whose job has been given `offset` bytes."""
        with self._change:
            self._keep = self._saved = True
            self._forget(offset)

    def _append(self, data: bytes) -> None:
        while not self._over:
            at = self.size  # anew each time: another may have appended while this one waited
            view = memoryview(data)
            try:
                while view:
                    n = os.pwrite(self._file.fileno(), view, at)
                    at, view = at + n, view[n:]
                break
            except OSError as error:
                if error.errno not in FULL:
                    raise RexecError(f"the job's input cannot be kept: {error.strerror}") from error
                self._change.wait(output_file.AGAIN)
        else:
            return
        self.size = at
        self._check()
        self._hungry = False
        self._change.notify_all()
        if self._keep and at - max(self.kept, self._told) > HEAVY:
            self._told = at
            self.heavy()

    def _forget(self, offset: int) -> None:
        """What came before `offset` will not be asked for again."""
        if offset > self.kept and not self._over:
            start = self.kept & ~0xFFF
            length = (offset & ~0xFFF) - start
            if length > 0:
                _punch(self._file.fileno(), start, length)
            self.kept = offset
            self._check()

    def begin(self, link: Link, offset: int) -> Window:
        """Give the job at the other end of `link` its input from `offset` on; its CREDITs go to the Window."""
        window = Window()
        with self._change:
            self._generation += 1
            mine = self._generation
            self.given = max(offset, self.kept)
            self._check()
        _thread(lambda: self._give(link, window, mine), self._fail)
        return window

    def _give(self, link: Link, window: Window, mine: int) -> None:
        while True:
            room = window.take(CHUNK)
            if not room:
                return
            with self._change:
                if self._generation == mine:
                    self._hungry = self.given >= self.size
                    self._change.notify_all()
                self._change.wait_for(lambda: self.size > self.given or self._ended or self._generation != mine)
                if self._generation != mine:
                    return
                data = os.pread(self._file.fileno(), min(room, self.size - self.given), self.given)
                self.given += len(data)  # before it is sent: an image may count it as soon as it is
                self._check()
            window.give(room - len(data))
            try:
                link.send(STDIN, data)
            except LinkClosed:
                return  # whoever receives from it says so
            if not data:
                return
            with self._change:
                if self._generation == mine and not self._keep and self.given - self.kept > 2 * KEPT:
                    self._forget(self.given - KEPT)

    def _read(self) -> None:
        try:
            self._read_all()
        finally:
            os.close(self._fd)

    def _read_all(self) -> None:
        while not self._over:
            with self._change:
                self._change.wait_for(lambda: self._hungry or self._over)
            while not self._ours() and not self._over:
                time.sleep(_AWAY)  # there is no event for that
            if not await_any([self._fd], _AWAY) or not self._ours():
                continue
            try:
                data = os.read(self._fd, CHUNK)
            except OSError as error:
                if not self._ours():
                    continue  # a terminal that was taken from us between the look and the read
                if not is_gone(self._fd, error):
                    raise RexecError(f"standard input cannot be read: {error.strerror}") from error
                data = b""  # a terminal whose other side has closed
            with self._change:
                if not data:
                    self._ended = True
                    self._change.notify_all()
                    return
                self._append(data)


def _thread(run: Callable[[], None], fail: Fail) -> None:
    threading.Thread(target=guarded, args=(run, fail), daemon=True).start()


def _punch(fd: int, offset: int, length: int) -> None:
    """A file system that cannot make holes, or just now has no room to note one, keeps its bytes."""
    try:
        syscalls.fallocate(fd, _HOLE, offset, length)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, *FULL):
            raise
