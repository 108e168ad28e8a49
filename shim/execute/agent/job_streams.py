"""The streams of a job: its pipes and its terminal on one side, the link on the other. Shipped."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable

from remoteio.wire import frames
from remoteio.wire.link import Link
from shim.execute.agent.diagnostics import fail
from shim.wire import terminal_state
from shim.wire.stream_pumps import Sink, Source


class JobStreams(ABC):
    """Passes on what a job reads and writes.

    sources  what the job writes, by the kind of frame
    master   the master of its terminal, or -1
    before   waits until what the job has said may be told

    Threads: the agent's main thread opens the pipes and hands in what comes over the link; the one that hears init
    opens the terminal. A pump has a thread of its own.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self.sources: dict[int, Source] = {}
        self._sinks: dict[int, Sink] = {}
        self.master = -1
        self.before: Callable[[], None] = lambda: None

    def open_pipes(self, stdio: dict[int, int]) -> None:
        """Begin with the job's pipes: our end of each, by its number."""
        for k, fd in stdio.items():
            if k == 0:
                self._input(fd, terminal=False)
            else:
                self._output(frames.STDOUT if k == 1 else frames.STDERR, fd)

    def open_extra(self, pipes: dict[int, tuple[int, bool]]) -> dict[int, Callable[[bytes | memoryview], None]]:
        """Begin with the job's pipes from descriptor 3 on: by the kind of frame our end, and whether the job reads it.

        Returns what takes the frames of each that it reads.
        """
        take: dict[int, Callable[[bytes | memoryview], None]] = {}
        for kind, (fd, reads) in pipes.items():
            if reads:
                sink = self._sinks[kind] = Sink(self._link, kind, fd, before=self.before)
                sink.start(fail)
                take[kind] = sink.put
            else:
                self._output(kind, fd)
        return take

    def open_terminal(self, device: bytes, fds: list[int]) -> None:
        """Begin with the job's terminal: payload and descriptors of TERMINAL."""
        self.master = fds[0]
        self._output(frames.STDOUT, os.dup(fds[0]))
        self._input(os.dup(fds[0]), terminal=True)

    @abstractmethod
    def _input(self, fd: int, terminal: bool) -> None:
        """Begin to write what comes as STDIN to `fd`."""

    @abstractmethod
    def _output(self, kind: int, fd: int) -> None:
        """Begin to send what is read from `fd` as frames of `kind`."""

    @abstractmethod
    def put(self, data: bytes | memoryview) -> None:
        """Have standard input written; empty: its end."""

    def credit(self, payload: bytes | memoryview) -> None:
        """Take a CREDIT frame: its reader has room for more."""
        self.sources[payload[0]].window.give(int.from_bytes(payload[1:5], "little"))

    def closed(self, payload: bytes | memoryview) -> None:
        """Take a CLOSED frame: nobody reads that stream any more."""
        self.sources[payload[0]].stop()

    def resize(self, size: bytes | memoryview) -> None:
        """Give the terminal, if there is one, the size that a WINSIZE frame has."""
        if self.master >= 0:
            terminal_state.resize(self.master, size)

    def drain(self) -> None:
        """Wait until all that the job wrote has been sent: it has ended."""
        for source in self.sources.values():
            source.done.wait()

    def give_back(self) -> bool:
        """Give back what is held, once the job has ended; nothing more is said of it then. False: that cannot be."""
        return False


_ENDS = 1.0  # seconds that a thread may take which writes to nobody any more


class PlainStreams(JobStreams):
    """The streams of a job of which no images are made."""

    def _input(self, fd: int, terminal: bool) -> None:
        self._sinks[frames.STDIN] = Sink(self._link, frames.STDIN, fd, before=self.before)
        self._sinks[frames.STDIN].start(fail)

    def _output(self, kind: int, fd: int) -> None:
        self.sources[kind] = Source(self._link, kind, fd, before=self.before)
        self.sources[kind].start(fail)

    def put(self, data: bytes | memoryview) -> None:
        if frames.STDIN in self._sinks:
            self._sinks[frames.STDIN].put(data)

    def closed(self, payload: bytes | memoryview) -> None:
        """See JobStreams. A terminal that is gone there is hung up here: who writes to it is told so and goes on."""
        super().closed(payload)
        if payload[0] == frames.STDOUT and self.master >= 0:
            self.put(b"")
            os.close(self.master)
            self.master = -1

    def give_back(self) -> bool:
        """See JobStreams."""
        for sink in self._sinks.values():
            sink.put(b"")
        if not all(sink.done.wait(_ENDS) for sink in self._sinks.values()):
            return False
        if self.master >= 0:
            os.close(self.master)
        return True
