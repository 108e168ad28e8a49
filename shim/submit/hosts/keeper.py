"""Keeps a connection to a host, and an agent there that waits for a job, for the runs to come: a process of its own.

It belongs to one user, host and way there (kept.py has the name), and ends some minutes after the last run. An agent is
started when the last run has ended, never while one goes on, and by nothing that could ask a person. Where
that fails twice, it is not tried again: a host that wants a password is not asked for one behind its user's back.

A run that was given the connection has it alone; what carries it, ssh, stays this process's child, which
ends it when the run has, however that came.

Threads: the main one does all but wait for an ssh to end, and make the connection (spares.py): runs that need none need
not wait for that.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from checkpoint.submit import xdg
from remoteio.submit.transport.stream import Stream
from remoteio.wire.coherence import TTL
from shim.submit import own_code, own_process
from shim.submit.hosts import beside, kept, orphaned
from shim.submit.hosts.config import Host
from shim.submit.hosts.spares import Dials, Spare

_RESIDENT = "shim.submit.resident"
_TRIES = 2  # that fail one after the other: what never works, such as a login by password, is not tried after each run


class Resident:
    """A process that serves the files of one run after another over the connection that was `spare` (resident.py).

    free   it may be given a run
    begun  the connection is its own
    fresh  since when what its host's kernel was told by then has to be asked again: a run that begins later sees there
           what was changed here before it began
    agent  how its host is asked to end what it serves; empty: that is not known yet
    """

    def __init__(self, host: Host, spare: Spare) -> None:
        """Start it. Raises OSError."""
        self.spare, self.free, self.begun, self.fresh, self.agent = spare, True, False, 0.0, b""
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fds = theirs.fileno(), spare.stream.read_fd
        try:
            self.process = subprocess.Popen(
                [*own_code.command(_RESIDENT), *map(str, fds), json.dumps(host._asdict())], pass_fds=fds,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        finally:
            theirs.close()

    def give(self, run: socket.socket) -> bool:
        """Have it serve the run at the other end of that socket. False: it is gone."""
        ours, its = socket.socketpair()
        with ours, its:
            try:
                socket.send_fds(self.socket, [b"%d" % self.spare.owes], [its.fileno()])
            except OSError:
                return False
            how = b"again" if self.fresh else b"served"
            said = b"%s 0 %s %d" % (how, self.spare.python.encode(), self.spare.trip)
            socket.send_fds(run, [said], [ours.fileno()])
        self.free = False
        return True

    def hears(self) -> bool:
        """Take note of what it says. False: it has ended."""
        said = self.socket.recv(kept.PACKET)
        if said[:1] == b"{":
            self.agent = said
        if said in (b"rests", b"forgot"):
            self.fresh = time.monotonic() + (TTL if said == b"rests" else 0)
        if said == b"begun":
            self.begun = True
            self.spare.stream.give_away()
        self.free = self.free or said in (b"rests", b"forgot", b"declined")
        return bool(said)

    def close(self) -> None:
        """Let it end."""
        self.socket.close()

    def wait(self) -> None:
        """Wait for its end. Where it was killed its host could not be told: a job would stay there for its lease."""
        if self.process.wait() < 0 and self.agent:
            with contextlib.suppress(OSError):
                orphaned.start(self.agent)


class Keeper:
    """Serves runs at `listener` while there are any, and `seconds` longer; or until it is told to end."""

    def __init__(self, host: Host, seconds: int, listener: socket.socket) -> None:
        self._host, self._seconds, self._listener = host, seconds, listener
        self._spare: Spare | None = None
        self._resident: Resident | None = None
        self._runs: dict[socket.socket, Stream | None] = {}
        self._until = time.monotonic() + seconds
        self._wanted = True  # a connection, as soon as no run is on
        self._failures = 0  # in a row
        self._dials = Dials(host)
        self._ended = False

    def serve(self) -> None:
        """Serve until the time is over."""
        while not self._ended and (self._runs or time.monotonic() < self._until):
            if not self._runs:
                if self._wanted and self._spare is None and not self._dials.at_work:
                    self._wanted = False
                    self._dials.begin()
                self._begin_resident()
            self._wait()
            if self._spare is not None and time.monotonic() >= self._until:
                self._drop()

    def close(self) -> None:
        """Let nobody in any more, and end; once the runs have that have a connection of ours."""
        self._listener.close()
        self._drop()
        while self._runs:
            self._wait()
        self._end_resident()

    def _dialled(self) -> None:
        """Take the connection that is being made, or note that there is none; once it is there."""
        spare = self._dials.made()
        self._failures = 0 if spare is not None else self._failures + 1
        self._spare = spare

    def _drop(self) -> None:
        if self._dials.at_work:
            self._dialled()
        if self._resident is not None and self._resident.spare is self._spare:
            self._end_resident()  # it has not begun
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.stream.close(done=True)

    def _begin_resident(self) -> None:
        """Have one for the next run."""
        if self._resident is None and self._spare is not None:
            with contextlib.suppress(OSError):  # then each run serves its own files
                self._resident = Resident(self._host, self._spare)

    def _hear_resident(self, resident: Resident) -> None:
        if not resident.hears():
            self._end_resident()
            if not resident.begun:  # none can be had here, it seems: another is tried after the next run
                self._drop()
        elif resident.free and not resident.begun:  # it has declined its first run: the connection is as it was
            self._spare = resident.spare

    def _end_resident(self) -> None:
        resident, self._resident = self._resident, None
        if resident is None:
            return
        resident.close()
        threading.Thread(target=resident.wait, name="resident").start()
        if resident.spare is not self._spare:
            threading.Thread(target=resident.spare.hang_up, name="end").start()
        self._wanted = self._wanted or self._spare is None

    def _wait(self) -> None:
        """Wait for what happens next, and deal with it."""
        wait = select.poll()
        spare = self._spare
        if self._listener.fileno() >= 0:
            wait.register(self._listener, select.POLLIN)
        if self._resident is not None:
            wait.register(self._resident.socket, select.POLLIN)
        if self._dials.at_work:
            wait.register(self._dials, select.POLLIN)
        for run in self._runs:
            wait.register(run, 0)  # until it hangs up: what it sends is only to lie there until then (Kept.hold)
        until = None if self._runs else self._until
        if spare is not None:
            wait.register(spare.stream.read_fd, select.POLLIN)
            until = min(spare.due, self._until)
        patience = None if until is None else max(0.0, until - time.monotonic()) * 1000 + 1
        ready = {fd for fd, _ in wait.poll(patience)}
        if self._resident is not None and self._resident.socket.fileno() in ready:
            self._hear_resident(self._resident)
        if self._dials.at_work and self._dials.fileno() in ready:
            self._dialled()
        for run in [run for run in self._runs if run.fileno() in ready]:
            self._end(run)
        if spare is not None and spare is self._spare and not spare.lives(spare.stream.read_fd in ready):
            self._drop()  # the next run makes its own, and another is wanted after it
        if self._listener.fileno() in ready:
            self._accept()

    def _accept(self) -> None:
        run, _ = self._listener.accept()
        run.settimeout(1.0)  # who has connected has asked
        try:
            asked = run.recv(kept.PACKET).split(b"\0") if kept.ours(run) else []
            if asked == [b"served"] and self._serves(run):
                self._runs[run] = None
                return
            if asked in ([b"run"], [b"served"]):
                self._runs[run] = self._give(run)
                return
            assert self._host.ssh is not None
            mine = self._host.ssh.encode("utf-8", "surrogateescape")
            if asked[:1] == [b"end"] and (len(asked) == 1 or mine in asked):
                self._ended = True
                self._drop()
                run.send(mine)
        except OSError:
            pass  # it has gone again
        run.close()

    def _serves(self, run: socket.socket) -> bool:
        """Have the resident serve it, if it is free and knows as much of this machine as the run itself.

        A run that comes while a connection is made waits for that: where runs follow each other at once each does, and
        none would ever have a resident.
        """
        if self._resident is None and self._dials.at_work:
            self._dialled()
            self._begin_resident()
        resident = self._resident
        if resident is None or not resident.free or (self._spare is not None and time.monotonic() < resident.fresh):
            return False
        if not beside.alike(kept.peer(run)) or not resident.give(run):
            return False
        if resident.spare is self._spare:
            self._spare = None  # unless it declines
        return True

    def _give(self, run: socket.socket) -> Stream | None:
        """Give the connection away, if there is one."""
        if self._dials.at_work:  # which is there sooner than one that is begun now
            self._dialled()
        spare = self._spare
        if spare is not None and self._resident is not None and self._resident.spare is spare:
            self._end_resident()  # it would have begun with this one
        if spare is None:
            run.send(b"no")
            return None
        said = b"yes %d %s %d" % (spare.owes, spare.python.encode(), spare.trip)
        socket.send_fds(run, [said], [spare.stream.read_fd])
        self._spare = None
        spare.stream.give_away()
        return spare.stream

    def _end(self, run: socket.socket) -> None:
        """Take note that a run has ended."""
        stream = self._runs.pop(run)
        run.close()
        if stream is not None:  # what the run said last is on its way
            threading.Thread(target=stream.close, name="end").start()
        if self._failures < _TRIES:  # else one is tried again by the keeper after this one
            self._until = time.monotonic() + self._seconds
            self._wanted = self._spare is None


def listen(path: Path) -> socket.socket | None:
    """Listen at `path`; None: somebody does. Sockets of those that were killed go. Raises OSError."""
    xdg.make(path.parent)
    with _locked(path.parent):
        for other in path.parent.iterdir():
            try:
                kept.ask(other, b"look").close()
            except ConnectionRefusedError:
                other.unlink()
        if path.exists():
            return None
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with kept.short(path) as at:
            listener.bind(at)
        listener.listen(64)
        return listener


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def main() -> None:
    """Be what `kept.Kept` starts, until the time is over."""
    own_code.import_only_ours()
    seconds, python, ssh, *options = sys.argv[1:]
    os.chdir("/")
    os.umask(0o077)
    host = Host(ssh, ssh, tuple(options), python or None)
    path = kept.directory() / kept.name(host)
    listener = listen(path)
    if listener is None:
        return
    own_process.settle()
    with open(os.devnull) as null:
        os.dup2(null.fileno(), 0)  # which was what the run before left to be closed
    keeper = Keeper(host, int(seconds), listener)
    try:
        keeper.serve()
    finally:
        with _locked(path.parent):
            path.unlink(missing_ok=True)
        keeper.close()
