"""The person in front of a job that may move: their terminal, their signals, what they are told."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from math import inf

from remoteio.errors import RexecError
from remoteio.submit.transport.job_control import end_questions
from shim.submit import threads
from shim.submit.foreground.own_streams import FATAL, merges
from shim.submit.foreground.progress import Progress, Waiting
from shim.submit.foreground.run import FORWARDED
from shim.submit.foreground.terminal import Terminal, in_foreground
from shim.submit.job.generation import Generation
from shim.submit.job.phase import Phase
from shim.submit.job.placement_events import State
from shim.submit.job.placement_steps import passed_over
from shim.submit.job.supervisor import JobSupervisor

_LEAVES = Phase.FROZEN, Phase.CHOOSING  # it stands still where it is until another host is ready
_LOOK = 0.25  # seconds between looks at how far a dump is


class Interrupted(RexecError):
    """A signal ended rexec while the job ran nowhere."""

    def __init__(self, number: int) -> None:
        super().__init__("interrupted")
        self.number = number


class Console:
    """Stands between a person and JobSupervisor. `tty`: the job has this process's terminal."""

    def __init__(self, tty: bool, say: Callable[[str], None], *, quiet: bool = False) -> None:
        """`quiet`: do not say either what is waited for."""
        self._terminal = Terminal(0) if tty else None
        self._say, self._quiet = say, quiet
        self._waiting: Waiting | None = None
        self._supervisor: JobSupervisor | None = None
        self._left: tuple[str, float] | None = None
        self._spoilt = False  # the screen that the job draws, by what it was told
        self._over = threading.Event()
        self._stops = False

    def bind(self, supervisor: JobSupervisor) -> None:
        """Pass signals to this job from now on."""
        self._supervisor = supervisor
        for number in FORWARDED:
            if number not in (signal.SIGWINCH, signal.SIGTSTP):
                self._catch(number)
        if self._terminal is not None:
            signal.signal(signal.SIGWINCH, lambda *_: self._resize())
        elif os.isatty(2):
            threading.Thread(target=self._show, args=(supervisor,), daemon=True).start()

    def _catch(self, number: signal.Signals) -> None:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, self._signalled)

    def _runs(self) -> None:
        """The job runs: only now are the terminal's stops its own. Until then ssh may ask, see job_control.py."""
        self._catch(signal.SIGTSTP)
        for number in (signal.SIGTTIN, signal.SIGTTOU):  # in the background we leave the terminal alone by ourselves
            signal.signal(number, signal.SIG_IGN)

    def ours(self) -> bool:
        """Tell whether standard input may be read now, or is somebody else's."""
        return self._terminal.ours() if self._terminal is not None else not os.isatty(0) or in_foreground(0)

    def close(self) -> None:
        """Put the terminal back."""
        self._over.set()
        if self._waiting is not None:
            self._waiting.close()
        end_questions()
        if self._terminal is not None:
            self._terminal.restore()

    def stopped(self, generation: Generation) -> None:
        """Stop too, as the job has, as it would have been seen to here, and go on together."""
        generation.pause()
        if self._terminal is not None and in_foreground(0):
            self._terminal.restore()
            self._stops = True
            os.killpg(0, signal.SIGTSTP)  # as our terminal would have done: a script around us stops with us
        # To this thread: one to the process may be heard by another first, and this one go on for a while.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        generation.resume()
        if self._terminal is not None:
            self._terminal.take()
            self._resize()
        generation.signal(signal.SIGCONT)

    def watch(self, before: State, after: State) -> None:
        """The job's phase changed, or whether it may be acting: from then on the terminal may be full of its words."""
        if before.phase == after.phase and (before.place.away < inf) != (after.place.away < inf):
            self._touch(after)
            return
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None
        if after.phase == Phase.STARTING and not after.place.live and not after.began and not self._quiet:
            self._waiting = Waiting(f"connecting to {after.place.host}")
        job = self._supervisor.record.id if self._supervisor is not None else 0
        if after.phase == Phase.RUNNING and before.phase == Phase.STARTING:
            for host, why in passed_over(before):  # as its log has it; the first time the screen is not the job's yet
                (self._mention if before.began else self._say)(f"{host}: passed over: {why}")
            self._runs()
            if self._spoilt:
                self._say(f"the job goes on on {after.place.host}")
            if self._terminal is not None:
                self._terminal.take()
                self._resize(redraw=self._spoilt)
                self._spoilt = False
            if self._left is not None:
                self._mention(f"the job goes on on {after.place.host}, {time.monotonic() - self._left[1]:.1f} s later")
            self._left = None
        elif after.phase == Phase.FROZEN:
            self._mention(f"the job stands still on {after.place.host}: {after.why}")
        elif before.phase == Phase.FROZEN and after.phase == Phase.RUNNING:
            self._mention(f"the job goes on on {after.place.host}")
        elif after.phase == Phase.LEFT or (before.phase, after.phase) == _LEAVES:
            left, why = ("has left", after.why) if after.phase == Phase.LEFT else ("leaves", before.why)
            self._left = before.place.host, time.monotonic()
            self._mention(f"the job {left} {before.place.host}: {why}")
        elif after.phase == Phase.LOST:
            self._left = after.place.host, time.monotonic()
            if after.images.newest:
                self._tell(
                    f"lost {after.place.host}: {after.why}; the job goes on from its last image as soon as it is safe"
                )
        elif after.phase == Phase.PARKED and after.why != before.why:
            self._tell(f"job {job} is parked: {after.why}")

    def _touch(self, state: State) -> None:
        """Tell the person at a terminal, who may wonder why nothing goes on."""
        if os.isatty(2) and state.place.live:
            host = state.place.host
            away = f"out of touch with {host}: the job goes on there, and waits for what it needs of here"
            self._mention(away if state.place.away < inf else f"in touch with {host} again: the job goes on")

    def _mention(self, text: str) -> None:
        if self._terminal is None:  # on a screen that the job draws it would only disturb
            self._say(text)

    def _tell(self, text: str) -> None:
        if self._terminal is not None:
            self._terminal.restore()
            self._spoilt = True
        self._say(text)

    def _signalled(self, number: int, _: object) -> None:
        supervisor = self._supervisor
        if number == signal.SIGTSTP and self._stops:
            self._stops = False  # our own, see stopped
            return
        said = sum(each.taken for each in supervisor.home.outputs.values()) if supervisor is not None else 0
        if merges(number, time.monotonic(), said):
            return
        if supervisor is not None and not supervisor.send_signal(number) and number in FATAL:
            supervisor.fail(Interrupted(number))

    def _resize(self, redraw: bool = False) -> None:
        """Tell the job the size; `redraw`: by way of another, as rexec attach does: it draws its screen anew."""
        generation = self._supervisor.generation() if self._supervisor is not None else None
        size = self._terminal.size() if self._terminal is not None else None
        if generation is None or size is None:
            return
        rows, *rest = size

        def tell() -> None:
            for fewer in (1, 0) if redraw else (0,):
                generation.resize(b"".join(n.to_bytes(2, "little") for n in (max(rows - fewer, 1), *rest)))

        threads.begin(tell)  # without one the size is told at its next change

    def _show(self, supervisor: JobSupervisor) -> None:
        """How far the dump is that the job leaves with, if it takes long."""
        progress: Progress | None = None
        while not self._over.wait(_LOOK):
            dump, generation = supervisor.state.images.dump, supervisor.generation()
            if dump is not None and dump.leaves and generation is not None:
                progress = progress or Progress(sys.stderr, "saving the job")
                progress.update(*generation.progress())
            elif progress is not None:
                progress.close()
                progress = None
