"""Cuts many jobs off one host at once, as a router does that starts anew, and measures when each is in touch again.

    python -m tests.fault.many --jobs 100 --seconds 30

The host is this machine, behind an `ssh` that carries bytes and can be switched off, so there is no login: what is
measured is how rexec spreads its tries, and the processor time of a connection at both ends. With sshd there is its
login beside it: reconnect.py.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import psutil

# The remote command has pipes, as sshd gives them, and a session of its own, so that it outlives its carrier.
SSH = """#!/bin/sh
[ -e {top}/down ] && exit 255
case " $* " in *" -G "*) exit 1;; esac
for last; do :; done
exec {python} -SE {top}/carry.py "$last"
"""
CARRY = """
import os, select, subprocess, sys
command = subprocess.Popen(
    ["/bin/sh", "-c", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
)
ways = {0: command.stdin.fileno(), command.stdout.fileno(): 1}
poll = select.poll()
for end in ways:
    poll.register(end, select.POLLIN)
while True:
    for end, _ in poll.poll():
        data = os.read(end, 1 << 16)
        if not data:
            os._exit(0)
        while data:
            data = data[os.write(ways[end], data) :]
"""
_ECHO = "echo up; while read line; do echo $line; done"
_AT_ONCE = 4  # jobs that are started beside one another


class Jobs:
    """So many jobs on one host, whose state lies beneath `top`."""

    def __init__(self, top: Path, rexec: str, host: str, count: int) -> None:
        self._words = [rexec, "--on", host, "--"]
        path = f"{top}/bin:{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path, "XDG_CACHE_HOME": str(top / "cache"), "REXEC_KEEP": "0"}
        subprocess.run([*self._words, "true"], env=self._environment, check=True)  # has the runtime
        self._jobs: list[subprocess.Popen[bytes]] = []
        while len(self._jobs) < count:
            more = [self._start() for _ in range(min(_AT_ONCE, count - len(self._jobs)))]
            self._jobs += more
            for job in more:
                self._read(job, b"up\n")

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self._words, "sh", "-c", _ECHO], env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def _read(self, job: subprocess.Popen[bytes], line: bytes) -> None:
        assert job.stdout is not None
        said = job.stdout.readline()
        assert said == line, said

    def drop(self) -> None:
        """Have all connections gone."""
        for job in self._jobs:
            for carrier in psutil.Process(job.pid).children():
                carrier.kill()

    def back(self, heal: Callable[[], None]) -> list[float]:
        """Have `heal` bring the host back; return after how many seconds each job was in touch again, in order."""
        poll, waits = select.poll(), {}
        for job in self._jobs:
            assert job.stdin is not None and job.stdout is not None
            job.stdin.write(b"back\n")
            job.stdin.flush()
            poll.register(job.stdout, select.POLLIN)
            waits[job.stdout.fileno()] = job
        heal()
        began, took = time.monotonic(), list[float]()
        while waits:
            for fd, _ in poll.poll():
                self._read(waits.pop(fd), b"back\n")
                poll.unregister(fd)
                took.append(time.monotonic() - began)
        return took

    def end(self) -> None:
        """End them all."""
        for job in self._jobs:
            job.communicate()

    def kill(self) -> None:
        """End what is left."""
        for job in self._jobs:
            job.kill()


def told(took: list[float], seconds: float) -> str:
    """Say what `back` has returned after so many seconds."""
    return (
        f"{len(took)} jobs, {seconds:g} s away: in touch again after {took[0]:.2f} s, {took[len(took) // 2]:.2f} s "
        f"(median), {took[-1]:.2f} s (last); load {os.getloadavg()[0]:.1f}"
    )


@click.command()
@click.option("--jobs", type=click.IntRange(1), default=100, show_default=True)
@click.option("--seconds", type=float, default=30.0, show_default=True, help="How long the host is away.")
@click.option("--rexec", default=str(Path(sys.executable).with_name("rexec")), show_default=True)
def main(jobs: int, seconds: float, rexec: str) -> None:
    """Measure after how long jobs that were cut off together are in touch again."""
    top = Path(tempfile.mkdtemp(prefix="rexec-many-"))
    ssh, down = top / "bin/ssh", top / "down"
    ssh.parent.mkdir()
    ssh.write_text(SSH.format(top=top, python=sys.executable))
    ssh.chmod(0o755)
    (top / "carry.py").write_text(CARRY)
    many = Jobs(top, rexec, "many", jobs)
    down.touch()
    many.drop()
    time.sleep(seconds)
    took = many.back(down.unlink)
    many.end()
    shutil.rmtree(top)
    click.echo(told(took, seconds))


if __name__ == "__main__":
    main()
