"""One job over many hosts, with scripted agents at the other ends of real links, a real store and control socket."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from checkpoint.submit.store import Store
from remoteio.wire import frames
from shim.submit.api.job_handle import Job
from shim.submit.job import control_socket, events, placement
from shim.submit.job.events import Kind
from shim.submit.job.placement_actions import Result
from shim.submit.job.placement_events import Began, Event, State, Steps
from tests.agents import Agent
from tests.supervised import Run
from tests.until import until


def test_a_job_that_never_moves(run: Run) -> None:
    agent = run.country.running(0)
    agent.say()
    agent.end(3 << 8)
    assert run.end() == Result(3 << 8)
    assert run.out.read_text() == "1\n"
    assert run.kinds() == [Kind.SUBMIT, Kind.EXECUTE, Kind.END]
    assert run.job.read().phase == "ended"


def test_a_vacate_goes_on_elsewhere_with_every_line_once(run: Run) -> None:
    for number in range(6):
        agent = run.country.running(number)
        assert agent.name == ("alpha", "beta")[number % 2]
        agent.say()
        agent.say()
        assert run.ask("vacate") == f"True: the job goes on on {('beta', 'alpha')[number % 2]}"
    run.country.running(6).end(0)
    assert run.end() == Result(0)
    assert run.out.read_text() == "".join(f"{n}\n" for n in range(1, 13))
    assert run.job.read().moves == 6
    assert [
        agent.spec.checkpoint.generation for agent in run.country.agents if agent.spec and agent.spec.checkpoint
    ] == [*range(1, 8)]


def test_a_fresh_job_that_speaks_before_its_host_says_that_it_runs(tmp_path: Path, job_place: None) -> None:
    def prepare(agent: Agent) -> None:
        agent.hasty = True

    run = Run(tmp_path, prepare=prepare)
    run.country.running(0).end(0)
    assert run.end() == Result(0)
    assert run.out.read_text() == "1\n"


def test_who_has_read_what_a_job_says_can_signal_it(
    tmp_path: Path, job_place: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the supervisor has not yet come to what its host says: the signal ended rexec instead of the job."""
    whole, goes_on = placement.step, threading.Event()

    def slow(state: State, event: Event, now: float) -> Steps:
        assert not isinstance(event, Began) or goes_on.wait(60)
        return whole(state, event, now)

    def prepare(agent: Agent) -> None:
        agent.hasty = True

    monkeypatch.setattr(placement, "step", slow)
    run = Run(tmp_path, prepare=prepare)
    try:
        until(lambda: run.out.read_text() == "1\n", "it has said something")
        assert run.supervisor.send_signal(15)
    finally:
        goes_on.set()
    agent = run.country.running(0)
    agent.wait(lambda: (frames.SIGNAL, b"\x0f") in agent.heard)
    agent.end(0)
    assert run.end() == Result(0)


def test_a_restored_job_that_speaks_before_its_host_says_that_it_runs(run: Run) -> None:
    def prepare(agent: Agent) -> None:
        agent.hasty = agent.name == "beta"

    run.country.prepare = prepare
    run.country.running(0).say()
    run.ask("vacate")
    run.country.running(1).say()
    run.country.agents[1].end(0)
    run.end()
    assert run.out.read_text() == "1\n2\n3\n"


def test_input_is_given_again_from_where_the_image_had_it(run: Run) -> None:
    alpha = run.country.running(0)
    os.write(run.typed, b"one two ")
    alpha.wait(lambda: alpha.given == b"one two ")
    run.ask("checkpoint")
    os.write(run.typed, b"three ")
    alpha.wait(lambda: alpha.given == b"one two three ")
    alpha.die()
    again = run.country.running(1)
    again.wait(lambda: again.given == b"three ")
    os.write(run.typed, b"four")
    again.wait(lambda: again.given == b"three four")
    os.close(run.typed)
    again.wait(lambda: again.eof)
    again.end(0)
    run.end()


def test_a_refused_vacate_leaves_it_running(run: Run) -> None:
    alpha = run.country.running(0)
    alpha.refuse = "process 101 (job.py) holds an io_uring, descriptor 5"
    assert run.ask("vacate") == "False: process 101 (job.py) holds an io_uring, descriptor 5"
    alpha.say()
    alpha.end(0)
    assert run.end() == Result(0)


def test_hold_and_release(run: Run) -> None:
    run.country.running(0).say()
    assert run.ask("hold").startswith("True: the job is parked")
    assert run.ask("checkpoint").startswith("False: the job is parked")
    assert run.job.read().held
    assert placement.deadline(run.supervisor.state) is None, "it stays, however long that is"
    assert len(run.country.agents) == 1
    assert run.ask("release") == "True: the job goes on on alpha"
    run.country.running(1).end(0)
    run.end()
    assert run.kinds()[-4:] == [Kind.HOLD, Kind.RELEASE, Kind.EXECUTE, Kind.END]


def test_parked_until_a_host_is_up(run: Run) -> None:
    run.country.running(0).say()
    run.country.down |= {"alpha", "beta"}
    assert run.ask("vacate").startswith("True: the job is parked: no host will do (")
    assert "cannot reach beta: it is down" in run.job.read().why
    run.country.down.clear()
    run.country.running(1).end(0)
    run.end()


def test_the_owner_comes_back(run: Run) -> None:
    alpha = run.country.running(0)
    alpha.news("frozen", why="input seen by terminals: /dev/pts/3", source="terminals", at=1.0)
    until(lambda: run.supervisor.state.phase == "frozen", "frozen")
    alpha.news("leaving", why="further input seen", serial=1 << 20)
    alpha.dump(1 << 20, True)
    beta = run.country.running(1)
    assert beta.name == "beta"
    assert run.supervisor.state.search.driven == {"alpha"}
    beta.end(0)
    run.end()
    assert run.kinds() == [
        Kind.SUBMIT, Kind.EXECUTE, Kind.SUSPEND, Kind.CHECKPOINT, Kind.EVICT, Kind.EXECUTE, Kind.END
    ]  # fmt: skip


def test_kill(run: Run) -> None:
    run.country.running(0)
    assert run.ask("kill") == "True: the job is being killed"
    assert run.end() == Result(9)


def test_checkpoints_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    run = Run(tmp_path, every=0.2)
    agent = run.country.running(0)
    until(lambda: run.supervisor.state.images.newest >= 4, "four images")
    until(lambda: len(Store().images(str(run.job.id))) == 2, "only the last two are kept")
    agent.end(0)
    run.end()


def test_attached_one_sees_and_types(run: Run) -> None:
    alpha = run.country.running(0)
    with control_socket.connect(run.job.control) as sock:
        sock.sendall(json.dumps({"do": "attach"}).encode() + b"\n")
        assert json.loads(control_socket.read_line(sock))["done"] is True
        sock.sendall(frames.frame(frames.STDIN, b"typed"))
        alpha.wait(lambda: alpha.given == b"typed")
        alpha.say()
        reader = frames.FrameReader()
        got = reader.feed(sock.recv(1000))
        alpha.end(7 << 8)
        while data := sock.recv(1000):
            got += reader.feed(data)
    assert [(kind, bytes(payload)) for kind, payload in got] == [
        (frames.STDOUT, b"1\n"),
        (frames.EXIT, (7 << 8).to_bytes(4, "little")),
    ]
    run.end()


def test_a_full_store_leaves_it_running(run: Run) -> None:
    alpha = run.country.running(0)
    (run.job.path.parent.parent / "images").write_text("no directory")
    assert run.ask("vacate").startswith("False: ")
    alpha.say()
    alpha.end(0)
    assert run.end() == Result(0)


def test_a_vacate_mends_what_is_damaged_on_the_disk(run: Run) -> None:
    alpha = run.country.running(0)
    alpha.pages = os.urandom(1 << 20)
    alpha.say()
    run.ask("checkpoint")
    name = str(run.job.id)
    pack = Store().root / name / "00000001.pack"
    spoilt = bytearray(pack.read_bytes())
    spoilt[500_000] ^= 1
    pack.write_bytes(spoilt)
    assert run.ask("vacate") == "True: the job goes on on beta"
    assert alpha.offers_again == 1
    again = run.country.running(1)
    assert (again.count, again.memory) == (1, alpha.pages)
    again.end(0)
    assert run.end() == Result(0)
    with Store().open(name, 1) as image:
        assert not image.damaged()


def test_parked_is_logged_once(run: Run) -> None:
    run.country.running(0)
    run.country.down |= {"alpha", "beta"}
    run.ask("vacate")
    turn = run.supervisor.state.search.turn
    until(lambda: run.supervisor.state.search.turn >= turn + 2, "two more looks for a host")
    notes = [event.reason for event in events.read_events(run.job.log)[0] if event.kind == Kind.NOTE]
    assert len(notes) == 1 and notes[0].startswith("parked: no host will do (")
    run.ask("kill")
    run.end()


def test_the_clock_may_be_set_while_it_runs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = run.country.running(0)
    before = time.monotonic()
    right = time.time
    for jump in (-86400.0, 86400.0):
        monkeypatch.setattr(time, "time", lambda jump=jump: right() + jump)
        assert 0 <= Job(run.job).report().run_time <= time.monotonic() - before + 10
    agent.end(0)
    assert run.end() == Result(0)
    assert 0 < run.job.read().ran <= time.monotonic() - before + 10
