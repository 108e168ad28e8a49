"""Submit side: one job from start to end.

A HostSession serves the files. Of what else the host says, streams go to their sinks, and what happens to the job to
the main thread, which also gets this process's signals and passes them on.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from remoteio.errors import RexecError
from remoteio.wire import frames
from remoteio.wire.link import Link, LinkClosed
from shim.submit import host_frames
from shim.submit.foreground.own_streams import FATAL, let_go
from shim.submit.foreground.terminal import Terminal, in_foreground
from shim.submit.host_session import HostSession, clock_skew, skew_told
from shim.wire import lease, terminal_state
from shim.wire.job_spec import JobSpec
from shim.wire.stream_pumps import Sink, Source
from shim.wire.wakeup import Wakeup

FORWARDED = (*FATAL, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP, signal.SIGWINCH)


@dataclass(frozen=True, slots=True)
class RunResult:
    """How the job ended: `status` as waitpid(2) gives it, or None and the exit `code` and `reason` of rexec's own.

    `keys`: the job had this process's terminal.
    """

    status: int | None
    code: int = 0
    reason: str = ""
    keys: bool = False


class ForegroundRun:
    """Runs `spec` at the far end of `link`. `say` is given sentences for the person; `log` events for programs."""

    def __init__(self, link: Link, spec: JobSpec, say: Callable[[str], None], log: Callable[..., None]) -> None:
        self._link, self._spec, self._say, self._log = link, spec, say, log
        self._session = HostSession(link, spec, self)
        self._events: deque[Callable[[], None]] = deque()  # for the main thread, which the wakeup calls
        self._wakeup = Wakeup()
        self._sinks: dict[int, Sink] = {}
        self._open: set[int] = set()  # the sinks that have not ended
        self._stdin: Source | None = None
        self._terminal = Terminal(0) if spec.tty else None
        self._started = False
        self._ended: RunResult | None = None

    def run(self) -> RunResult:
        """Until the job has ended. Raises RexecError when the link is lost or the host misbehaves."""
        self._catch_signals()
        self._link.send(frames.START, self._spec.pack())
        for kind, fd in ((frames.STDOUT, 1), (frames.STDERR, 2)):
            if fd in self._spec.stdio or (fd == 1 and self._spec.tty):
                self._sink(kind, fd)
        threading.Thread(target=self._serve, name="serve", daemon=True).start()
        try:
            wait = select.poll()
            wait.register(self._wakeup.fd, select.POLLIN)
            while self._ended is None or self._open:
                if not self._events:
                    wait.poll()
                    self._wakeup.clear()
                else:
                    self._events.popleft()()
            return self._ended
        finally:
            if self._terminal is not None:
                self._terminal.restore()
            self._session.close()

    def _tell(self, event: Callable[[], None]) -> None:
        """Have it happen in the main thread. Also for signal handlers: it takes no lock that the main thread holds."""
        self._events.append(event)
        self._wakeup.set()

    def _sink(self, kind: int, fd: int) -> None:
        release = let_go(fd) if fd == 1 else os.close  # 2 stays: what we have to say goes there too

        def close(copy: int) -> None:
            release(copy)
            self._tell(lambda: self._open.discard(kind))

        self._open.add(kind)
        self._sinks[kind] = Sink(self._link, kind, os.dup(fd), close)
        self._sinks[kind].start(self._stream_fails)

    def _stream_fails(self, e: BaseException) -> None:
        if not isinstance(e, LinkClosed):  # else whoever receives says so
            self._fail(e)

    def _fail(self, e: BaseException) -> None:
        self._tell(lambda: self._failed(e))

    def _serve(self) -> None:
        try:
            self._session.serve()
        except BaseException as e:  # whatever ends this thread ends the run
            self._fail(e)

    # what comes over the link: HostSession's handler

    def silent(self) -> None:
        text = "%s has not been heard of for %.0f s, so the job is lost: the host ends what it cannot report; "
        self._fail(RexecError(text % (self._session.host, lease.HOME) + "see whether it and the network to it are up"))

    def take(self, kind: int, payload: bytes | memoryview) -> None:
        if kind in self._sinks and kind in (frames.STDOUT, frames.STDERR):
            self._sinks[kind].put(payload)
        elif kind == frames.CREDIT:
            _, count = host_frames.credit(payload)
            if self._stdin is not None:
                self._stdin.window.give(count)
        elif kind == frames.CLOSED and self._stdin is not None:
            self._stdin.stop()
        elif kind == frames.STARTED:
            self._tell(self._begun)
        elif kind == frames.STOPPED:
            self._tell(self._stopped)
        elif kind == frames.EXIT:
            status = host_frames.exit_status(payload)
            self._tell(lambda: self._end(RunResult(status, keys=self._terminal is not None and in_foreground(0))))
        elif kind == frames.FAIL:
            code, text = host_frames.failure(payload)
            self._tell(lambda: self._end(RunResult(None, code, text)))

    def greeted(self, hello: host_frames.Hello) -> None:
        warning = skew_told(hello)
        if warning:
            self._say(warning)
        self._log("connected", host=hello.host, clock_skew=clock_skew(hello))

    # what happens to this process

    def _catch_signals(self) -> None:
        # The kernel may deliver a signal to any thread: the wakeup wakes the main one, where Python runs the handler.
        signal.set_wakeup_fd(self._wakeup.write_fd, warn_on_full_buffer=False)
        for number in FORWARDED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._caught)
        signal.signal(signal.SIGCONT, lambda *_: self._tell(self._continued))
        for number in (signal.SIGTTIN, signal.SIGTTOU):  # in the background we leave the terminal alone by ourselves
            signal.signal(number, signal.SIG_IGN)
        if self._terminal is not None:
            signal.signal(signal.SIGWINCH, lambda *_: self._tell(self._resize))

    def _caught(self, number: int, _: object) -> None:
        # Only noted: the main thread, which this interrupts, may be in the middle of a send.
        self._tell(lambda: self._signalled(number))

    # the main thread's events

    def _signalled(self, number: int) -> None:
        if number in FATAL and (not self._started or self._ended is not None):
            self._ended = RunResult(number)
            self._open.clear()
        else:
            self._session.send(frames.SIGNAL, bytes((number,)))

    def _end(self, ended: RunResult) -> None:
        """The job is at its end; what it wrote last is on its way, unless it was lost with the job."""
        self._ended = ended
        if ended.status is None:
            self._open.clear()

    def _failed(self, e: BaseException) -> None:
        if self._ended is None or not isinstance(e, LinkClosed):
            raise e

    def _resize(self) -> None:
        self._session.send(frames.WINSIZE, b"".join(n.to_bytes(2, "little") for n in terminal_state.window(0)))

    def _begun(self) -> None:
        """The job runs: the keys, or standard input, are its own now."""
        self._started = True
        self._log("started")
        if self._terminal is not None:
            self._terminal.take()
            self._resize()
            self._stdin = Source(self._link, frames.STDIN, os.dup(0), os.close, self._terminal.ours)
        elif 0 in self._spec.stdio:
            mine = (lambda: in_foreground(0)) if os.isatty(0) else (lambda: True)
            self._stdin = Source(self._link, frames.STDIN, os.dup(0), let_go(0), mine)
        if self._stdin is not None:
            self._stdin.start(self._stream_fails)

    def _stopped(self) -> None:
        """The job stopped: stop too, as it would have been seen to here."""
        if not self._session.pause():
            return  # whoever receives says why
        if self._terminal is not None and in_foreground(0):
            self._terminal.restore()
            signal.signal(signal.SIGTSTP, signal.SIG_IGN)
            os.killpg(0, signal.SIGTSTP)  # as our terminal would have done: a script around us stops with us
            signal.signal(signal.SIGTSTP, self._caught)
        os.kill(os.getpid(), signal.SIGSTOP)

    def _continued(self) -> None:
        self._session.resume()
        if self._terminal is not None and self._started:
            self._terminal.take()
            self._resize()
        self._session.send(frames.SIGNAL, bytes((signal.SIGCONT,)))
