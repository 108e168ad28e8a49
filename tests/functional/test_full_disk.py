"""The submit machine's disk is full: nothing that runs ends, and what could not be written is, once there is room."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from remoteio.wire import frames
from remoteio.wire.link import Link
from shim.submit.job import output_file, placement_steps, recorder
from shim.submit.job.events import Kind
from shim.submit.job.output_file import OutputFile
from shim.submit.job.placement_actions import Result
from shim.submit.job.replayed_streams import OutputOnce
from shim.wire import lease
from tests.supervised import Run
from tests.until import until


class Disk:
    """A small filesystem of its own."""

    def __init__(self, at: Path) -> None:
        self.at = at

    def fill(self) -> None:
        with (self.at / "full").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError as error:
                assert error.strerror == "No space left on device"

    def empty(self) -> None:
        (self.at / "full").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    at = tmp_path / "disk"
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", at], check=True)
    yield Disk(at)
    subprocess.run(["umount", "-l", at], check=True)


@pytest.fixture
def run(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setenv("XDG_STATE_HOME", str(disk.at / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(lease, "LOST", 0.3)
    monkeypatch.setattr(placement_steps, "RETRY", 0.5)
    monkeypatch.setattr(recorder, "AGAIN", 0.2)
    monkeypatch.setattr(output_file, "AGAIN", 0.2)
    made = Run(tmp_path)
    yield made
    for agent in made.country.agents:
        agent.die()
    if made.thread.is_alive():
        made.ask("kill")
    made.thread.join(60)


def test_a_job_that_runs_goes_on_and_ends_well(run: Run, disk: Disk) -> None:
    alpha = run.country.running(0)
    until(lambda: Kind.EXECUTE in run.kinds(), "it is on the disk that the job runs")  # a rename then makes room
    disk.fill()
    assert run.ask("checkpoint").startswith("False: the image of job 1 was not saved, because ")
    alpha.news("frozen", why="input seen", source="terminals", at=1.0)
    until(lambda: run.supervisor.state.phase == "frozen", "frozen")
    alpha.news("thawed", why="no further input")
    until(lambda: run.supervisor.state.phase == "running", "running")
    alpha.say()
    until(lambda: run.out.read_text() == "1\n", "the output, which goes elsewhere")
    alpha.end(3 << 8)
    until(lambda: run.supervisor.state.result is not None, "the job has ended")
    run.thread.join(1.0)
    # The log of its nodes makes room when it goes: what came of it is told then, and never by nobody.
    assert run.thread.is_alive() or run.job.read().status == 3 << 8
    disk.empty()
    assert run.end() == Result(3 << 8)
    assert run.job.read().status == 3 << 8
    # the note: what the job changes cannot be kept to be undone
    assert run.kinds() == [Kind.SUBMIT, Kind.EXECUTE, Kind.NOTE, Kind.SUSPEND, Kind.RESUME, Kind.END]


def test_no_generation_is_begun_whose_number_would_be_forgotten(run: Run, disk: Disk) -> None:
    alpha = run.country.running(0)
    assert run.ask("checkpoint") == "True: image 1 is committed"
    disk.fill()
    alpha.die()
    until(lambda: "cannot be written: No space left on device" in run.supervisor.state.why, "the job is parked")
    assert len(run.country.agents) == 1
    assert run.job.read().generation == 1
    disk.empty()
    again = run.country.running(1)
    record = run.job.read()
    assert again.spec is not None and again.spec.checkpoint is not None
    assert again.spec.checkpoint.generation == record.generation > 1
    again.end(0)
    assert run.end() == Result(0)
    assert Kind.LOST in run.kinds()


def test_output_waits_for_room(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_file, "AGAIN", 0.1)
    failed: list[BaseException] = []
    said: list[str] = []
    disk.fill()
    path = disk.at / "stdout"
    output = OutputOnce(frames.STDOUT, OutputFile(os.open(path, os.O_WRONLY | os.O_CREAT), say=said.append))
    output.start(failed.append)
    written = b"x" * 100_000
    ours, theirs = socket.socketpair()
    link = Link(ours.fileno(), ours.fileno())
    output.begin(link, 0)
    output.put(link, written)
    until(lambda: said, "it says so")
    assert said[0].startswith("the job's output cannot be written: No space left on device")
    assert not output.drain(0.3)
    disk.empty()
    assert output.drain(60)
    assert (path.read_bytes(), failed, len(said)) == (written, [], 1)
    ours.close()
    theirs.close()
