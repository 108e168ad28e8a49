"""`rexec submit --checkpoint`: jobs of a batch are held and moved, and go on whoever of their supervisors is killed."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from tests.job_commands import USER, Mover, give, kill_agent, lines, supervisors
from tests.standing import holders
from tests.until import HANG, until

long = pytest.mark.long(lambda **_: True)
# Says a line again and again, until it is told to end.
COUNTS = "i=0; until [ -e end.{} ]; do i=$((i+1)); echo line $i; sleep .05; done; exit {}"


class Batch:
    """A batch on two hosts with a slot each."""

    def __init__(self, mover: Mover, *options: str) -> None:
        self.mover = mover
        (mover.dir / "config" / "rexec").mkdir(parents=True)
        (mover.dir / "config" / "rexec" / "hosts.toml").write_text(
            "".join(f'[host.{name}]\nssh = "{name}"\nowner = "none"\nslots = 1\n' for name in mover.hosts)
        )
        give(mover, mover.dir)
        self.name = mover.verb("submit", "--checkpoint", *options, "sh", "-c", COUNTS).strip()

    def rows(self, job: int, **row: object) -> list[dict[str, Any]]:
        path = self.mover.dir / "state/rexec/batches" / self.name[1:] / "journal"
        found = [each for each in map(json.loads, path.read_text().splitlines()) if each.get("job") == job]
        return [each for each in found if row.items() <= each.items()]

    def state(self, job: int) -> str:
        return next((str(row["is"]) for row in reversed(self.rows(job)) if "is" in row), "waiting")

    def comes_to(self, job: int, state: str) -> None:
        until(lambda: self.state(job) == state, f"job {job} is {state}")

    def running(self) -> list[int]:
        return [job for job in range(3) if self.state(job) == "running"]

    def number(self, job: int) -> str:
        """What `rexec jobs` calls it."""
        return str(until(lambda: [row["id"] for row in self.rows(job) if "id" in row], "it has begun")[-1])

    def out(self, job: int) -> str:
        return (self.mover.dir / f"sh.{self.name}.{job}.out").read_text()

    def says_more(self, job: int) -> None:
        before = len(self.out(job))
        until(lambda: len(self.out(job)) > before + 40, "it says more")

    def end(self, job: int) -> None:
        """Have it end: all that it said is there, once, and nothing else of it."""
        number = self.number(job)
        self.says_more(job)
        (self.mover.dir / f"end.{job}").touch()
        self.comes_to(job, "done")
        (done,) = self.rows(job, **{"is": "done"})
        assert done["status"] == job and len(done["cost"]) == 3 and all(done["cost"])
        text = self.out(job)
        assert text == lines(text.count("\n"))
        until(lambda: not self.mover.path(number, "").exists(), "it is removed")

    def supervisor(self) -> int:
        """The process that supervises it, which has its lock open; 0: none does."""
        return next(iter(holders(self.mover.dir / "state/rexec/batches" / self.name[1:] / "lock")), 0)


@USER
def test_jobs_of_a_batch_are_moved_held_and_released(mover: Mover) -> None:
    batch = Batch(mover, "-n", "3")
    until(lambda: len(batch.running()) == 2, "two run")
    (first, second), (third,) = batch.running(), set(range(3)) - set(batch.running())
    host = batch.rows(first)[-1]["host"]
    batch.says_more(first)
    assert mover.verb("vacate", f"{batch.name}.{first}") == f"{batch.name}.{first}: told to leave its place\n"
    batch.comes_to(third, "running")
    batch.comes_to(first, "waiting")
    assert batch.rows(third)[-1]["host"] == host
    batch.end(second)
    batch.comes_to(first, "running")
    assert batch.rows(first)[-1]["host"] != host
    batch.says_more(first)
    assert mover.verb("hold", f"{batch.name}.{first}") == f"{batch.name}.{first}: held\n"
    batch.comes_to(first, "held")
    until(lambda: not supervisors(mover, batch.number(first)), "it is no process")
    assert mover.verb("release", f"{batch.name}.{first}") == f"{batch.name}.{first}: released\n"
    batch.comes_to(first, "running")
    batch.end(first)
    batch.end(third)
    assert "b1" in mover.verb("jobs")


@long
@USER
def test_they_go_on_where_supervisors_and_agents_are_killed(mover: Mover) -> None:
    batch = Batch(mover, "-n", "2", "--on", ",".join(mover.hosts))
    for job in (0, 1):
        batch.comes_to(job, "running")
        batch.says_more(job)
        mover.verb("checkpoint", f"{batch.name}.{job}")
    os.kill(until(batch.supervisor, "it has a supervisor"), signal.SIGKILL)
    until(lambda: not batch.supervisor(), "it is gone")
    batch.says_more(0)
    kill_agent(mover, batch.number(0))
    assert mover.verb("resume") == f"batch {batch.name} goes on\n"
    for pid in supervisors(mover, batch.number(1)):
        os.kill(pid, signal.SIGKILL)
    batch.says_more(1)
    batch.end(0)
    batch.end(1)
    assert not batch.rows(0, why="its supervisor had ended")


@long
@USER
def test_what_waits_or_runs_is_killed(mover: Mover) -> None:
    batch = Batch(mover, "-n", "3")
    until(lambda: len(batch.running()) == 2, "two run")
    numbers = list(map(batch.number, batch.running()))
    assert mover.verb("kill", batch.name) == f"{batch.name}: killed\n"
    for job in range(3):
        batch.comes_to(job, "killed")
    until(lambda: not any(mover.path(number, "").exists() for number in numbers), "they are removed", within=HANG)
