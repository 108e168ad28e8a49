"""Serves the files of one run after another over one connection, from a process of its own: the resident.

A keeper starts it beside an agent that waits on a host (shim/submit/hosts/keeper.py), and hands it the
runs, one at a time. The first has that agent begin; each further one is begun by the same agent, in the same root, so
all that the kernel there knows of the files here is as good as within one job: it is under the same leases, which this
process holds on. Why so: docs/decisions/resident.md.

A run keeps its terminal, streams and signals (served_session.py). What it offers has to be like the first's in all
that the session was made of; else it is left to make its own connection. Its process's end ends its job; an end of this
one is the end of both. What a job had as its own, and what it had locked, is taken back before the next
(remoteio/submit/export/between_jobs.py).

Threads: the main one begins the runs; the session has its own (host_session.py); one reads what a run sends.
"""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from remoteio.errors import ProtocolError, RexecError
from remoteio.submit.export.between_jobs import unchanged
from remoteio.submit.export.dispatch import Export
from remoteio.wire import frames
from remoteio.wire.coherence import TTL
from remoteio.wire.leases import EVERYTHING
from remoteio.wire.link import Link, LinkClosed
from remoteio.wire.session_link import SessionLink
from shim.submit import host_frames, own_code, own_process, refused, resident_words
from shim.submit.host_session import HostSession
from shim.submit.hosts import orphaned
from shim.submit.hosts.config import Host
from shim.submit.hosts.dialler import Dialler
from shim.submit.hosts.redial import Lost
from shim.submit.learned_starts import first_names
from shim.submit.resident_words import Offer, news
from shim.submit.scope import PROJECT, JobRights
from shim.submit.spent import spent
from shim.wire import kept, lease
from shim.wire.job_spec import JobSpec

LONGEST = 30 * 60.0
"""Seconds for which runs are served in one session: which files are kept from jobs is looked up as it begins."""

MOST_MEMORY = 256 << 20
"""Bytes of this process, from which on no further run is served."""

_ANSWERS = 3.0  # seconds for the host to take a job; longer than any round trip at which somebody would work
_PIPES = 50  # of one job, and less than messages.MOST_FDS
_GOES = 1.0  # seconds for the process of a run that is over to have gone
_LAST = frozenset((frames.EXIT, frames.FAIL))


def main() -> None:
    """Be what the keeper starts: argv has the numbers of its socket and of the connection, and the host."""
    own_code.import_only_ours()
    control, connection = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    control.set_inheritable(False)
    os.set_inheritable(connection, False)
    values: dict[str, Any] = json.loads(sys.argv[3])
    host = Host(**{**values, "options": tuple(values["options"])})
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each file the job has open is open here
    os.umask(0o022)  # what the job's own takes is taken there
    own_process.settle()
    resident = Resident(host, connection, control)
    with suppress(ConnectionError):
        while resident.usable:
            said, fds, _, _ = socket.recv_fds(control, 64, 1)
            if not said:
                break
            os.set_inheritable(fds[0], False)
            resident.serve(fds[0], int(said))
    resident.end()
    os._exit(0)


class _Run:
    """One run: the link to its process, and how far it is.

    taken     it was told that its job is taken; before that it may go elsewhere
    over      its job has ended
    gone      its process has let go
    """

    def __init__(self, fd: int) -> None:
        self.link = Link(fd, fd)
        self.taken = self.over = self.learned = False
        self.gone = threading.Event()
        self._lock = threading.Lock()

    def take(self) -> None:
        """Tell it that its job is taken, before all else."""
        with self._lock:
            if not self.taken:
                self.taken = True
                with suppress(OSError):  # it has gone
                    os.write(self.link.write_fd, kept.YES)

    def send(self, kind: int, payload: bytes | memoryview) -> None:
        """Send it a frame, unless it has gone."""
        self.take()
        with suppress(LinkClosed):
            self.link.send(kind, payload)

    def close(self) -> None:
        """Hang up."""
        self.link.shut()
        self.link.close()
        os.close(self.link.read_fd)


class _Session:
    """What one run after another has in common.

    like   what has to be alike of them all
    told   the paths of which the host has been told
    carried  bytes received and sent by the end of the last job
    """

    def __init__(self, host: Host, fd: int, offer: Offer, spec: JobSpec, handler: Resident) -> None:
        """Make one for its first job; ``begin`` has its host take that."""
        self.like = _like(offer, spec)
        self.told: set[bytes] = set()
        self.carried = 0, 0
        self.hello: host_frames.Hello | None = None
        rights = JobRights(offer.scope, sync=offer.sync)
        self.names, self.link = first_names(spec, rights), SessionLink(fd, fd)
        self.dialler = Dialler(host, self.link, offer.lease)
        self.dialler.describe(spec)
        self.host_session = HostSession(
            self.link, spec, handler, rights=rights, dialler=self.dialler, first_names=self.names
        )

    def begin(self, spec: JobSpec, owed: int) -> bool:
        """Have the agent, which `owed` an answer before, begin the first job. False: it does not answer."""
        start, fd = frames.frame(frames.START, spec.pack()), self.link.write_fd
        told = memoryview(kept.BEGIN + start)
        while told:
            told = told[os.write(fd, told) :]
        answered = select.poll()
        answered.register(fd, select.POLLIN)
        for _ in range(owed + 1):
            if not answered.poll(_ANSWERS * 1000) or os.read(fd, 1) != kept.YES:
                return False
        self.link.sent = len(start)
        return True

    def next(self, offer: Offer, spec: JobSpec) -> bool:
        """Have the agent, which rests, begin another. False: it is not told so. Raises LinkClosed: likewise."""
        if self.link.cut:
            return False  # between two jobs it waits for no other stream: it has ended
        if (export := self.host_session.export) is not None:
            self.told = unchanged(self.told, export.inodes, export.leases)
        names = first_names(spec, JobRights(offer.scope, sync=offer.sync), self.told)
        if not self.host_session.files.next_job(names):
            return False
        self.names = names
        self.link.send(frames.START, spec.pack())
        return True


class Resident:
    """See the module. `usable`: another run may come. HostSession's handler, and its dialler's."""

    def __init__(self, host: Host, connection: int, control: socket.socket) -> None:
        self._host, self._fd, self._control = host, connection, control
        self._session: _Session | None = None
        self._run: _Run | None = None
        self._until = time.monotonic() + LONGEST
        self._fresh = 0.0  # when the kernel there holds nothing more for true that it is not told again
        self._forgot = False  # it holds nothing so from the job that ends
        self._lock = threading.Lock()  # of `learned` of a run
        self.usable = True

    def serve(self, fd: int, owed: int) -> None:
        """Begin a run whose process is at the other end of `fd`; the agent `owed` an answer before."""
        before, run = self._run, _Run(fd)
        if before is not None:
            before.gone.wait(_GOES)
            self._learn(before)
        try:
            offer, spec = _read(run.link)
            taken = self._takes(offer, spec, owed, run)
        except (OSError, ProtocolError, RexecError, ValueError):
            taken = False  # where the link is closed, its own thread ends this process
        if not taken:
            if self.usable:
                self._say(b"declined")
            run.close()
            run.gone.set()  # nobody hears it: `end` would wait for it for ever
            return
        threading.Thread(target=self._hear_run, args=(run,), name="run", daemon=True).start()

    def _takes(self, offer: Offer, spec: JobSpec, owed: int, run: _Run) -> bool:
        """Have the host begin the job. False: it is no job for this session, or the host does not take it."""
        if offer.around != resident_words.around() or not _simple(offer, spec):
            return False
        spec.stays = True
        if self._session is None:
            self._session, self._run = _Session(self._host, self._fd, offer, spec, self), run
            self.usable = self._session.begin(spec, owed)
            if self.usable:
                self._say(b"begun")
                run.take()
                self._session.dialler.begin(spec, self, self._session.host_session.start_outside)
                for name, work in (("serve", self._serve), ("pulse", self._pulse)):
                    threading.Thread(target=work, args=(self._session,), name=name, daemon=True).start()
            return self.usable
        if not self.usable or self._session.like != _like(offer, spec):
            return False
        if (left := self._fresh - time.monotonic()) > 0:
            time.sleep(left)
        before, self._run = self._run, run
        if not self._session.next(offer, spec):
            self._run = before
            return False
        run.take()  # it may have begun, and is this run's whatever happens
        if self._session.hello is not None:  # its clock was found to be right or wrong by the first
            self._greet(run, self._session.hello._replace(time_ns=time.time_ns()))
        return True

    def _serve(self, session: _Session) -> None:
        try:
            session.host_session.serve()
        except BaseException as e:  # whatever ended it, its run is told so
            self._over(resident_words.failed(e))

    def _pulse(self, session: _Session) -> None:
        """Give signs of life while the host does."""
        while True:
            time.sleep(lease.PULSE)
            run = self._run
            if run is not None and run.taken and not run.over and session.host_session.silent < 2 * lease.PULSE:
                run.send(frames.PING, b"")

    def _over(self, why: bytes) -> None:
        """End: the session has, and this process is of no more use."""
        self.usable = False
        run = self._run
        if run is not None and run.taken:  # else it goes elsewhere
            if not run.over:
                run.send(frames.NEWS, why)
            with suppress(LinkClosed):
                run.link.flush(_GOES)
            self._learn(run)
        os._exit(0)

    def _learn(self, run: _Run) -> None:
        """Keep what was learned of a run's command, once."""
        with self._lock:
            if self._session is not None and run.over and not run.learned:
                run.learned = True
                self._session.told |= self._session.names.seen
                self._session.host_session.files.job_over(self._session.host_session.export)

    def _hear_run(self, run: _Run) -> None:
        """Pass on what a run sends, until it has gone."""
        assert self._session is not None
        files = self._session.host_session
        try:
            with suppress(LinkClosed, ProtocolError):
                while True:
                    for kind, payload in run.link.receive():
                        if not run.over and kind in _PASSED_ON:
                            files.send(kind, payload)
            self._learn(run)
        except BaseException as e:  # as in `_serve`: else the next run would wait for one that never goes
            self._over(resident_words.failed(e))
        run.gone.set()
        if not run.over:  # its process has ended, and so its job does
            files.close()
            os._exit(0)
        run.close()
        if not self.usable:
            files.close(done=True)
            os._exit(0)

    def end(self) -> None:
        """Let the connection go, once no run is on."""
        if self._run is not None:
            self._run.gone.wait()
        if self._session is not None:
            self._session.host_session.close(done=True)

    # HostSession's handler

    def greeted(self, hello: host_frames.Hello) -> None:
        """See host_session.Handler; so for the others."""
        assert self._session is not None
        self._session.hello = hello
        if (agent := self._session.dialler.agent).where is not None:
            self._say(orphaned.words(self._host, agent))
        if self._run is not None:
            self._greet(self._run, hello)

    def take(self, kind: int, payload: bytes | memoryview) -> None:
        run = self._run
        if run is None or run.over:
            return  # said too late for anybody
        if kind == frames.SPENT:
            self._forgot = spent(payload).forgot
        if kind in _LAST:
            self._job_ends(run, kind)
        run.send(kind, payload)

    def silent(self) -> None:
        self._tell(silent=True)

    def unleased(self, why: str) -> None:
        self._tell(unleased=why)

    def away(self, why: str) -> None:
        self._tell(away=why)

    def joined(self) -> None:
        self._tell(joined=True)

    def lost(self, lost: Lost) -> None:
        self._over(news(lost=lost.why))

    def _tell(self, **said: object) -> None:
        run = self._run
        if run is not None and run.taken and not run.over:  # one that is not taken may go elsewhere
            run.send(frames.NEWS, news(**said))
        elif "unleased" not in said:
            os._exit(0)  # between two runs nobody waits for a host that is out of touch

    def _say(self, word: bytes) -> None:
        with suppress(OSError):  # the keeper has ended, which the main thread sees
            os.write(self._control.fileno(), word)  # the session's threads may call no send(2)

    def _greet(self, run: _Run, hello: host_frames.Hello) -> None:
        fields = {"host": [hello.host.encode("utf-8", "surrogateescape")], "time": [b"%d" % hello.time_ns]}
        run.send(frames.HELLO, frames.pack_fields({**fields, "uids": [], "gids": []}))

    def _job_ends(self, run: _Run, kind: int) -> None:
        """Take note that a job has ended, before its run is told: from then on the keeper may give this another."""
        assert self._session is not None
        session = self._session
        export, link = session.host_session.export, session.link
        told = refused.told({} if export is None else export.inodes.allowed.refusals.counted())
        (came, went), session.carried = session.carried, (link.received, link.sent)
        carried = {"received": link.received - came, "sent": link.sent - went}
        over = {"rows": told.rows, "sentences": told.sentences, **carried}
        run.send(frames.NEWS, news(over=over))
        self._fresh = 0.0 if self._forgot else time.monotonic() + TTL
        run.over = True
        if kind == frames.FAIL or _cold(export) or time.monotonic() > self._until or own_process.memory() > MOST_MEMORY:
            self.usable = False
        else:
            self._say(b"forgot" if self._forgot else b"rests")


_PASSED_ON = frozenset(
    (frames.STDIN, frames.CREDIT, frames.CLOSED, frames.SIGNAL, frames.WINSIZE, frames.SPENT, *frames.EXTRA)
)


def _cold(export: Export | None) -> bool:
    """Tell whether a host has to ask anew: for all, or one by one for what goes as something else is told."""
    leases = None if export is None else export.leases
    return leases is not None and (EVERYTHING in leases.resting or len(leases.numbers) >= leases.most)


def _read(link: Link) -> tuple[Offer, JobSpec]:
    """Read what a run says first. Raises OSError, ProtocolError, ValueError, RexecError."""
    begin = os.read(link.read_fd, 1)
    if begin != kept.BEGIN:
        raise ProtocolError("a run says something else first")
    found: list[tuple[int, bytes | memoryview]] = []
    while len(found) < 2:
        found += link.receive()
    (first, said), (second, told), *more = found
    if (first, second) != (frames.ORDER, frames.START) or more:
        raise ProtocolError("a run says something else first")
    return resident_words.offer(said), JobSpec.unpack(told)


def _simple(offer: Offer, spec: JobSpec) -> bool:
    """Tell whether nothing but its files, pipes and terminal is to be had by the job."""
    more = spec.scratch or spec.checkpoint or spec.forwards or len(spec.descriptors) > _PIPES
    return not (more or offer.scope.trust == PROJECT or offer.scope.disk is not None)


def _like(offer: Offer, spec: JobSpec) -> tuple[object, ...]:
    """What has to be alike of all jobs of one session."""
    device = os.stat(spec.cwd).st_dev
    return offer, spec.uid, spec.gid, tuple(spec.groups), spec.hostname, device
