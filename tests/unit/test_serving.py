"""Processes that serve many runs of a batch: what they say of a run, and how many share one."""

from __future__ import annotations

import os
import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from remoteio.submit import own_share
from shim.submit.batch import serving
from shim.submit.batch.record import Batch
from shim.submit.batch.runs import Ended
from shim.submit.batch.serving import ServedRun, Servings
from shim.submit.desk.line import Member
from shim.submit.desk.members import Changes, Members
from shim.wire.wakeup import await_any
from tests.until import HANG


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Servings]:
    environ = tuple(f"{name}={value}" for name, value in os.environ.items())
    (tmp_path / "sim.0.out").symlink_to("precious")
    batch = Batch(("true",), 9, (), "local", "local", (), "sim.{}.out", "sim.{}.err", str(tmp_path), environ, 0o22, 0.0)
    made = Servings(batch, tmp_path)
    yield made
    for each in made._serving:
        each.process.kill()
        each.process.wait()
        each.socket.close()


def ended(served: Servings, run: ServedRun) -> Ended:
    while (how := run.ended()) is None:
        assert await_any(served.fds(), HANG)
        served.read()
    return how


def test_a_run_that_cannot_begin_says_why_and_its_process_ends_with_the_last(served: Servings, tmp_path: Path) -> None:
    run = served.run(0, ["--on", "local"])
    (process,) = (each.process for each in served._serving)
    how = ended(served, run)
    assert how.status is None and how.why.startswith("the job cannot be started: ") and "sim.0.out" in how.why
    assert not (tmp_path / "precious").exists()
    run.forget()
    served.read()
    assert served.fds() == [] and process.wait(HANG) == 0


def test_what_a_dead_process_had_not_said_to_have_ended_is_to_be_run_again(served: Servings) -> None:
    runs = [served.run(job, ["--on", "local"]) for job in (1, 2)]
    (serves,) = served._serving
    serves.process.kill()
    assert [ended(served, run).why for run in runs] == ["the process that served it ended with -9, without a word"] * 2
    assert served.fds() == []


def test_a_run_may_have_a_process_to_itself(served: Servings) -> None:
    for job, alone in ((1, True), (2, False), (3, True), (4, False)):
        served.run(job, ["--on", "local"], alone=alone)
    assert [[run.job for run in each.runs.values()] for each in served._serving] == [[1], [2, 4], [3]]


def test_a_process_that_takes_nothing_is_ended(served: Servings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_PATIENCE", 0.1)
    run = served.run(1, ["--on", "local"])
    (serves,) = served._serving
    serves.socket.shutdown(socket.SHUT_WR)
    run.end(at_once=False)
    assert ended(served, run).status is None


@pytest.mark.parametrize(
    ("hard", "runs"), [(1 << 20, 32), (524288, 32), (65536, 16), (1024, 1), (resource.RLIM_INFINITY, 32)]
)
def test_as_many_share_a_process_as_have_room_for_files(monkeypatch: pytest.MonkeyPatch, hard: int, runs: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, hard))
    assert serving.together() == runs


def test_a_run_has_its_share_of_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (65536, 65536))
    monkeypatch.setattr(own_share, "_shared_by", [1])
    assert own_share.descriptors() == 65536
    own_share.shared_by(16)
    assert own_share.descriptors() == 4096


def test_a_run_that_waits_in_line_is_told_that_it_has_left(tmp_path: Path) -> None:
    members = Members(tmp_path)
    own, changes = members.join(Member(0, "group", 0, 1, ("alpha",))), Changes(members)
    threading.Thread(target=own.leave).start()
    assert changes.wait(HANG)
    own.leave()  # it has, and nothing else is closed in its place
    changes.close()
