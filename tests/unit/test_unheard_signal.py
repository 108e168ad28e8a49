"""A person who asks for the end of a run whose line is dead gets it, before anybody has found the line dead."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from remoteio.errors import RexecError
from remoteio.submit.transport.stream import Stream
from remoteio.wire import frames
from remoteio.wire.session_link import SessionLink
from shim.submit.foreground.run import ForegroundRun
from shim.submit.host_session import HostSession
from shim.submit.hosts import bootstrap, dialler
from shim.submit.hosts.config import Host
from shim.submit.hosts.dialler import Dialler
from shim.submit.plain_run import RunResult
from shim.wire import lease
from shim.wire.job_spec import JobSpec

SOON = 60.0
DOOR = [b"/somewhere/door", b"box", b"boot", b"1", b"1"]


def unreachable(*_: object, **__: object) -> tuple[Stream, bootstrap.Facts]:
    raise RexecError("no route")


class Running:
    """A run whose job has begun, at a host that answers as the test has it, and is not to be dialled."""

    def __init__(self) -> None:
        spec = JobSpec(
            argv=[b"true"], env=[], cwd=b"/", uid=os.geteuid(), gid=os.getegid(), groups=[], umask=0o22,
            hostname=b"here", limits=[], scratch=[], stdio=[], tty=[],
        )  # fmt: skip
        self._ends = socket.socketpair()
        link, self.host = (SessionLink(end.fileno(), end.fileno()) for end in self._ends)
        self.said: list[str] = []
        self._job = ForegroundRun(
            link, spec, self.said.append, lambda *_, **__: None, dialler=Dialler(Host("b", "b"), link, 60, unreachable)
        )
        self.ended = threading.Event()
        self.result: RunResult | None = None
        threading.Thread(target=self._to_the_end, daemon=True).start()
        self.host.last(lambda why: None)
        hello: dict[str, list[bytes]] = {"host": [b"box"], "time": [b"0"], "uids": [], "gids": [], "door": DOOR}
        self.host.send(frames.HELLO, frames.pack_fields(hello))
        self.host.send(frames.STARTED)
        begun = threading.Event()
        while not self._job._run.started:
            self._job._run.tell(begun.set)
            assert begun.wait(SOON)

    def _to_the_end(self) -> None:
        self.result = self._job._run.run()
        self.ended.set()

    def signal(self, number: int) -> None:
        done = threading.Event()

        def signalled() -> None:
            self._job._signalled(number)
            done.set()

        self._job._run.tell(signalled)
        assert done.wait(SOON)

    @property
    def unheard(self) -> bool:
        return self._job._unheard()

    def hears(self, kind: int) -> bytes:
        while True:
            for each, payload in self.host.receive():
                if each == kind:
                    return bytes(payload)

    def cut(self) -> None:
        self.host.drop()

    def end(self) -> None:
        self._job._run.give_up(RunResult(0))
        self._job._run.tell(lambda: None)
        assert self.ended.wait(SOON)
        self._job._run.release()
        self.host.close()
        for end in self._ends:
            end.close()


@pytest.fixture
def running() -> Iterator[Running]:
    made = Running()
    yield made
    made.end()


def fall_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HostSession, "silent", property(lambda _: lease.HOME / 2))


def test_who_asks_again_on_a_dead_line_waits_no_longer(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    running.signal(signal.SIGINT)
    assert not running.ended.is_set()
    fall_silent(monkeypatch)
    running.signal(signal.SIGINT)
    assert running.ended.wait(SOON)
    assert running.result == RunResult(signal.SIGINT, away=True)
    assert running.said[-1] == "the job has ended here; nobody can tell box, which ends the job itself within 60 s"


def test_who_asked_before_the_line_was_found_dead_need_not_ask_again(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialler, "_SOON", 0.05)
    running.signal(signal.SIGTERM)
    running.cut()
    assert running.ended.wait(SOON)
    assert running.result == RunResult(signal.SIGTERM, away=True)


def test_a_signal_that_the_host_has_heard_is_the_jobs_alone(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a program that means something else by Ctrl-C: an outage later does not end it, nor does the next one."""
    monkeypatch.setattr(dialler, "_SOON", 0.05)
    running.signal(signal.SIGINT)
    assert running.hears(frames.SIGNAL) == bytes((signal.SIGINT,))
    while running.unheard:
        running.host.send(frames.PING)  # which says what has come
        if running.host.readable(0.05):
            running.host.receive()
    fall_silent(monkeypatch)
    running.signal(signal.SIGINT)
    assert not running.ended.is_set()
    assert running.hears(frames.SIGNAL) == bytes((signal.SIGINT,))


def test_two_of_one_signal_at_once_are_one(running: Running) -> None:
    """As `timeout` sends them, to its child and then to the group; what is pending already is not pending twice."""
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        running._job._caught(number, None)
    heard: list[bytes] = []
    while len(heard) < 2:
        heard += [bytes(payload) for kind, payload in running.host.receive() if kind == frames.SIGNAL]
    assert heard == [bytes((signal.SIGTERM,)), bytes((signal.SIGINT,))]
