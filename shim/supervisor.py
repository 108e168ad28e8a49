"""Submit side: one job from start to end.

The link's frames are taken by a Crew: file requests go to the export, streams to their sinks, and what happens to the
job to the main thread, which also gets this process's signals and passes them on.
"""

from __future__ import annotations

import os
import queue
import resource
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from remoteio import frames, fuse_abi
from remoteio.crew import Crew
from remoteio.errors import RexecError
from remoteio.export import Export
from remoteio.ids import Ids
from remoteio.link import Link, LinkClosed
from shim import terminal_state
from shim.spec import JobSpec
from shim.streams import Sink, Source
from shim.terminal import Terminal, in_foreground

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
PULSE = 1.0  # seconds between signs of life
SKEW = 2.0  # seconds a host's clock may differ before it is said
_SLOW = frozenset(
    (
        fuse_abi.FSYNC,
        fuse_abi.FSYNCDIR,
        fuse_abi.SYNCFS,
        fuse_abi.FALLOCATE,
        fuse_abi.COPY_FILE_RANGE,
        fuse_abi.COPY_FILE_RANGE_64,
    )
)


@dataclass(frozen=True, slots=True)
class Ended:
    """How the job ended: `status` as waitpid(2) gives it, or None and the exit `code` and `reason` of rexec's own."""

    status: int | None
    code: int = 0
    reason: str = ""


class Supervisor:
    """Runs `spec` at the far end of `link`. `say` is given sentences for the person; `log` events for programs."""

    def __init__(self, link: Link, spec: JobSpec, say: Callable[[str], None], log: Callable[..., None]) -> None:
        self._link, self._spec, self._say, self._log = link, spec, say, log
        self._export: Export | None = None
        self._events: queue.SimpleQueue[tuple[str, object]] = queue.SimpleQueue()
        self._sinks: dict[int, Sink] = {}
        self._stdin: Source | None = None
        self._terminal = Terminal(0) if spec.tty else None
        self._pausing = threading.Event()

    def run(self) -> Ended:
        """Until the job has ended. Raises RexecError when the link is lost or the host misbehaves."""
        self._link.send(frames.START, self._spec.pack())
        if self._spec.tty:
            self._sink(frames.STDOUT, 1)
        else:
            for kind, fd in ((frames.STDOUT, 1), (frames.STDERR, 2)):
                if fd in self._spec.stdio:
                    self._sink(kind, fd)
        crew: Crew[bytes | memoryview] = Crew(self._receive, self._answer, self._slow)
        threading.Thread(target=self._serve, args=(crew,), name="serve", daemon=True).start()
        threading.Thread(target=self._pulse, name="pulse", daemon=True).start()
        self._catch_signals()
        try:
            return self._wait()
        finally:
            if self._terminal is not None:
                self._terminal.restore()

    def _sink(self, kind: int, fd: int) -> None:
        self._sinks[kind] = Sink(self._link, kind, os.dup(fd), _let_go(fd) if fd == 1 else os.close)
        self._sinks[kind].start(self._fail)

    def _fail(self, e: BaseException) -> None:
        self._events.put(("lost", e))

    def _serve(self, crew: Crew[bytes | memoryview]) -> None:
        try:
            crew.run()
        except BaseException as e:  # whatever ends this thread ends the run
            self._fail(e)

    def _pulse(self) -> None:
        while True:
            time.sleep(PULSE)
            if not self._pausing.is_set():
                try:
                    self._link.send(frames.PING)
                except LinkClosed:
                    return  # whoever receives says so

    # what comes over the link

    def _receive(self) -> list[bytes | memoryview]:
        """The file requests that came. All else is dealt with here, where nothing can overtake it."""
        requests = []
        for kind, payload in self._link.receive():
            if kind == frames.FUSE:
                requests.append(payload)
            else:
                self._take(kind, payload)
        if requests and self._export is None:
            raise RexecError("the host asks for files before it said who it is: its rexec is of another version")
        return requests

    def _slow(self, payload: bytes | memoryview) -> bool:
        """Is it known to take long? Looked at by the leader, so it must cost nothing."""
        if len(payload) >= frames.LARGE:
            return True
        if len(payload) < fuse_abi.ARGS:
            return False
        _, op, unique, *_ = fuse_abi.IN_HEADER.unpack_from(payload)
        if op == fuse_abi.READ and len(payload) >= fuse_abi.ARGS + fuse_abi.READ_IN.size:
            return bool(fuse_abi.READ_IN.unpack_from(payload, fuse_abi.ARGS)[2] > frames.LARGE)
        if op == fuse_abi.SETLKW:
            assert self._export is not None
            self._export.locks.expect(unique)
            return True
        return op in _SLOW

    def _answer(self, payload: bytes | memoryview) -> None:
        assert self._export is not None
        answer = self._export.answer(fuse_abi.Request(payload))
        if answer is not None:
            self._link.send(*answer)

    def _take(self, kind: int, payload: bytes | memoryview) -> None:
        if kind in self._sinks and kind in (frames.STDOUT, frames.STDERR):
            self._sinks[kind].put(payload)
        elif kind == frames.CREDIT and self._stdin is not None:
            self._stdin.window.give(int.from_bytes(payload[1:5], "little"))
        elif kind == frames.CLOSED and self._stdin is not None:
            self._stdin.window.close()
        elif kind == frames.HELLO:
            self._hello(frames.unpack_fields(payload))
        elif kind == frames.STARTED:
            self._events.put(("started", None))
        elif kind == frames.STOPPED:
            self._events.put(("stopped", payload[0]))
        elif kind == frames.EXIT:
            self._events.put(("ended", Ended(int.from_bytes(payload[:4], "little"))))
        elif kind == frames.FAIL:
            text = bytes(payload[4:]).decode("utf-8", "replace")
            self._events.put(("ended", Ended(None, int.from_bytes(payload[:4], "little"), text)))

    def _hello(self, fields: dict[str, list[bytes]]) -> None:
        uids, gids = _ranges(fields["uids"]), _ranges(fields["gids"])
        spec = self._spec
        self._export = Export(Ids(spec.uid, spec.gid, frozenset(spec.groups), uids or None, gids or None))
        skew = (int(fields["time"][0]) - time.time_ns()) / 1e9
        host = os.fsdecode(fields["host"][0])
        if abs(skew) > SKEW:
            self._say(
                "the clock of %s is %+.0f s off; programs that compare times may wonder: set it there" % (host, skew)
            )
        self._log("connected", host=host, clock_skew=skew)

    # what happens to this process

    def _catch_signals(self) -> None:
        for number in FORWARDED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._forward)
        signal.signal(signal.SIGTSTP, self._forward)
        signal.signal(signal.SIGCONT, lambda *_: self._events.put(("continued", None)))
        signal.signal(signal.SIGTTIN, signal.SIG_IGN)
        if self._terminal is not None:
            signal.signal(signal.SIGWINCH, lambda *_: self._resize())

    def _forward(self, number: int, _: object) -> None:
        self._send(frames.SIGNAL, bytes((number,)))

    def _resize(self) -> None:
        self._send(frames.WINSIZE, b"".join(n.to_bytes(2, "little") for n in terminal_state.window(0)))

    def _send(self, kind: int, payload: bytes) -> None:
        try:
            self._link.send(kind, payload)
        except LinkClosed as e:
            self._fail(e)

    def _wait(self) -> Ended:
        while True:
            what, value = self._events.get()
            if what == "started":
                self._log("started")
                self._feed()
            elif what == "stopped":
                self._stop()
            elif what == "ended":
                assert isinstance(value, Ended)
                if value.status is not None:
                    for sink in self._sinks.values():
                        sink.done.wait()
                return value
            elif what == "lost":
                assert isinstance(value, BaseException)
                raise value

    def _feed(self) -> None:
        """The job runs: the keys, or standard input, are its own now."""
        if self._terminal is not None:
            self._terminal.raw()
            self._resize()
        if 0 in self._spec.stdio or self._spec.tty:
            fd = os.dup(0)
            self._stdin = Source(self._link, frames.STDIN, fd, in_foreground(fd) if os.isatty(fd) else None)
            self._stdin.start(self._fail)

    def _stop(self) -> None:
        """The job stopped: stop too, as it would have been seen to here, and go on together."""
        self._pausing.set()
        if self._terminal is not None:
            self._terminal.restore()
        self._send(frames.PAUSE, b"")
        self._link.flush()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._pausing.clear()
        self._send(frames.PING, b"")
        if self._terminal is not None:
            self._terminal.raw()
            self._resize()
        self._send(frames.SIGNAL, bytes((signal.SIGCONT,)))


def _let_go(fd: int) -> Callable[[int], None]:
    """What closes a sink's descriptor, and with it this process's own `fd`: the job closed its last one."""

    def close(own: int) -> None:
        os.close(own)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, fd)
        os.close(null)

    return close


def _ranges(texts: list[bytes]) -> list[tuple[int, int]]:
    pairs = [text.split() for text in texts]
    return [(int(first), int(count)) for first, count in pairs]


def die_like(status: int) -> int:
    """End as the job did: by the same signal, if it was one. Returns the exit status where there was none."""
    if not os.WIFSIGNALED(status):
        return os.waitstatus_to_exitcode(status)
    number = os.WTERMSIG(status)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # its core is its own; ours tells nothing
    signal.signal(number, signal.SIG_DFL) if number not in (signal.SIGKILL, signal.SIGSTOP) else None
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
    return 128 + number
