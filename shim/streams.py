"""Streams between a descriptor and the link, one thread each, with flow control. Shipped; used at both ends."""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Callable

from remoteio.frames import CLOSED, LARGE
from remoteio.link import Link, Window, credit

CHUNK = LARGE - 4096  # below LARGE: the frames of a stream, and its end, stay in order


class Source:
    """Reads `fd` and sends it as frames of `kind`, as far as the other end gives credit; an empty frame is its end."""

    def __init__(self, link: Link, kind: int, fd: int, ready: Callable[[], None] | None = None) -> None:
        """`ready`, if given, is waited for before each read."""
        self._link, self.kind, self._fd, self._ready = link, kind, fd, ready
        self.window = Window()
        self.done = threading.Event()

    def start(self, fail: Callable[[BaseException], None]) -> None:
        """Begin, in a thread of its own."""
        threading.Thread(target=_guarded, args=(self._run, fail), name="source-%d" % self.kind, daemon=True).start()

    def _run(self) -> None:
        try:
            while True:
                room = self.window.take(CHUNK)
                if not room:
                    return  # nobody reads it there: closing our end tells the writer
                if self._ready is not None:
                    self._ready()
                try:
                    data = os.read(self._fd, room)
                except OSError as e:
                    if e.errno not in (errno.EIO, errno.ECONNRESET):
                        raise
                    data = b""  # a terminal whose other side has closed
                if not data:
                    self._link.send(self.kind, b"")
                    return
                self.window.give(room - len(data))
                self._link.send(self.kind, data)
        finally:
            os.close(self._fd)
            self.done.set()


class Sink:
    """Writes what comes as frames of one kind to `fd`, and gives credit for it; closes `fd` at the end."""

    def __init__(self, link: Link, kind: int, fd: int, close: Callable[[int], None] = os.close) -> None:
        self._link, self.kind, self._fd, self._close = link, kind, fd, close
        self._queue: queue.SimpleQueue[bytes | memoryview] = queue.SimpleQueue()
        self.done = threading.Event()

    def start(self, fail: Callable[[BaseException], None]) -> None:
        """Begin, in a thread of its own."""
        threading.Thread(target=_guarded, args=(self._run, fail), name="sink-%d" % self.kind, daemon=True).start()

    def put(self, data: bytes | memoryview) -> None:
        """Have `data` written; empty: the end. Never blocks: the window bounds what can be waiting."""
        self._queue.put(data)

    def _run(self) -> None:
        try:
            while True:
                data = self._queue.get()
                if not data:
                    return
                size = len(data)
                try:
                    while data:
                        data = data[os.write(self._fd, data) :]
                except OSError as e:
                    if e.errno not in (errno.EPIPE, errno.EIO, errno.ECONNRESET):
                        raise
                    self._link.send(CLOSED, bytes((self.kind,)))
                    return
                self._link.send(*credit(self.kind, size))
        finally:
            self._close(self._fd)
            self.done.set()


def _guarded(run: Callable[[], None], fail: Callable[[BaseException], None]) -> None:
    try:
        run()
    except BaseException as e:  # whatever ends a thread of ours ends the run, and is raised there
        fail(e)
