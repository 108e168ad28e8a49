"""`rexec submit` on the desk's own hosts: many jobs, few at a time, each of which ends once and with its own status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from shim.submit.batch.supervisor import AT_ONCE
from tests.program import Combo
from tests.until import HANG, until

both = pytest.mark.parametrize("combo", ["root-root", "user-alice"], indirect=True)
long = pytest.mark.long(lambda **_: True)
HOSTS = """
[host.alpha]
ssh = "{alpha}"
owner = "none"
slots = 2
[host.beta]
ssh = "{beta}"
owner = "none"
slots = 1
"""
# It says that it has begun, and ends when it is told.
WAITS = "echo >>begun.{}; until [ -e go.{} ]; do sleep 0.1; done; exit {}"


MANY = 3 + AT_ONCE + 1


class Submits:
    """Batches of one user, in a directory and with a state of their own."""

    def __init__(self, combo: Combo) -> None:
        self.combo, self.dir = combo, combo.dir
        self.env = {"XDG_CONFIG_HOME": str(self.dir / "config"), "XDG_STATE_HOME": str(self.dir / "state")}
        (self.dir / "config" / "rexec").mkdir(parents=True)
        (self.dir / "config" / "rexec" / "hosts.toml").write_text(
            HOSTS.format(alpha=combo.on, beta=combo.on.replace("alpha", "beta"))
        )
        subprocess.run(["chown", "-R", combo.as_user, self.dir], check=True)

    def __call__(self, *words: str, status: int = 0) -> str:
        with self.combo.rexec.start(
            words, as_user=self.combo.as_user, env=self.env, cwd=self.dir, stderr=subprocess.STDOUT
        ) as process:
            said = process.communicate(timeout=HANG)[0].decode()
        assert process.returncode == status, said
        return said

    def submit(self, *words: str) -> str:
        return self("submit", *words).strip()

    def log(self, name: str, **row: object) -> list[dict[str, Any]]:
        """The rows of a batch's log with these values."""
        number = name[1:]
        text = (self.dir / "state/rexec/batches" / number / "journal").read_text()
        return [each for each in map(json.loads, text.splitlines()) if row.items() <= each.items()]

    def begun(self, job: int) -> int:
        path = self.dir / f"begun.{job}"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def go(self, job: int) -> None:
        (self.dir / f"go.{job}").touch()

    def supervisors(self) -> list[int]:
        """The processes that supervise batches here, and have not ended."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if b"batch.process import" in (path / "cmdline").read_bytes() and self._ours(path):
                    found.append(int(path.name))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
        return found

    def supervisor(self) -> int:
        """The one process that supervises a batch here; one more is there while it starts a run."""

        def alone() -> int:
            found = self.supervisors()
            return found[0] if len(found) == 1 else 0

        return until(alone, "one process supervises")

    def _ours(self, path: Path) -> bool:
        return f"XDG_STATE_HOME={self.dir}/state".encode() in (path / "environ").read_bytes().split(b"\0")


@pytest.fixture
def submits(combo: Combo, desk: ModuleType) -> Iterator[Submits]:
    made = Submits(combo)
    try:
        yield made
    finally:
        for process in made.supervisors():
            os.kill(process, signal.SIGKILL)  # of a test that has failed; with it go its runs
        until(lambda: not made.supervisors(), "no supervisor is left")


@pytest.mark.long(lambda combo, **_: combo != "user-alice")
@both
def test_as_many_run_as_there_are_slots_and_the_others_are_no_processes(submits: Submits) -> None:
    name = submits.submit("-n", str(MANY), "--name", "each", "sh", "-c", WAITS)
    until(lambda: len(submits.log(name, **{"is": "running"})) == 3, "three run")
    supervisor = submits.supervisor()
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    assert len(children) <= 3 + AT_ONCE  # those that look for a host: as many as if a thousand waited
    for job in range(MANY):
        submits.go(job)
    until(lambda: len(submits.log(name, **{"is": "done"})) == MANY, "all have ended")
    assert {row["job"]: row["status"] for row in submits.log(name, **{"is": "done"})} == {k: k for k in range(MANY)}
    assert all(submits.begun(job) == 1 for job in range(MANY))
    assert {row["host"] for row in submits.log(name, **{"is": "done"})} == {"alpha", "beta"}
    row = json.loads(submits("jobs", "--json"))[-1]
    assert (row["batch"], row["done"], row["waiting"], row["unsuccessful"]) == (name, MANY, 0, MANY - 1)


@long
@both
def test_a_job_for_each_line(submits: Submits) -> None:
    lines = ["one", "two words", "", "äöü"]
    (submits.dir / "lines").write_text("".join(f"{line}\n" for line in lines))
    name = submits.submit("--each", "lines", "-o", "out-{}", "printf", "%s", "<{}>")
    until(lambda: len(submits.log(name, **{"is": "done"})) == 4, "all have ended")
    assert [(submits.dir / f"out-{job}").read_text() for job in range(4)] == [f"<{line}>" for line in lines]
    assert (submits.dir / f"printf.{name}.0.err").read_bytes() == b""


@long
@both
def test_hold_release_and_kill(submits: Submits) -> None:
    name = submits.submit("-n", "2", "--on", "alpha", "sh", "-c", WAITS)
    until(lambda: submits.begun(0) and submits.begun(1), "both run")
    assert submits("hold", f"{name}.0") == f"{name}.0: held\n"
    until(lambda: submits.log(name, job=0, **{"is": "held"}), "it is held")
    assert submits("kill", f"{name}.1") == f"{name}.1: killed\n"
    until(lambda: submits.log(name, job=1, **{"is": "killed"}), "it is killed")
    submits.go(0)
    assert submits("release", name) == f"{name}: released\n"
    until(lambda: submits.log(name, job=0, **{"is": "done"}), "it has ended")
    assert (submits.begun(0), submits.begun(1)) == (2, 1)
    said = submits("kill", f"{name}.0", status=125)
    assert said == f"rexec: all jobs of batch {name} have ended\n"


@pytest.mark.long(lambda combo, **_: combo != "user-alice")
@both
def test_priorities_are_of_a_batch_of_one_of_its_jobs_and_of_what_stands_in_the_line(submits: Submits) -> None:
    first = submits.submit("-n", "2", "--on", "alpha", "sh", "-c", WAITS)
    until(lambda: submits.begun(0) and submits.begun(1), "its slots are taken")
    many = submits.submit("-n", str(AT_ONCE + 3), "--on", "alpha", "sh", "-c", "echo {} >>order")
    until(lambda: f"{AT_ONCE}th in line" in submits("jobs"), "as many as may stand in the line")
    last = submits.submit("--on", "alpha", "--priority", "2", "sh", "-c", "echo last >>order")
    until(lambda: f"{AT_ONCE + 1}th in line" in submits("jobs"), "it stands there too")
    assert submits("priority", f"{many}.{AT_ONCE + 1}", "1") == f"{many}.{AT_ONCE + 1}: has that priority\n"
    submits("priority", f"{many}.3", "4")
    submits("priority", last, "-1")
    (submits.dir / "go.0").touch()  # one slot, so that one runs at a time
    until(lambda: submits.log(last, **{"is": "done"}), "the last has ended")
    order = (submits.dir / "order").read_text().split()
    assert order[0] == "3" and order[-1] == "last" and len(order) == AT_ONCE + 4
    assert order.index(str(AT_ONCE + 1)) < order.index(str(AT_ONCE))
    assert [row["priority"] for row in submits.log(last) if "priority" in row and "ask" not in row] == [2, -1]
    assert "no job 99" in submits("priority", f"{many}.99", "1", status=125)
    submits.go(1)
    until(lambda: len(submits.log(first, **{"is": "done"})) == 2, "all have ended")


@long
@both
def test_the_slots_of_one_host_count_too(submits: Submits) -> None:
    name = submits.submit("-n", "3", "--on", "alpha", "sh", "-c", WAITS)
    until(lambda: len(submits.log(name, **{"is": "running"})) == 2, "two run")
    until(lambda: "waiting, 1st in line" in submits("jobs"), "the third waits")
    until(lambda: sum(map(submits.begun, range(3))) == 2, "both have begun, and no more")
    for job in range(3):
        submits.go(job)
    until(lambda: len(submits.log(name, **{"is": "done"})) == 3, "all have ended")


@long
@both
def test_a_supervisor_that_was_killed_is_started_again_and_runs_nothing_twice_that_has_ended(submits: Submits) -> None:
    name = submits.submit("-n", "3", "--on", "alpha", "sh", "-c", WAITS)
    until(lambda: any(map(submits.begun, range(3))), "one runs")
    first = next(job for job in range(3) if submits.begun(job))
    submits.go(first)
    until(lambda: submits.log(name, job=first, **{"is": "done"}), "it has ended")
    supervisor = submits.supervisor()
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: not submits.supervisors(), "the supervisor is gone")
    assert "stopped" in submits("jobs")
    for job in range(3):
        submits.go(job)
    assert submits("resume") == f"batch {name} goes on\n"
    until(lambda: len(submits.log(name, **{"is": "done"})) == 3, "all have ended")
    assert submits.begun(first) == 1


@pytest.mark.long(lambda combo, **_: combo != "user-alice")
@both
def test_runs_share_a_process_and_begin_again_where_that_dies(submits: Submits) -> None:
    name = submits.submit("-n", "2", "--lease", "10s", "sh", "-c", WAITS)
    until(lambda: len(submits.log(name, **{"is": "running"})) == 2, "both run")
    supervisor = submits.supervisor()
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children")
    (serves,) = children.read_text().split()
    until(lambda: submits.begun(0) and submits.begun(1), "both have begun")
    os.kill(int(serves), signal.SIGKILL)
    until(lambda: submits.begun(0) == submits.begun(1) == 2, "both have begun again")
    assert len(children.read_text().split()) == 2  # whatever it was, it was perhaps the fault of one of them
    for job in range(2):
        submits.go(job)
    until(lambda: len(submits.log(name, **{"is": "done"})) == 2, "both have ended")
    assert {row["job"]: row["status"] for row in submits.log(name, **{"is": "done"})} == {0: 0, 1: 1}


@pytest.mark.long(lambda combo, **_: combo != "user-alice")
@pytest.mark.parametrize(("killed", "seconds"), [("what serves", 54327), ("both", 54328), ("supervisor", 54329)])
@both
def test_no_job_runs_twice_where_its_own_processes_here_are_killed(
    submits: Submits, desk: ModuleType, killed: str, seconds: int
) -> None:
    """Its host waits 40 minutes for who was killed, unless it is told; what it runs is ended before it runs another."""

    def there() -> int:
        return sum(line == f"sleep {seconds}" for line in desk.processes("alpha").values())

    job = f"trap '' TERM; echo >>begun.{{}}; exec sleep {seconds}"
    name = submits.submit("--on", "alpha", "sh", "-c", job)  # a slot is free, in which it could run twice
    until(lambda: submits.begun(0) and there() == 1, "it has begun")
    supervisor = submits.supervisor()
    (serves,) = map(int, Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split())
    if killed != "supervisor":
        os.kill(serves, signal.SIGSTOP)  # it hears of nothing any more
    if killed != "what serves":
        os.kill(supervisor, signal.SIGKILL)
        until(lambda: not submits.supervisors(), "the supervisor is gone")
    if killed != "supervisor":
        os.kill(serves, signal.SIGKILL)
    if killed != "what serves":
        submits("resume")
    until(lambda: submits.begun(0) == 2 and there(), "it has begun again")
    assert there() == 1
    submits("kill", name)
    until(lambda: not there(), "nothing of it is left")
    notes = submits.dir / "state/rexec/batches" / name[1:]
    until(lambda: not list(notes.glob("*agent-*")), "nor a word of how it was to be ended")


@pytest.mark.long(lambda combo, **_: combo != "user-alice")
@both
def test_what_cannot_be_done_is_said(submits: Submits) -> None:
    assert submits("kill", "b9", status=125) == "rexec: there is no batch b9: see `rexec jobs`\n"
    said = submits("submit", "--engine", "condor", "true", status=125)
    assert said == (
        "rexec: there is no condor_submit here: rexec has to run on a machine that submits to an HTCondor pool\n"
    )
    assert submits("jobs") == "rexec: no jobs; `rexec --checkpoint CMD` starts one\n"
    assert submits("submit", "--print", "true", status=125) == "rexec: --print is for --engine condor and slurm\n"
    name = submits.submit("--on", "local", "sh", "-c", "exit 7")
    until(lambda: submits.log(name, **{"is": "done"}), "it has ended")
    assert submits("vacate", f"{name}.0", status=125) == f"rexec: all jobs of batch {name} have ended\n"
    assert "status 7" in submits("log", f"{name}.0")


@pytest.mark.long(lambda combo, **_: combo != "user-alice")
@both
def test_watched_until_all_have_ended_and_what_they_got_is_reported(submits: Submits) -> None:
    name = submits.submit("-n", "2", "sh", "-c", WAITS)
    until(lambda: len(submits.log(name, **{"is": "running"})) == 2, "both run")
    with submits.combo.rexec.start(
        ["watch", name], as_user=submits.combo.as_user, env=submits.env, cwd=submits.dir, stdout=subprocess.PIPE
    ) as watcher:
        assert watcher.stdout is not None
        assert b": 2 running" in watcher.stdout.readline()
        for job in range(2):
            submits.go(job)
        last = watcher.communicate(timeout=HANG)[0].decode().splitlines()[-1]
    assert last.endswith(": 1 done, 1 failed") and watcher.returncode == 0
    assert submits("report", name).splitlines()[0].endswith(": 1 done, 1 failed")
    heads, row = (line.split() for line in submits("jobs").splitlines()[:2])
    assert (row[heads.index("DONE")], row[heads.index("FAILED")]) == ("1", "1")
    told = json.loads(submits("report", "--json", name))["all"]
    assert (told["jobs"], told["taken"], told["told"], told["lost"]) == (2, 0, 2, 0)
    assert told["ran"] > 0 and told["cpu"] > 0 and told["bytes"] > 0
