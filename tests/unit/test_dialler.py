"""A run's link is given another stream when its own is cut, whatever goes wrong with the first tries."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from types import SimpleNamespace

import pytest

from remoteio.errors import RexecError
from remoteio.submit.transport.stream import Stream
from remoteio.wire import frames
from remoteio.wire.link import LinkClosed
from remoteio.wire.session_link import SessionLink
from shim.submit.hosts import bootstrap, dialler, redial
from shim.submit.hosts.config import Host
from shim.submit.hosts.connect import AGENT
from shim.submit.hosts.dialler import REJOIN, Dialler
from shim.submit.hosts.redial import Dial, Lost
from shim.wire import rendezvous
from shim.wire.job_spec import JobSpec
from shim.wire.rendezvous import Whereabouts
from tests.agents import Wire

SOON = 60.0
SPEC = JobSpec(
    argv=[b"true"], env=[], cwd=b"/", uid=os.geteuid(), gid=os.getegid(), groups=[], umask=0o22, hostname=b"here",
    limits=[], scratch=[], stdio=[1], tty=[],
)  # fmt: skip
WHERE = Whereabouts("/somewhere/door", "box", "boot", 1, 1)


class Run:
    """A run, and an agent of it that joins whatever stream asks for it."""

    def __init__(self, *, known: bool = True) -> None:
        self.told: list[str] = []
        self.lost_touch = threading.Event()
        self.joins = threading.Event()
        self.fails: list[Exception] = []
        self._ours, theirs = socket.socketpair()
        self.link, self.agent = (SessionLink(end.fileno(), end.fileno()) for end in (self._ours, theirs))
        self.dialler = Dialler(Host("box", "box"), self.link, 60, self._reach)
        self.entries: list[str] = []
        self._held: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.dialler.begin(copy(SPEC), self, self._start, lambda begin: begin(frames.frame(frames.START, b"again")))
        self.link.send(frames.START, b"once")
        self.agent.last(lambda why: None)
        theirs.close()
        if known:
            self.dialler.know(WHERE)
        self._start(self._receive)

    def _start(self, run: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()

    def _receive(self) -> None:
        with suppress(LinkClosed):
            while True:
                self.link.receive()

    def _reach(self, host: Host, entry: str, **_: object) -> tuple[Stream, bootstrap.Facts]:
        if self.fails:
            raise self.fails.pop(0)
        ours, theirs = socket.socketpair()
        self.entries.append(entry)
        if entry == AGENT:
            self.agent.close()
            self.agent = SessionLink(theirs.fileno(), theirs.fileno())
            self._held.append(theirs)
            self.joins.set()
        else:
            self._start(lambda: self._join(theirs))
        return Wire("box", ours), bootstrap.Facts((3, 11), "have", "")

    def _join(self, theirs: socket.socket) -> None:
        with theirs:
            said = b""
            while not said.endswith(b"\n"):
                said += theirs.recv(1)
            position = rendezvous.asked(said)[3]
            self.agent.drop()
            theirs.sendall(rendezvous.line(said=rendezvous.JOINED, position=self.agent.position))
            self.agent.join(theirs.fileno(), theirs.fileno(), position)
        self.joins.set()

    def away(self, why: str) -> None:
        self.told.append("away")

    def joined(self) -> None:
        self.told.append("joined")

    def lost(self, lost: Lost) -> None:
        self.told.append("lost")
        self.lost_touch.set()

    def end(self) -> None:
        self.link.close()
        self.dialler.close()
        self.agent.close()
        for thread in self._threads:
            thread.join(SOON)
            assert not thread.is_alive()
        for end in (self._ours, *self._held):
            end.close()


def heard(link: SessionLink, count: int) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    while len(found) < count:
        found += [(kind, bytes(payload)) for kind, payload in link.receive()]
    return found


@pytest.mark.parametrize("fails", [OSError(errno.EMFILE, "none left"), RexecError("no route")], ids=repr)
def test_whatever_keeps_a_try_from_being_made_another_is(fails: Exception) -> None:
    """Else nobody dials, the link is cut, and all wait for ever."""
    run = Run()
    run.fails = [fails, fails]
    run.link.drop("it is cut")
    run.link.send(frames.STDIN, b"so")
    assert run.joins.wait(SOON)
    assert heard(run.agent, 2) == [(frames.START, b"once"), (frames.STDIN, b"so")]
    run.end()


def test_a_pause_counts_from_when_the_last_try_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """A try whose packets are lost takes seconds, and no more are waited then."""
    later = 0.0

    class Lasting(list[Exception]):
        def pop(self, index: object = -1) -> Exception:
            nonlocal later
            later = 2000.0
            return super().pop()

    monkeypatch.setattr(dialler, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + later))
    monkeypatch.setattr(redial, "decide", lambda outage, *_: Dial(1000.0 if outage.tries else 0.0, 0))
    run = Run()
    run.fails = Lasting([RexecError("no route")])
    run.link.drop("it is cut")
    assert run.joins.wait(SOON)
    run.end()


def test_an_error_that_nobody_has_thought_of_ends_the_run() -> None:
    run = Run()
    run.fails = [ValueError("it cannot be")]
    run.link.drop("it is cut")
    assert run.lost_touch.wait(SOON)
    assert run.told == ["lost"]
    run.end()


def test_an_agent_that_was_never_heard_of_is_started_anew_and_hears_nothing_of_before() -> None:
    run = Run(known=False)
    run.link.send(frames.STDIN, b"to the first")
    for _ in range(2):
        run.joins.clear()
        run.link.drop("it is cut")
        run.link.send(frames.STDIN, b"to nobody")
        assert run.joins.wait(SOON)
        assert heard(run.agent, 1) == [(frames.START, b"again")]
        assert run.told == []
    run.link.drop("it is cut once more")  # it is no cut that comes at each start
    assert run.link.over and run.entries == [AGENT, AGENT]
    run.end()


def test_an_agent_that_was_heard_of_is_joined_though_its_stream_was_cut_right_after() -> None:
    run = Run()
    run.link.drop("it is cut")
    assert run.joins.wait(SOON)
    assert run.entries == [REJOIN]
    run.end()
