"""A supervised job of a unit test, with scripted agents for hosts; the fixtures `job_place` and `run`."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remoteio.wire import frames
from shim.submit.job import control_socket, events, placement_steps
from shim.submit.job.events import Kind
from shim.submit.job.output_file import OutputFile
from shim.submit.job.placement_actions import Result
from shim.submit.job.record import Record, create, packed
from shim.submit.job.replayed_streams import OutputOnce, ReplayedInput
from shim.submit.job.supervisor import JobSupervisor
from shim.submit.scope import Scope
from shim.wire import lease
from shim.wire.job_spec import JobSpec
from tests.agents import Agent, Country
from tests.until import HANG


class Run:
    """A supervised job."""

    def __init__(
        self,
        directory: Path,
        hosts: tuple[str, ...] = ("alpha", "beta"),
        every: float = 0.0,
        prepare: Callable[[Agent], None] = lambda agent: None,
        make: bool = False,
        scope: Scope | None = None,
        keep: int = 2,
        country: Callable[[Path], Country] = Country,
        lease: int = 300,
        desk: dict[str, object] | None = None,
    ) -> None:
        """`make`: the directory is not there yet; `desk`: what it takes of the desk."""
        if make:
            directory.mkdir()
        self.country = country(directory)
        self.country.prepare = prepare
        spec = JobSpec(
            argv=[b"count"], env=[b"A=1"], cwd=b"/", uid=os.geteuid(), gid=os.getegid(), groups=[], umask=0o22,
            hostname=b"here", limits=[], scratch=[], stdio=[0, 1], tty=[],
        )  # fmt: skip
        record = Record(
            id=0, command=("count",), cwd="/", created=time.time(), hosts=hosts, owner="none", every=every, keep=keep,
            detached=True, tty=False, spec=packed(spec), scope=(scope or Scope()).row(), lease=lease,
            desk=desk,
        )  # fmt: skip
        self.job = create(record)
        assert self.job.lock()
        self.out = directory / "out"
        self.typed_read, self.typed = os.pipe()
        self.begin(None)

    def begin(self, taken: int | None, force: bool = False) -> None:
        fd = os.open(self.out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.output = OutputOnce(frames.STDOUT, OutputFile(fd), taken=taken or 0)
        self.input = ReplayedInput(self.job.path, os.dup(self.typed_read))
        self.supervisor = JobSupervisor(
            self.job, {frames.STDOUT: self.output}, self.input, patient=True, force=force, say=lambda text: None,
            reach=self.country.reach,
        )  # fmt: skip
        self.result: list[Result | BaseException] = []
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.result.append(self.supervisor.run())
        except BaseException as error:
            self.result.append(error)

    def forget(self) -> None:
        """Close what this test has open for it."""
        os.close(self.typed)
        os.close(self.typed_read)
        os.close(self.job._lock)
        for agent in self.country.agents:
            agent.die()
            assert agent.broken.wait(60)

    def ask(self, what: str, **more: object) -> str:
        for answer in control_socket.ask(self.job.control, do=what, **more):
            if answer.get("done") is not None:
                return f"{answer['done']}: {answer['text']}"
        raise AssertionError("no answer")

    def close(self) -> None:
        """Have all agents gone, and the job with them."""
        for agent in self.country.agents:
            agent.die()
        if self.thread.is_alive():
            self.ask("kill")
        self.thread.join(60)

    def end(self, within: float = HANG) -> Result:
        self.thread.join(within)
        assert self.result, f"the job has not ended but is {self.supervisor.state}"
        result = self.result[0]
        assert isinstance(result, Result), result
        return result

    def kinds(self) -> list[Kind]:
        return [event.kind for event in events.read_events(self.job.log)[0]]


def place_jobs(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have jobs kept in that directory, and a placement that does not wait long."""
    monkeypatch.setenv("XDG_STATE_HOME", str(directory / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(directory / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(directory / "data"))
    monkeypatch.setattr(lease, "LOST", 0.3)
    monkeypatch.setattr(placement_steps, "RETRY", 0.5)


@pytest.fixture
def job_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place_jobs(tmp_path, monkeypatch)


@pytest.fixture
def run(tmp_path: Path, job_place: None) -> Iterator[Run]:
    made = Run(tmp_path)
    yield made
    made.close()


def descriptors(country: Country) -> int:
    """How many this process has open, but for the agents' own ends of their links."""
    ends = {agent._end.fileno() for agent in country.agents}
    return len({int(name) for name in os.listdir("/proc/self/fd")} - ends)
