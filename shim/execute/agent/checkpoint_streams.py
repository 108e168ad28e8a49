"""The streams of a job of which images are made: where each begins, and how all come to rest at a dump. Shipped."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from contextlib import ExitStack

from checkpoint.execute.dump import DumpError
from checkpoint.wire.manifest import Manifest
from remoteio.wire import frames
from remoteio.wire.link import Link
from shim.execute.agent import typeahead
from shim.execute.agent.counted_streams import QUIET, CountedSink, CountedSource
from shim.execute.agent.diagnostics import fail
from shim.execute.agent.job_streams import JobStreams
from shim.execute.agent.job_tree import Gone, JobTree
from shim.execute.init import messages


class CheckpointStreams(JobStreams):
    """Counts each stream from where the image left it, and brings all to rest for the next.

    pipes   the inode of each pipe, by the job's number for it: by that criu knows it
    tty     st_rdev and st_dev of the terminal's slave, or None
    slave   an open descriptor of it, or -1

    Threads: as of JobStreams; the one that dumps calls `rest`, `retype` and `let_go`, the one that restores
    `type_ahead`, each while the tree stands still; the one that hears init `begin` and `end`.
    """

    def __init__(self, link: Link, tree: JobTree, stdio: dict[int, int], manifest: Manifest | None) -> None:
        """`stdio`: our ends of the pipes; `manifest`: of the image that the job goes on from."""
        super().__init__(link)
        self._tree, self._manifest = tree, manifest
        self._counted: dict[int, CountedSource] = {}
        self._sink: CountedSink | None = None
        self.pipes = {k: os.fstat(fd).st_ino for k, fd in stdio.items()}
        self.tty: tuple[int, int] | None = None
        self.slave = -1
        self._typed = b""  # what lay unread at the terminal, and has been taken out of it
        self._size = b""

    def open_terminal(self, device: bytes, fds: list[int]) -> None:
        rdev, dev = device.split()
        self.tty, self.slave = (int(rdev), int(dev)), fds[1]
        super().open_terminal(device, fds)

    def _input(self, fd: int, terminal: bool) -> None:
        sink = CountedSink(self._link, frames.STDIN, fd, terminal=terminal)
        image = self._manifest
        if image is not None and not terminal:
            sink.prime(image.streams.stdin_unread, image.streams.stdin)
            if image.stats.get("stdin_ended"):
                sink.put(b"")
        elif image is not None:
            sink.written = image.streams.stdin + len(image.streams.stdin_unread)
            sink.hold(True)  # until criu has made the terminal's settings those of the old one
        self._sink = sink
        sink.suspend = self._suspend
        sink.start(fail)

    def _output(self, kind: int, fd: int) -> None:
        sent = 0
        if self._manifest is not None:
            sent = self._manifest.streams.stdout if kind == frames.STDOUT else self._manifest.streams.stderr
        self._counted[kind] = self.sources[kind] = CountedSource(self._link, kind, fd, sent, self._tree.lives)
        self._counted[kind].start(fail)

    def _suspend(self) -> None:
        """^Z was typed. Where the job's own group has the terminal it stops nobody; all others the kernel stops."""
        try:
            if os.tcgetpgrp(self.master) == os.getpgid(self._tree.root()):
                self._tree.tell(messages.SUSPEND)
        except (OSError, Gone):
            return  # the job has just ended

    def put(self, data: bytes | memoryview) -> None:
        if self._sink is not None:
            self._sink.put(data)

    def credit(self, payload: bytes | memoryview) -> None:
        self._counted[payload[0]].credit(int.from_bytes(payload[1:5], "little"))

    def state(self) -> dict[str, list[bytes]]:
        """Tell a home that knows nothing of the job any more how far its streams are: fields of STATE."""
        sink, why = self._sink, []
        if self.tty is not None or (sink is not None and not sink.given_all):
            why.append(b"it may be given input yet, of which home does not know how much it has had")
        if not {frames.STDOUT, frames.STDERR}.issuperset(self._counted):
            why.append(b"it has more streams than an image tells of")
        return {"stdin": [b"%d" % (sink.written if sink is not None else 0)], "why": why}

    def say_again(self, written: dict[int, int], first: Callable[[], None]) -> None:
        """Send what home has not written of each stream, after what `first` sends. Raises ProtocolError, LinkClosed."""
        with ExitStack() as turns:
            for source in self._counted.values():
                turns.enter_context(source.turn)
            first()
            for kind, source in self._counted.items():
                source.say_again(written.get(kind, 0))

    def resize(self, size: bytes | memoryview) -> None:
        self._size = bytes(size)
        super().resize(size)

    def begin(self, settings: list[int]) -> None:
        """Let standard input in: the job runs here from now on. `settings`: of its terminal, as in JobSpec.tty."""
        if self._manifest is not None and settings:
            # criu has set the size that the terminal had where the job came from
            super().resize(self._size or struct.pack("HHHH", *settings[:4]))
        if self._sink is not None:
            self._sink.hold(False)

    def end(self) -> None:
        """Let go of the terminal: the job has ended, and its master comes to its end with the last slave."""
        if self.slave >= 0:
            os.close(self.slave)
            self.slave = -1

    # At a dump and a restore.

    def rest(self, leave: bool) -> dict[str, object]:
        """Bring all streams to rest, and return what an image says of them; ``let_go`` and ``retype`` undo it.

        The tree stands still. Raises DumpError.
        """
        sink = self._sink
        if sink is not None:
            sink.hold(True)
        sent = {kind: source.drain(QUIET if self.tty else 0) for kind, source in self._counted.items()}
        unread, read = b"", 0
        if sink is not None:
            try:
                unread = sink.unread() if not sink.terminal else typeahead.take(self.slave)
            except ValueError as e:
                raise DumpError(str(e)) from e
            read = sink.written - len(unread)
            if sink.terminal:
                self._typed = unread
                if not leave:
                    self.retype()
            sink.hold(leave and sink.terminal)  # what is typed now comes after what is put back
        return {
            "streams": {
                "stdout": sent.get(frames.STDOUT, 0), "stderr": sent.get(frames.STDERR, 0),
                "stdin": read, "stdin_unread": unread.hex(),
            },
            "stdin_ended": sink is not None and sink.ended,
            "pipes": {str(k): inode for k, inode in self.pipes.items()},
            "terminal": list(self.tty) if self.tty is not None else None,
        }  # fmt: skip

    def let_go(self) -> None:
        """Let standard input in again: the dump is over."""
        if self._sink is not None:
            self._sink.hold(False)

    def retype(self) -> None:
        """Put back what was taken out of the terminal to be saved."""
        unread, self._typed = self._typed, b""
        typeahead.put(self.master, self.slave, unread)

    def type_ahead(self, unread: bytes) -> None:
        """Have it lie unread at the terminal, as it did where the image was made."""
        typeahead.put(self.master, self.slave, unread)
