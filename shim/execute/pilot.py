"""Keeps a place that an engine has given, and starts in it what home's streams ask for. A program by itself, sent as
it is: it is the engine's job, and knows nothing of rexec's.

    rexec-pilot hold            the job itself: serves SOCKET, in the directory that the engine has made for the job
    rexec-pilot run COMMAND     what a stream into the job runs: COMMAND (in hex) gets that, as a child of the job
    rexec-pilot end STATUS      the same: the job is done, and ends with STATUS

So what serves rexec's job is the engine's own, whatever becomes of a stream, and is gone with it. Every stream is an
exec that the engine lets this user make in its own job: nothing listens but a socket that is this user's alone.

A pilot that was told no status ends by a signal, whatever made it end: the engine is asked to run it again then.

Where the engine takes the place back, what the pilot has started is told to end, and has as long as the engine gives:
a job that can be saved is saved then. Home may join it by further streams meanwhile, but begin nothing.
"""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import select
import signal
import socket
import sys
import time

SOCKET = "rexec.socket"
LEFT = signal.SIGUSR1  # by which it ends without a status
ALONE = 600.0  # seconds after which a place that nobody uses is given back
_ENDS = 5.0  # seconds that what it has started may take to end once the job is done
_MESSAGE = 1 << 16
_TAKEN_BACK = "REXEC_TAKEN_BACK"  # as in shim/wire/engine_place.py
_PDEATHSIG = 1  # PR_SET_PDEATHSIG, linux/prctl.h


class Pilot:
    """The engine's job."""

    def __init__(self) -> None:
        self._started: dict[int, socket.socket] = {}  # pid -> the stream that asked for it
        self._used = time.monotonic()
        self._status: int | None = None
        self._leaves = False
        self._over = 0.0  # when it ends at the latest, once it is to

    def hold(self) -> int:
        """Serve until home says that the job is done. Returns its status."""
        woken, wakes = os.pipe()
        os.set_blocking(wakes, False)
        signal.set_wakeup_fd(wakes)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            signal.signal(number, self._signalled)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            os.umask(0o077)
            listener.bind(SOCKET)  # a name of its own directory: an address has room for 108 bytes
            listener.listen(16)
            while not self._ended():
                ready = select.select([listener.fileno(), woken], [], [], 1.0)[0]
                if woken in ready:
                    os.read(woken, 4096)
                self._reap()
                if listener.fileno() in ready:
                    self._asked(listener.accept()[0])
        if self._status is None:
            signal.signal(LEFT, signal.SIG_DFL)
            os.kill(os.getpid(), LEFT)
        return self._status or 0

    def _signalled(self, number: int, _: object) -> None:
        if number != signal.SIGCHLD and not self._leaves:
            self._leaves = True
            for pid in self._started:
                os.kill(pid, signal.SIGTERM)

    def _ended(self) -> bool:
        now = time.monotonic()
        if self._started:
            self._used = now
        if self._leaves or self._status is not None:
            self._over = self._over or now + _ENDS
            return not self._started or (self._status is not None and now > self._over)
        return now > self._used + ALONE

    def _asked(self, stream: socket.socket) -> None:
        stream.settimeout(_ENDS)
        try:
            data, descriptors, _, _ = socket.recv_fds(stream, _MESSAGE, 3)
            asked = json.loads(data)
            if "end" in asked:
                self._status = int(asked["end"])
                stream.send(b"0")
            elif len(descriptors) == 3:
                self._started[self._start(asked["run"], descriptors)] = stream
                stream = socket.socket()  # that one is kept until the child has ended
            for fd in descriptors:
                os.close(fd)
        except (OSError, ValueError, LookupError, TypeError) as e:
            print("rexec-pilot: what asks here is no rexec: %s" % e, file=sys.stderr, flush=True)
        stream.close()

    def _start(self, command: str, descriptors: list[int]) -> int:
        before = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        try:
            signal.set_wakeup_fd(-1)
            os.setsid()
            ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            for k, fd in enumerate(descriptors):
                os.dup2(fd, k)
            os.umask(0o022)
            for name, value in (("HOME", pwd.getpwuid(os.geteuid()).pw_dir), ("PATH", "/usr/local/bin:/usr/bin:/bin")):
                os.environ.setdefault(name, value)  # an engine need not say
            if self._leaves:
                os.environ[_TAKEN_BACK] = "1"
            if os.getppid() == before:
                os.execv("/bin/sh", ["sh", "-c", command])
        finally:
            os._exit(127)

    def _reap(self) -> None:
        for pid, stream in list(self._started.items()):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del self._started[pid]
                stream.close()


def ask(what: dict[str, object], descriptors: list[int]) -> int:
    """Ask the job whose directory this is, and wait until it has done so. Returns an exit status."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # an engine that ends the job says so to this process too
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as pilot:
        pilot.connect(SOCKET)
        socket.send_fds(pilot, [json.dumps(what).encode()], descriptors)
        for fd in descriptors[:2]:
            os.close(fd)  # the child's alone now: they end with it
        try:
            pilot.recv(1)  # nothing comes but the end
        except OSError:
            pass  # which it is as well
    return 0


def main(words: list[str]) -> int:
    """Do what the words say. Returns an exit status."""
    if words[:1] == ["hold"]:
        return Pilot().hold()
    if words[:1] == ["run"]:
        return ask({"run": bytes.fromhex(words[1]).decode("utf-8", "surrogateescape")}, [0, 1, 2])
    return ask({"end": int(words[1])}, [])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
