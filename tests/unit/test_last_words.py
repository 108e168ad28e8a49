"""What the execute side's own processes die of is told, whatever it is."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from remoteio.errors import RexecError
from remoteio.wire import frames
from remoteio.wire.link import Link, LinkClosed
from remoteio.wire.session_link import SessionLink
from shim.execute import main as agent
from shim.execute.agent import diagnostics, stay
from shim.execute.init import init, keeper, namespaces
from shim.execute.init.sandbox import Sandbox
from shim.wire import lease
from shim.wire.job_spec import JobSpec


def spec() -> JobSpec:
    return JobSpec(
        argv=[b"true"], env=[], cwd=b"/", uid=os.geteuid(), gid=os.getegid(), groups=[], umask=0o22, hostname=b"here",
        limits=[], scratch=[], stdio=[], tty=[],
    )  # fmt: skip


def raises(error: BaseException) -> Callable[..., None]:
    def raising(*_: object, **__: object) -> None:
        raise error

    return raising


def test_a_keeper_that_ends_by_an_error_of_our_own_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "open_fuse", raises(ZeroDivisionError("told")))
    monkeypatch.setattr(namespaces, "make", lambda plan: None)
    with pytest.raises(RexecError, match=r"rexec's own in the job's keeper: ZeroDivisionError at .*\(told\)"):
        Sandbox(spec(), namespaces.Plan(spec()))


def test_a_keeper_that_ends_later_leaves_its_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "open_fuse", lambda: os.open("/dev/null", os.O_RDWR))
    monkeypatch.setattr(namespaces, "make", lambda plan: None)
    monkeypatch.setattr(namespaces, "mount_root", lambda fuse, plan, spec: "/")
    fork, forks = os.fork, []

    def once() -> int:
        forks.append(1)
        if len(forks) > 1:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return fork()

    monkeypatch.setattr(os, "fork", once)
    sandbox = Sandbox(spec(), namespaces.Plan(spec()))
    assert sandbox.last_word() == b""
    sandbox.go()
    os.waitpid(sandbox.pid, 0)
    assert b"BlockingIOError" in sandbox.last_word()
    sandbox.keeper.close()
    sandbox.init.close()
    os.close(sandbox.fuse)


def test_the_jobs_first_process_says_what_it_ends_by(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    alive, held = os.pipe()
    for error, said in (
        (ZeroDivisionError("told"), "ZeroDivisionError at"),
        (RexecError("the path \udc80\ud800 is odd"), "the path \\udc80\\ud800 is odd"),
        (OSError("\ud800"), "\\ud800"),
    ):
        pid = os.fork()
        if pid == 0:
            try:
                namespaces.build_root = raises(error)  # type: ignore[assignment]
                init.run(theirs, namespaces.Plan(spec()), spec(), "/", [], {}, held)
            finally:
                os._exit(9)
        os.waitpid(pid, 0)
        told = ours.recv(4096)
        assert told.startswith(b"F125 ") and said.encode() in told, told
    for end in (ours, theirs):
        end.close()
    os.close(alive)
    os.close(held)


@pytest.mark.parametrize("leaver", [True, False])
def test_a_lost_link_ends_no_agent_that_is_about_to_leave_in_good_order(leaver: bool) -> None:
    """Home hangs up as it hears of the job's end: the agent's socket was left, if that was noticed first elsewhere."""
    pid = os.fork()
    if pid == 0:
        try:
            about_to = threading.Event()

            def leave() -> None:
                if leaver:
                    diagnostics.leaves()
                about_to.set()
                time.sleep(0.3)  # it removes its socket, on a busy machine
                os._exit(7)

            threading.Thread(target=leave).start()
            about_to.wait()
            diagnostics.fail(LinkClosed("home has hung up"))
        finally:
            os._exit(9)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == (7 if leaver else 1)


def test_an_agent_whose_lease_is_over_takes_its_door_away_though_nobody_has_heard_of_the_jobs_end(
    tmp_path: Path,
) -> None:
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            link, job = SessionLink(theirs.fileno(), theirs.fileno()), spec()
            job.lease, job.secret = 0, bytes(32)
            stays = stay.Stay(link, job, str(tmp_path), lambda: b"")
            stays.begin()
            stays.known = True
            link.drop("it is cut")
            told = threading.Event()

            def leave() -> None:
                diagnostics.leaves()
                told.set()
                with suppress(LinkClosed):
                    link.settled()
                os.unlink(tmp_path / "door")
                os._exit(7)

            link.send(frames.EXIT, bytes(4))
            threading.Thread(target=leave).start()
            told.wait()
            stays._look(1.0, lease.AGENT + 1)
        finally:
            os._exit(9)
    theirs.close()
    ours.close()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 7 and os.listdir(tmp_path) == []


def test_an_agent_that_cannot_begin_says_why_in_any_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(agent, "Sandbox", raises(RexecError("no \udcff here")))
    link = Link(ours.fileno(), ours.fileno())
    link.send(frames.START, spec().pack())
    assert agent.main(theirs.fileno(), theirs.fileno()) == 1
    ((kind, payload),) = link.receive()
    assert (kind, bytes(payload[4:])) == (frames.FAIL, b"no \\udcff here")
    ours.close()
    theirs.close()
