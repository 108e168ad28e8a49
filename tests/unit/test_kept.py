"""An agent that waits for a job, and the run that asks for it: what they say, and what a run makes of silence."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from remoteio.submit.transport.ssh import ProcessStream, open_local
from remoteio.submit.transport.stream import Stream
from shim.execute import spare
from shim.submit import own_code
from shim.submit.hosts import keeper, kept, spares
from shim.submit.hosts.bootstrap import Facts
from shim.submit.hosts.config import Host
from shim.wire import kept as words

HOST = Host("box", "box")


def wait_for_a_job(ours: socket.socket, theirs: socket.socket, monkeypatch: pytest.MonkeyPatch) -> threading.Thread:
    """Have an agent wait at `theirs`, whose job is to send what it is sent."""

    def serve(read_fd: int, write_fd: int) -> int:
        os.write(write_fd, os.read(read_fd, 100))
        return 7

    monkeypatch.setattr("shim.execute.main.main", serve)
    agent = threading.Thread(target=lambda: spare.main(theirs.fileno(), theirs.fileno()))
    agent.start()
    return agent


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_an_agent_answers_until_it_has_a_job_and_touches_nothing_of_that(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = ends
    agent = wait_for_a_job(ours, theirs, monkeypatch)
    for _ in range(2):
        ours.send(words.ALIVE)
        assert ours.recv(10) == words.YES
    ours.send(words.BEGIN + b"?!job")
    assert ours.recv(1) == words.YES
    assert ours.recv(10) == b"?!job"
    agent.join()


@pytest.mark.parametrize("said", [b"", b"x"])
def test_an_agent_ends_without_a_job_where_home_has_gone_or_is_not_understood(
    said: bytes, ends: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = ends
    ours.send(said) if said else ours.shutdown(socket.SHUT_WR)
    assert spare.main(theirs.fileno(), theirs.fileno()) == 0


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return kept.directory() / kept.name(HOST)


def give(listener: socket.socket, said: bytes, fds: list[int]) -> None:
    with listener:
        run, _ = listener.accept()
        with run:
            assert run.recv(100) == b"run"
            socket.send_fds(run, [said], fds)
            for fd in fds:
                os.close(fd)
            run.recv(100)  # until the run has ended


def asked(at: Path, said: bytes, fds: list[int]) -> tuple[object, list[str]]:
    """What a run has of a keeper that says this and gives these, and what it did in turn."""
    listener = keeper.listen(at)
    assert listener is not None
    there = threading.Thread(target=give, args=(listener, said, fds))
    there.start()
    run, did = kept.Kept(60), list[str]()

    def first(stream: Stream) -> bytes:
        did.append("START")
        return b"START"

    taken = run.take(HOST, first, lambda: did.append("imports"))
    if taken is not None:
        assert taken[0].trip == 20_400
        assert os.read(taken[0].read_fd, 10) == b"START"
        taken[0].close(done=True)
    run.close()
    there.join()
    return None if taken is None else taken[1], did


@pytest.mark.parametrize("under_way", [False, True])
def test_a_run_is_given_an_agent_that_answers(
    under_way: bool, at: Path, ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = ends
    agent = wait_for_a_job(ours, theirs, monkeypatch)
    if under_way:
        ours.send(words.ALIVE)
    assert asked(at, b"yes %d 3.13.5 20400" % under_way, [ours.detach()]) == (
        Facts((3, 13, 5), "waits", ""),
        ["START", "imports"],
    )
    agent.join()


def test_a_run_makes_its_own_where_the_agent_is_dead_or_there_is_none(
    at: Path, ends: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = ends
    theirs.close()
    assert asked(at, b"yes 0 3.13.5 0", [ours.detach()])[0] is None
    assert asked(at, b"no", []) == (None, [])
    assert kept.Kept(60).take(HOST, lambda stream: b"", lambda: None) is None
    assert kept.Kept(0).take(HOST, lambda stream: b"", lambda: None) is None


def test_how_far_the_host_is_is_found_out_of_an_agent_that_waits(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = ends
    agent = wait_for_a_job(ours, theirs, monkeypatch)
    assert 0 < spares.trip(kept.KeptStream("box", ours.fileno(), 0)) < 60e6
    ours.send(words.BEGIN + b"job")
    agent.join()
    theirs.close()
    assert ours.recv(10) == words.YES + b"job", "no answer is under way"
    assert spares.trip(kept.KeptStream("box", ours.fileno(), 0)) == 0, "it has ended"


def test_what_a_run_leaves_to_its_keeper_is_closed_after_it(at: Path) -> None:
    listener = keeper.listen(at)
    assert listener is not None
    with listener:
        serving = keeper.Keeper(HOST, 60, listener)
        serving._failures = 9  # it dials nobody
        first, second = kept.Kept(60), threading.Thread(target=lambda: kept.ask(at, b"look").close())
        first._keeper = kept.ask(at, b"run")
        serving._wait()
        reads, writes = os.pipe()
        first.hold(writes)
        os.close(writes)
        second.start()
        serving._wait()
        second.join()
        os.set_blocking(reads, False)
        with pytest.raises(BlockingIOError):
            os.read(reads, 1)
        assert len(serving._runs) == 1, "it has not ended yet"
        first.close()
        serving._wait()
        assert not serving._runs and os.read(reads, 1) == b""
        os.close(reads)


def waiting() -> spares.Spare:
    stream = open_local(["cat"])
    assert isinstance(stream, ProcessStream)
    return spares.Spare(stream, Facts((3, 11, 2), "waits", ""), 20_000)


def test_a_resident_that_dies_as_it_begins_is_not_begun_again_at_once(
    at: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_code, "command", lambda module: ["false"])
    listener = keeper.listen(at)
    assert listener is not None
    with listener:
        serving = keeper.Keeper(HOST, 60, listener)
        serving._spare = waiting()
        serving._begin_resident()
        assert serving._resident is not None
        serving._wait()
        serving._begin_resident()
        assert serving._resident is None and serving._spare is None


def test_a_run_that_comes_while_a_connection_is_made_is_served_over_that(
    at: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As each does where they follow one another at once."""
    hears = "import os, sys; os.read(int(sys.argv[1]), 1)"
    monkeypatch.setattr(own_code, "command", lambda module: [sys.executable, "-Sc", hears])
    listener = keeper.listen(at)
    assert listener is not None
    with listener:
        serving = keeper.Keeper(HOST, 60, listener)
        monkeypatch.setattr(serving._dials, "_dial", waiting)
        serving._dials.begin()
        with kept.ask(at, b"served") as run:
            serving._accept()
            said, fds, _, _ = socket.recv_fds(run, 100, 1)
            assert said == b"served 0 3.11.2 20000"
            os.close(fds[0])
        assert serving._resident is not None and serving._spare is None
        serving._wait()
        assert not serving._runs, "it has ended"
        serving._end_resident()


def test_what_a_run_leaves_to_a_keeper_that_it_starts_is_its_standard_input(
    at: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *_, stdin, **__: started.append(stdin))
    run = kept.Kept(60)
    assert run.take(HOST, lambda stream: b"", lambda: None) is None, "nobody listens"
    reads, writes = os.pipe()
    run.hold(writes)
    os.close(writes)
    run.leave(kept.KeptStream("box", os.dup(reads), 0))
    assert os.path.samestat(os.fstat(started[0]), os.fstat(reads))
    os.close(started[0])
    os.close(reads)


def test_one_listens_for_a_host_and_takes_the_place_of_one_that_died(at: Path) -> None:
    first = keeper.listen(at)
    assert first is not None
    assert keeper.listen(at) is None
    first.close()
    (at.parent / "other").write_bytes(b"")
    with keeper.listen(at) as second:  # type: ignore[union-attr]
        assert second.fileno() >= 0
    assert list(kept.end([])) == []


def test_a_connection_is_kept_for_the_way_there_as_it_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(kept, "user_config", lambda: str(tmp_path / ".ssh/config"))
    (tmp_path / ".ssh").mkdir()
    names = {kept.name(HOST), kept.name(Host("box", "box", ("-p", "2"))), kept.name(Host("box", "box", python="py"))}
    (tmp_path / ".ssh/config").write_text("Host box\n")
    names |= {kept.name(HOST)}
    monkeypatch.setenv("SSH_AUTH_SOCK", "/agent")
    names |= {kept.name(HOST)}
    assert len(names) == 5
    assert kept.name(HOST) == kept.name(Host("an alias", "box")) in names
