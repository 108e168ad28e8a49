"""What a plain run says to its host, and when."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable

import pytest

from remoteio.wire import frames
from remoteio.wire.link import Link, LinkClosed
from shim.submit.plain_run import PlainRun, RunResult, StreamEnd
from shim.wire.job_spec import JobSpec
from shim.wire.stream_pumps import Sink

SPEC = JobSpec(
    argv=[b"true"], env=[], cwd=b"/", uid=os.geteuid(), gid=os.getegid(), groups=[], umask=0o22, hostname=b"here",
    limits=[], scratch=[], stdio=[1], tty=[],
)  # fmt: skip


def test_the_first_that_a_host_hears_is_what_to_run_though_nobody_reads_the_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of `rexec … | true`: a host that hears of a stream first says that the two ends are of different versions."""
    start = Sink.start

    def and_wait(sink: Sink, fail: Callable[[BaseException], None]) -> None:
        start(sink, fail)
        assert sink.done.wait(60)  # it has told that its reader has gone

    monkeypatch.setattr(Sink, "start", and_wait)
    read, write = os.pipe()
    os.close(read)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        run = PlainRun(Link(ours.fileno(), ours.fileno()), SPEC, {frames.STDOUT: StreamEnd(write)}, Nobody())
        ended: list[BaseException] = []

        def to_the_end() -> None:
            try:
                run.run()
            except LinkClosed as error:
                ended.append(error)

        thread = threading.Thread(target=to_the_end)
        thread.start()
        host, heard = Link(theirs.fileno(), theirs.fileno()), list[int]()
        while len(heard) < 2:
            heard += [kind for kind, _ in host.receive()]
        theirs.shutdown(socket.SHUT_RDWR)
        thread.join(60)
        run.release()
        host.close()
    assert heard[:2] == [frames.START, frames.CLOSED]
    assert ended


def test_who_has_read_what_a_job_says_can_signal_it() -> None:
    """It may be heard before its host has said that it runs: a signal ended rexec then, instead of the job."""
    read, write = os.pipe()
    ours, theirs = socket.socketpair()
    began: list[bool] = []
    with ours, theirs:
        run = PlainRun(Link(ours.fileno(), ours.fileno()), SPEC, {frames.STDOUT: StreamEnd(write)}, Somebody(began))
        thread = threading.Thread(target=run.run)
        thread.start()
        host = Link(theirs.fileno(), theirs.fileno())
        hello: dict[str, list[bytes]] = {"host": [b"x"], "time": [b"0"], "uids": [], "gids": []}
        host.send(frames.HELLO, frames.pack_fields(hello))
        host.send(frames.STDOUT, b"up")
        assert os.read(read, 10) == b"up"
        signalled = threading.Event()
        run.tell(lambda: (began.append(run.started), signalled.set())[-1])
        assert signalled.wait(60)
        host.send(frames.STARTED)
        host.send(frames.STDOUT, b"")
        host.send(frames.EXIT, (0).to_bytes(4, "little"))
        thread.join(60)
        run.release()
        host.close()
    os.close(read)
    assert began == [False, True], "told once that it has begun, and before the signal comes"


def test_a_run_that_was_begun_ahead_is_begun_once_and_ends_without_a_last_word_of_its_host() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        link = Link(ours.fileno(), ours.fileno())
        run = PlainRun(link, SPEC, {}, Somebody([]))
        link.send(frames.START, SPEC.pack())
        ended: list[int | None] = []
        thread = threading.Thread(target=lambda: ended.append(run.run(lingers=True).status))
        thread.start()
        host, heard = Link(theirs.fileno(), theirs.fileno()), list[int]()
        hello: dict[str, list[bytes]] = {"host": [b"x"], "time": [b"0"], "uids": [], "gids": []}
        host.send(frames.HELLO, frames.pack_fields(hello))
        host.send(frames.STARTED)
        host.send(frames.EXIT, (3).to_bytes(4, "little"))
        thread.join(60)
        assert ended == [3]
        try:
            while True:
                heard += [kind for kind, _ in host.receive()]
        except LinkClosed:
            assert heard.count(frames.START) == 1
        run.release()
        host.close()


@pytest.mark.parametrize("begun", [False, True])
def test_only_a_job_that_has_not_begun_can_be_told_that_it_may_not(begun: bool) -> None:
    """Else a host could have a run done again elsewhere, though its input was read and its output said."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        run = PlainRun(Link(ours.fileno(), ours.fileno()), SPEC, {}, Somebody([]))
        ended: list[RunResult] = []
        thread = threading.Thread(target=lambda: ended.append(run.run(lingers=True)))
        thread.start()
        host = Link(theirs.fileno(), theirs.fileno())
        hello: dict[str, list[bytes]] = {"host": [b"x"], "time": [b"0"], "uids": [], "gids": []}
        if begun:
            host.send(frames.HELLO, frames.pack_fields(hello))
            host.send(frames.STARTED)
        host.send(frames.FAIL, frames.NOT_NOW.to_bytes(4, "little") + b"its owner types")
        thread.join(60)
        run.release()
        host.close()
    assert ended == [RunResult(None, 125, "its owner types", told=True, not_now=not begun)]


class Nobody:
    """Watches a run that never begins."""

    def greeted(self, hello: object) -> None:
        raise AssertionError(hello)

    def begun(self) -> dict[int, StreamEnd]:
        raise AssertionError

    def stopped(self) -> None:
        raise AssertionError


class Somebody(Nobody):
    """Watches one that does."""

    def __init__(self, began: list[bool]) -> None:
        self._began = began

    def greeted(self, hello: object) -> None:
        """Nothing is done with it."""

    def begun(self) -> dict[int, StreamEnd]:
        self._began.append(False)
        return {}
