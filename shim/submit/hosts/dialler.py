"""Give a run's session another stream whenever its own is cut: dial the host again, and have its agent join.

The first stream is the run's own. Each further one is made by the same carrier, as the first was, but that nobody is
asked for a password; what runs at its far end is shim/execute/rejoin.py, which hands it over to the agent there; or
another agent, where home has not heard of the first: until then home answers it nothing, so no job can have begun.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from typing import Protocol

from remoteio.errors import ProtocolError, RexecError, named
from remoteio.submit.transport.stream import Stream
from remoteio.wire.link import LinkClosed
from remoteio.wire.session_link import SessionLink
from shim.submit.hosts import bootstrap, connect, redial
from shim.submit.hosts.config import Host
from shim.submit.hosts.redial import Dial, Lost, Outage
from shim.wire import lease, rendezvous
from shim.wire.job_spec import JobSpec
from shim.wire.rendezvous import Whereabouts

REJOIN = "shim.execute.rejoin:main"
_SOON = 2.0  # seconds without a stream before anybody is told
_MORE_STARTS = 2  # a host whose agent ends before it has said a word, again and again, is not cut off
_CLOSES = 5.0  # seconds that a carrier may take to end by itself, and to be ended
DEADLINE = 60.0  # for a try, from the first packet on: sshd may ask others who comes

Reach = Callable[..., tuple[Stream, bootstrap.Facts]]
Anew = Callable[[Callable[[bytes], None]], None]


class Told(Protocol):
    """Is told how a run's session fares. Called in the dialler's threads; must not block."""

    def away(self, why: str) -> None:
        """Take note that there has been no stream for a while."""

    def joined(self) -> None:
        """Take note that there is one again, after `away`."""

    def lost(self, lost: Lost) -> None:
        """Take note that there will be none any more."""


class Agent:
    """How an agent is asked for: by its run's secret, where it is; and for how long it waits to be (seconds).

    `still`: for how long it is asked beyond that, as its job stands still there and is wanted.
    """

    def __init__(self, secret: bytes, lease: int, where: Whereabouts | None = None, still: float = 0.0) -> None:
        self.secret, self.lease, self.where, self.still = secret, lease, where, still


class Dialler:
    """Dials `host` for `link`, which is a run's session.

    Threads: any may call what is here. The dialler's own begins with the first cut and lives until the end, as an ssh
    ends with the thread that started it; it alone joins `_link`.
    """

    def __init__(self, host: Host, link: SessionLink, seconds: int = lease.LEASE, reach: Reach | None = None) -> None:
        """`seconds`: the run's lease."""
        self.agent = Agent(os.urandom(rendezvous.SECRET), seconds)
        self.host, self._link, self._reach = host, link, reach or connect.connect
        self._told: Told
        self._anew: list[Anew] = []  # one for each start that may still be made
        self._unbegun: list[Callable[[Callable[[], None]], None]] = []  # what starts the thread, until it is
        self._event = threading.Event()  # the stream was cut, or it is over
        self._over = False
        self._closed: bool | None = None  # not yet, or whether its carrier is done
        self._stream: Stream | None = None
        self._let_go = threading.Event()  # of the last stream

    def begin(
        self,
        spec: JobSpec,
        told: Told,
        start: Callable[[Callable[[], None]], None],
        anew: Anew | None = None,
    ) -> None:
        """Look after the link, before anything is received, and before START is sent, unless that went ahead.

        `start` runs something in a thread that may start programs. `anew` gives what it is called with all that another
        agent is to be sent, where the first was cut off before it has said a word; None: that is the end.
        """
        self._anew = [anew] * _MORE_STARTS if anew is not None and self.host.ssh and self.agent.lease else []
        self.describe(spec)
        self._told = told
        self._unbegun.append(start)
        self._link.last(self._cut)

    def describe(self, spec: JobSpec) -> None:
        """Have `spec` say how its agent is joined."""
        if self.agent.lease:
            spec.secret, spec.lease = self.agent.secret, self.agent.lease
            spec.home = 0 if self.host.ssh else os.getpid()

    def heard(self) -> None:
        """Take note that the agent has said a word: no other takes its place any more."""
        self._anew = []

    def know(self, where: Whereabouts | None) -> None:
        """Take note of where the agent is to be joined; None: nowhere, so the stream's end is the link's."""
        self.agent.where = where
        if where is None:
            self._link.forgo()

    @property
    def away(self) -> bool:
        """Whether there is no stream just now."""
        return self._link.cut

    def drop(self, why: str) -> bool:
        """Give the stream up and dial. False: it is of no use."""
        if self.agent.where is None and not self._anew:
            return False
        self._link.drop(why)
        return True

    def _cut(self, why: str) -> None:
        if self._over or (self.agent.where is None and not self._anew):
            self._link.shut(why)
            return
        self._event.set()
        if self._unbegun:  # the first cut; there is no other before this thread has joined a stream
            self._unbegun.pop()(self._run)

    def end(self) -> None:
        """Dial no more. The stream that is there stays until `close`: what is said last goes over it."""
        self._over = True
        self._event.set()

    def close(self, *, done: bool = False) -> None:
        """Let go of the last stream, as its carrier does where it is told `done` or not; after the link is closed."""
        self._closed = done
        self.end()
        if self._stream is not None:
            self._let_go.wait(_CLOSES)  # or this process may end before it, and with it what was said last

    def _run(self) -> None:
        try:
            self._look_after()
        except LinkClosed:
            return  # whoever closed it knows why
        except BaseException as e:  # or nobody would dial, and all who use the link would wait for ever
            self._told.lost(Lost(f"it cannot be dialled again: {named(e)}", False))
        finally:
            self._close(self._closed is not False)
            self._let_go.set()

    def _look_after(self) -> None:
        while self._closed is None:
            self._event.wait()
            self._event.clear()
            if self._closed is None and self._link.cut:
                self._close(True)
                if self._over or not self._dial():
                    break
        if self._over:
            self._link.shut("it was cut, and is not dialled again")

    def _close(self, done: bool) -> None:
        stream = self._stream
        if stream is not None:
            stream.close(done=done)
            self._stream = None

    def _dial(self) -> bool:
        """Dial until another stream has joined. False: none will."""
        import random  # hardly ever: a run's start does without

        self._link.parked()  # so it is known whether HELLO has come
        seconds = self.agent.lease + (0 if self.agent.where is None else self.agent.still)
        outage: Outage | Lost = Outage(tried := time.monotonic(), seconds)
        told: list[str] = []

        def tell() -> None:
            told.append(outage.why)
            self._told.away(outage.why)

        soon = threading.Timer(_SOON, tell)
        soon.daemon = True
        soon.start()
        try:
            while isinstance(outage, Outage):
                step = redial.decide(outage, time.monotonic(), random.random())
                if isinstance(step, Lost):
                    outage = step
                elif self._rests(tried + step.after):
                    return False
                else:
                    tried = time.monotonic()
                    result = self._try(outage, step)
                    if result is None:
                        soon.cancel()
                        soon.join()
                        if told:
                            self._told.joined()
                        return True
                    outage = result
        finally:
            soon.cancel()
            soon.join()  # what it tells comes before that it is lost
        if not self._over:
            self._told.lost(outage)
        return False

    def _rests(self, until: float) -> bool:
        """Wait; True: it is over."""
        while not self._over and (left := until - time.monotonic()) > 0:
            self._event.wait(left)
            self._event.clear()
        return self._over

    def _try(self, outage: Outage, step: Dial) -> Outage | Lost | None:
        """Dial once; None: it has joined."""
        host = self.host
        if host.ssh and step.patience:  # ssh and paramiko take the first of several: the host's own goes before it
            host = host._replace(options=(*host.options, "-o", f"ConnectTimeout={step.patience}"))
        try:
            entry = connect.AGENT if self.agent.where is None else REJOIN
            stream, _ = self._reach(host, entry, batch=True, deadline=DEADLINE)
        except (OSError, RexecError) as e:  # the first: this process has no descriptor left, or no memory, just now
            return redial.failed(outage, str(e))
        try:
            result: Outage | Lost | None = None
            if self.agent.where is None:  # the job has not begun, as its host has not been heard of
                self._anew.pop()(lambda first: self._link.renew(stream.read_fd, stream.write_fd, lambda: first))
            else:
                result = self._join(outage, stream)
        except (OSError, ProtocolError, RexecError) as e:
            stream.close(done=True)
            if isinstance(e, LinkClosed):
                self._over = True  # whoever closed it knows why
            return redial.failed(outage, str(e))
        if result is None:
            self._stream = stream
        else:
            stream.close(done=True)
        return result

    def _join(self, outage: Outage, stream: Stream) -> Outage | Lost | None:
        assert self.agent.where is not None
        question = rendezvous.question(rendezvous.JOIN, self.agent.secret, self.agent.where, self._link.position)
        while True:
            said, position, why = asked(stream, question)
            question = b""
            if said == rendezvous.JOINED:
                self._link.join(stream.read_fd, stream.write_fd, position)
                return None
            found = redial.answered(outage, said, why, time.monotonic())
            if said != rendezvous.WAITS or isinstance(found, Lost) or self._over:
                return found
            outage = found


def asked(stream: Stream, question: bytes) -> tuple[str, int, str]:
    """Ask the far end, if anything is asked, and read its next answer. Raises OSError, ProtocolError, RexecError."""
    while question:
        question = question[os.write(stream.write_fd, question) :]
    return rendezvous.answer(_line(stream, lease.HOME))


def _line(stream: Stream, patience: float) -> bytes:
    """Read a line, and not a byte of what follows. Raises OSError, RexecError."""
    until = time.monotonic() + patience
    said = bytearray()
    poll = select.poll()
    poll.register(stream.read_fd, select.POLLIN)
    while not said.endswith(b"\n") and len(said) < rendezvous.LINE:
        if not poll.poll(max(0, int((until - time.monotonic()) * 1000))):
            raise RexecError(f"{stream.destination} does not answer")
        byte = os.read(stream.read_fd, 1)
        if not byte:
            raise stream.failure()
        said += byte
    return bytes(said)
