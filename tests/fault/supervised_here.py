"""A job with a supervisor in a process of its own, whose hosts are agents on this machine that can be struck."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from checkpoint.submit import obtain_criu
from checkpoint.submit.store import Store
from remoteio.submit.transport.ssh import open_local
from remoteio.submit.transport.stream import Stream
from remoteio.wire import frames
from shim.submit.hosts import bootstrap
from shim.submit.hosts.config import Host
from shim.submit.hosts.connect import AGENT
from shim.submit.job import control_socket, placement_steps
from shim.submit.job.home import JobHome
from shim.submit.job.output_file import OutputFile
from shim.submit.job.record import Record, create, packed
from shim.submit.job.replayed_streams import OutputOnce, ReplayedInput
from shim.submit.job.supervisor import JobSupervisor
from shim.submit.scope import Scope
from tests.mover import Mover, struck_stream
from tests.until import until

# It says each number, writes it to a log, and holds a lock of either kind all the time.
JOB = """
import fcntl, os, time
whole, part = open("whole", "w"), open("part", "w")
fcntl.flock(whole, fcntl.LOCK_EX)
fcntl.lockf(part, fcntl.LOCK_EX, 10, 5)
log, i = open("log", "a"), 0
while not os.path.exists("end"):
    i += 1
    print(i, file=log, flush=True)
    print(i, flush=True)
    time.sleep(.01)
raise SystemExit(7)
"""


class Supervised:
    """One job; `strikes`: what becomes of the next agents on each host, see tests/strike.py."""

    def __init__(self, home: Path, kept: obtain_criu.Bundle, hosts: tuple[str, ...], program: str = JOB) -> None:
        for name in ("STATE", "CONFIG", "DATA"):
            os.environ[f"XDG_{name}_HOME"] = str(home / name.lower())
        self.home, self.kept = home, kept
        argv = ["/usr/bin/python3", "-c", program]
        spec = Mover(argv, home, home / "unused").spec(b"")
        spec.stdio, spec.checkpoint = [1], None
        self.job = create(Record(
            id=0, command=tuple(argv), cwd=str(home), created=time.time(), hosts=hosts, owner="none", every=-1.0,
            keep=2, detached=True, tty=False, spec=packed(spec), scope=Scope().row(),
        ))  # fmt: skip
        self.pid = 0
        self.otherwise = "nowhere:none:1"  # what becomes of agents of which nothing is said

    def begin(self, **strikes: str | list[str]) -> None:
        """Start a supervisor, in a process of its own: as `rexec restart` does, if the job has an image."""
        latest = Store().latest(str(self.job.id))
        if latest is not None:
            self.job.write(replace(self.job.read(), image=latest.number))
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._supervise(strikes)
            finally:
                os._exit(1)
        until(lambda: self._answers(), "the supervisor listens")

    def _supervise(self, strikes: dict[str, str | list[str]]) -> None:
        assert self.job.lock()
        placement_steps.RETRY = 0.5
        JobHome._bundle = lambda home: self.kept  # type: ignore[method-assign]

        def reach(host: Host, entry: str, **_: object) -> tuple[Stream, bootstrap.Facts]:
            if entry != AGENT:  # another stream to an agent that is there
                stream = open_local(bootstrap.local_argv(host.python))
                return stream, bootstrap.start(stream, entry)
            left = strikes.get(host.name, [])
            strikes[host.name] = left = [left] if isinstance(left, str) else left
            return struck_stream(host.python, left.pop(0) if left else self.otherwise, self.home / "struck")

        fd = os.open(self.home / "out", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        output = OutputOnce(frames.STDOUT, OutputFile(fd), taken=os.fstat(fd).st_size)
        given = ReplayedInput(self.job.path, -1)
        given.finish()
        JobSupervisor(
            self.job, {frames.STDOUT: output}, given, patient=True, say=lambda text: None, reach=reach
        ).run()  # fmt: skip

    def _answers(self) -> bool:
        try:
            control_socket.connect(self.job.control).close()
        except control_socket.ControlError:
            return False
        return True

    def ask(self, what: str) -> str:
        """Ask the supervisor; its answer."""
        for answer in control_socket.ask(self.job.control, do=what):
            if answer.get("done") is not None:
                return f"{answer['done']}: {answer['text']}"
        raise AssertionError("no answer")

    def phase(self) -> str:
        return self.job.read().phase

    def lines(self, name: str) -> list[int]:
        path = self.home / name
        return [int(word) for word in path.read_text().split()] if path.exists() else []

    def more(self) -> None:
        """The job gets on."""
        before = len(self.lines("out"))
        try:
            until(lambda: len(self.lines("out")) > before + 5, "the job says more")
        except AssertionError:
            raise AssertionError(f"the job says no more: {self.job.read()}\n{self.job.log.read_text()}") from None

    def held(self) -> list[bool]:
        """Is each of its two locks held?"""
        return [not free(self.home / "whole", fcntl.flock), not free(self.home / "part", fcntl.lockf, 10, 5)]

    def kill(self) -> None:
        """End the supervisor, with no chance to do anything."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def end(self) -> None:
        """The job ends by itself; all it said and wrote is there, once."""
        (self.home / "end").touch()
        until(lambda: self.phase() == "ended", "the job ends")
        os.waitpid(self.pid, 0)
        assert self.job.read().status == 7 << 8, self.job.read()
        said = self.lines("out")
        assert said == list(range(1, len(said) + 1)) == self.lines("log")


def free(path: Path, how: Any, *where: int) -> bool:
    """Can somebody else get that lock?"""
    with path.open("r+") as file:
        try:
            how(file, fcntl.LOCK_EX | fcntl.LOCK_NB, *where)
        except OSError:
            return False
    return True
