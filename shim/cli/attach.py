"""``rexec attach``: a job's terminal or streams again."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import sys
import threading

import click

from remoteio.errors import RexecError
from remoteio.wire import frames
from remoteio.wire.frames import FrameError, FrameReader, frame
from shim.cli.parameters import job_argument
from shim.cli.say import tell
from shim.submit.api import revived
from shim.submit.api.job_handle import must_live
from shim.submit.foreground.own_streams import die_like
from shim.submit.foreground.progress import Waiting
from shim.submit.foreground.terminal import Terminal
from shim.submit.job import control_socket, placement_steps, record
from shim.submit.job.record import Job, JobError

_FORWARDED = (signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_LEAVE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # what ends a view of the job does not end the job
_REDRAW = 1  # row fewer for a moment: a program redraws its screen when its size changes


@click.command("attach")
@job_argument
def attach_command(job: str) -> None:
    """Be connected to JOB's terminal, or to its streams, until it ends or you leave.

    The exit status is then the job's own. Leave a terminal by typing Enter ~ . as in ssh, streams by Ctrl-C, or close
    the window; the job goes on either way. One whose supervisor was killed goes on first, as by `rexec resume`. What a
    detached job said before is in its directory, ~/.local/state/rexec/jobs/JOB/, as `terminal`, or `stdout` and
    `stderr`.
    """
    sys.exit(attach(record.find(job)))


def attach(job: Job) -> int:
    """Connect this terminal, or these streams, to the job until either ends it; the exit status. Raises RexecError."""
    try:
        if not job.supervised():
            _revive(job)
    except JobError as error:
        kept = [str(job.path / name) for name in ("terminal", "stdout", "stderr") if (job.path / name).exists()]
        raise JobError(f"{error}; its output is in {' and '.join(kept)}" if kept else str(error)) from None
    with control_socket.connect(job.control) as sock:
        answer = _begin(sock, job)
        tty = bool(answer.get("tty"))
        if answer.get("why") or answer.get("phase") != "running":
            tell(f"job {job.id} is {answer.get('phase')}{': ' if answer.get('why') else ''}{answer.get('why') or ''}")
        terminal = Terminal(0) if tty and os.isatty(0) else None
        if tty and terminal is None and os.isatty(1):
            raise RexecError(f"job {job.id} has a terminal: run this with one as standard input")
        try:
            return _Client(job, sock, terminal).run()
        finally:
            if terminal is not None:
                terminal.restore()


def _revive(job: Job) -> None:
    """Have a job that has lost its supervisor go on. Raises RexecError."""
    must_live(job)
    if job.read().why == placement_steps.HELD_WHY:
        raise JobError(f"job {job.id} is held, and its supervisor is gone: `rexec resume {job.id}` has it go on")
    with Waiting(f"waiting for job {job.id}"):
        found = revived.revive(job)()
    for sentence in found.kept:
        tell(sentence)
    tell(f"the supervisor of job {job.id} was gone; it goes on {found.whence}")


def _begin(sock: socket.socket, job: Job) -> dict[str, object]:
    try:
        sock.sendall(json.dumps({"do": "attach"}).encode() + b"\n")
        answer = json.loads(control_socket.read_line(sock))
    except (OSError, ValueError) as error:
        raise RexecError(f"the supervisor of job {job.id} has ended: see `rexec log {job.id}`") from error
    if not isinstance(answer, dict) or answer.get("done") is not True:
        raise RexecError(f"job {job.id}: {answer.get('text')}")
    return answer


class _Client:
    def __init__(self, job: Job, sock: socket.socket, terminal: Terminal | None) -> None:
        self._job, self._sock, self._terminal = job, sock, terminal
        self._lock = threading.Lock()
        self._over: queue.SimpleQueue[tuple[str, int, str]] = queue.SimpleQueue()

    def run(self) -> int:
        """Serve until the job ends or the user leaves; the exit status."""
        if self._terminal is not None:
            self._terminal.take()
            signal.signal(signal.SIGWINCH, lambda *_: self._resize(0))
            self._resize(_REDRAW)
            self._resize(0)
        for forwarded in _FORWARDED:
            signal.signal(forwarded, lambda number, _: self._send(frames.SIGNAL, bytes((number,))))
        for leaving in _LEAVE:
            signal.signal(leaving, lambda by, _: self._over.put(("left", by, "")))
        for target in (self._take, self._keys):
            threading.Thread(target=target, daemon=True).start()
        how, number, text = self._over.get()
        if self._terminal is not None:
            self._terminal.restore()
        if how == "exit":
            return die_like(number, self._terminal is not None)
        if how == "left":
            if number != signal.SIGHUP:  # then nobody is there any more
                after = "\n" if self._terminal is not None else ""  # the job has left the cursor anywhere
                print(end=after, file=sys.stderr)
                tell(f"detached; job {self._job.id} goes on")
            return die_like(number if number in (signal.SIGTERM, signal.SIGHUP) else 0, False)
        raise RexecError(text)

    def _resize(self, fewer: int) -> None:
        size = self._terminal.size() if self._terminal is not None else None
        if size is None:
            return
        rows, *rest = size
        self._send(frames.WINSIZE, b"".join(n.to_bytes(2, "little") for n in (max(rows - fewer, 1), *rest)))

    def _send(self, kind: int, payload: bytes) -> None:
        with self._lock:
            try:
                self._sock.sendall(frame(kind, payload))
            except OSError:
                return  # whoever receives says so

    def _keys(self) -> None:
        escape = Escape()
        while True:
            try:
                data = os.read(0, 1 << 16)
            except OSError:
                return  # hung up
            if not data:
                return  # the job's own input goes on without ours
            if self._terminal is not None:
                data, leave = escape.typed(data)
                if leave:
                    self._over.put(("left", 0, ""))
                    return
            if data:
                self._send(frames.STDIN, data)

    def _take(self) -> None:
        reader = FrameReader()
        job = self._job.id
        text = f"the supervisor of job {job} has ended: `rexec attach {job}` has the job go on, if it has an image"
        try:
            while n := self._sock.recv_into(reader.buffer()):
                for kind, payload in reader.filled(n):
                    if kind in (frames.STDOUT, frames.STDERR):
                        _write(1 if kind == frames.STDOUT else 2, payload)
                    elif kind == frames.EXIT:
                        self._over.put(("exit", int.from_bytes(payload[:4], "little"), ""))
                        return
                    elif kind == frames.FAIL:
                        text = bytes(payload[4:]).decode("utf-8", "replace")
        except (OSError, FrameError) as error:
            text = f"the connection to job {self._job.id} broke: {error}"
        self._over.put(("lost", 0, text))


class Escape:
    """Finds Enter ~ . among the keys, as ssh does (ssh(1), ESCAPE CHARACTERS); Enter ~ ~ is one ~."""

    def __init__(self) -> None:
        self._at_start, self._tilde = True, False

    def typed(self, data: bytes) -> tuple[bytes, bool]:
        """Tell what is for the job, and whether the user leaves."""
        out = bytearray()
        for key in data:
            if self._tilde:
                self._tilde = False
                if key == ord("."):
                    return bytes(out), True
                out += b"~" if key == ord("~") else bytes((ord("~"), key))
            elif self._at_start and key == ord("~"):
                self._tilde = True
                continue
            else:
                out.append(key)
            self._at_start = key in (10, 13)
        return bytes(out), False


def _write(fd: int, data: bytes | memoryview) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
