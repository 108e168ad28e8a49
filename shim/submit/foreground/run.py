"""Runs one job from start to end for the person in front: with this process's streams, signals and terminal.

PlainRun does what needs no person. What is here is called by the main thread alone, except where it says otherwise.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from remoteio.wire import frames
from remoteio.wire.link import Link
from shim.submit import host_frames, own_process
from shim.submit.clock_skew import clock_skew, skew_told
from shim.submit.foreground.own_streams import FATAL, let_go, merges, raise_lost, raise_signals
from shim.submit.foreground.terminal import Terminal, in_foreground
from shim.submit.hosts import orphaned
from shim.submit.hosts.redial import told
from shim.submit.plain_run import PlainRun, RunResult, StreamEnd
from shim.submit.refusals_told import Told
from shim.submit.scope import JobRights
from shim.submit.spent import Spent
from shim.wire import lease
from shim.wire.descriptors import WRITE, stream_kinds
from shim.wire.job_spec import JobSpec

if TYPE_CHECKING:
    from shim.submit.hosts.dialler import Dialler

FORWARDED = (*FATAL, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP, signal.SIGWINCH)


_DOUBTFUL = 2 * lease.PULSE  # seconds of silence after which who asks for an end again is not to wait for the host


class ForegroundRun:
    """Runs `spec` at the far end of `link`. `say` is given sentences for the person; `log` events for programs."""

    def __init__(
        self,
        link: Link,
        spec: JobSpec,
        say: Callable[[str], None],
        log: Callable[..., None],
        rights: JobRights | None = None,
        dialler: Dialler | None = None,
        since_ns: int = 0,
        *,
        served: bool = False,
    ) -> None:
        """`rights`, `dialler`: see HostSession; `since_ns`: the host's first word was said after that; `served`: see
        PlainRun."""
        self._spec, self._say, self._log, self._since_ns = spec, say, log, since_ns
        self.lacks = ""  # what its host had to do without, in a sentence
        self.cost: Spent | None = None  # once its host has said so
        self._terminal = Terminal(0) if spec.tty else None
        self._never = False  # its host has not let it begin
        self._asked: tuple[int, int] | None = None  # the last signal that ends most programs, and where it was sent
        outputs: dict[int, StreamEnd] = {}
        self._inputs: dict[int, int] = {}
        for kind, each in stream_kinds(spec.descriptors).items():
            if each.kind == WRITE:
                outputs[kind] = StreamEnd(os.dup(each.number), self._closes(each.number))
            else:
                self._inputs[kind] = each.number
        for kind, fd in ((frames.STDOUT, 1), (frames.STDERR, 2)):
            if fd in spec.stdio or (fd == 1 and spec.tty):
                # 2 stays: what we have to say goes there too
                outputs[kind] = StreamEnd(os.dup(fd), self._closes(fd) if fd == 1 else os.close)
        self._run = PlainRun(link, spec, outputs, self, rights, dialler, served=served)
        self._dialler = dialler

    def run(self, *, lingers: bool) -> RunResult:
        """Run the job until it has ended; `lingers` as for PlainRun.run. Raises RexecError when the link is lost or the
        host misbehaves."""
        own_process.settle()  # it is the person's run and nothing else's
        self._catch_signals()
        raise_lost()
        try:
            with orphaned.ended(self._dialler):
                ended = self._run.run(lingers=lingers)
            return ended._replace(keys=self._terminal is not None and in_foreground(0))
        finally:
            if self._terminal is not None:
                self._terminal.restore()

    def _closes(self, fd: int) -> Callable[[int], None]:
        close = let_go(fd)
        return lambda copy: os.close(copy) if self._never else close(copy)

    def never_was(self) -> None:
        """Give back all that the run held, after `run`, where its job has not begun: another may take its place.

        This process's own streams and terminal are as they were, and its signals as before there was a job.
        """
        self._never = True
        for number in (*FORWARDED, signal.SIGCONT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        self._run.release()
        raise_signals()

    def refused(self) -> Told:
        """See PlainRun.refused."""
        return self._run.refused()

    def leaves(self, held: Callable[[int], None]) -> None:
        """Let go, once it has ended, what takes long to be closed: see Leases.close."""
        export = self._run.session.export
        if export is not None:
            export.leases.close(held)

    # PlainRun's watcher

    def greeted(self, hello: host_frames.Hello) -> None:
        """Say what is wrong with the host's clock. Called by the session's thread."""
        warning = skew_told(hello, self._since_ns)
        if warning:
            self._say(warning)
        self._log("connected", host=hello.host, clock_skew=clock_skew(hello, self._since_ns))

    def begun(self) -> dict[int, StreamEnd]:
        """Let the job have the keys, or standard input, and what else it reads: it runs."""
        self._log("started")
        inputs = {kind: StreamEnd(os.dup(fd), let_go(fd)) for kind, fd in self._inputs.items()}
        own = self._begin_own()
        return inputs if own is None else {**inputs, frames.STDIN: own}

    def _begin_own(self) -> StreamEnd | None:
        if self._terminal is not None:
            self._terminal.take()
            self._resize()
            return StreamEnd(os.dup(0), os.close, self._terminal.ours)
        if 0 in self._spec.stdio:
            mine = (lambda: in_foreground(0)) if os.isatty(0) else (lambda: True)
            return StreamEnd(os.dup(0), let_go(0), mine)
        return None

    def stopped(self) -> None:
        """Stop too, as the job has, as it would have been seen to here."""
        if not self._run.session.pause():
            return  # whoever receives says why
        if self._terminal is not None and in_foreground(0):
            self._terminal.restore()
            signal.signal(signal.SIGTSTP, signal.SIG_IGN)
            os.killpg(0, signal.SIGTSTP)  # as our terminal would have done: a script around us stops with us
            signal.signal(signal.SIGTSTP, self._caught)
        os.kill(os.getpid(), signal.SIGSTOP)

    def away(self, why: str) -> None:
        """Tell the person, who may wonder why nothing goes on."""
        self._log("away", why=why)
        if self._asked is not None and self._unheard():
            self._end_out_of_touch(self._asked[0])
            return
        if os.isatty(2):
            wait = f"the job waits for it, up to {told(self._spec.lease)}"
            self._say(f"out of touch with {self._run.session.host}{f' ({why})' if why else ''}; {wait}")

    def joined(self) -> None:
        """Tell the person that all goes on."""
        self._log("joined")
        if os.isatty(2):
            self._say(f"in touch with {self._run.session.host} again: the job goes on")

    def unleased(self, why: str) -> None:
        """Keep why its host asks more than it had to."""
        self._log("unleased", why=why)
        self.lacks = why

    def spent(self, cost: Spent) -> None:
        """Keep what the job has cost."""
        self.cost = cost

    # what happens to this process

    def _catch_signals(self) -> None:
        # The kernel may deliver a signal to any thread: the wakeup wakes the main one, where Python runs the handler.
        signal.set_wakeup_fd(self._run.wakeup.write_fd, warn_on_full_buffer=False)
        for number in FORWARDED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._caught)
        signal.signal(signal.SIGCONT, lambda *_: self._run.tell(self._continued))
        for number in (signal.SIGTTIN, signal.SIGTTOU):  # in the background we leave the terminal alone by ourselves
            signal.signal(number, signal.SIG_IGN)
        if self._terminal is not None:
            signal.signal(signal.SIGWINCH, lambda *_: self._run.tell(self._resize))

    def _caught(self, number: int, _: object) -> None:
        # Only noted: the main thread, which this interrupts, may be in the middle of a send.
        if not merges(number, time.monotonic(), self._run.said):
            self._run.tell(lambda: self._signalled(number))

    def _signalled(self, number: int) -> None:
        session = self._run.session
        if number not in FATAL:
            session.send(frames.SIGNAL, bytes((number,)))
        elif not self._run.started or self._run.ended:
            self._run.give_up(RunResult(number))
        elif self._run.out_of_touch or (self._unheard() and session.silent > _DOUBTFUL):
            self._end_out_of_touch(number)
        else:
            session.send(frames.SIGNAL, bytes((number,)))
            self._asked = number, session.mark()

    def _unheard(self) -> bool:
        """Tell whether the person has asked for an end and the host has not heard so, as far as is known."""
        return self._asked is not None and self._run.session.lacks(self._asked[1])

    def _end_out_of_touch(self, number: int) -> None:
        there = f"nobody can tell {self._run.session.host}, which ends the job itself within"
        self._say(f"the job has ended here; {there} {told(max(self._spec.lease, lease.AGENT))}")
        self._run.give_up(RunResult(number, away=True))

    def _resize(self) -> None:
        size = self._terminal.size() if self._terminal is not None else None
        if size is not None:
            self._run.session.send(frames.WINSIZE, b"".join(n.to_bytes(2, "little") for n in size))

    def _continued(self) -> None:
        self._run.session.resume()
        if self._terminal is not None and self._run.started:
            self._terminal.take()
            self._resize()
        self._run.session.send(frames.SIGNAL, bytes((signal.SIGCONT,)))
