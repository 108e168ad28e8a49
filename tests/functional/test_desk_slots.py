"""Runs and jobs at once on the hosts of hosts.toml: none has more than its slots, and who was killed holds none."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest

from tests.job_commands import COUNT, LONG, USER, Mover, give
from tests.program import Combo
from tests.until import HANG, until

one = pytest.mark.parametrize("combo", ["user-alice"], indirect=True)
HOSTS = """
[host.alpha]
ssh = "alice@alpha"
owner = "none"
slots = 2
[host.beta]
ssh = "alice@beta"
owner = "none"
slots = 1
tags = {tier = 2}
"""
_JOB = """
import sys
with open("log", "a") as log:
    log.write(f"+{sys.argv[1]}\\n")
sys.stdin.read()
with open("log", "a") as log:
    log.write(f"-{sys.argv[1]}\\n")
"""


class Desk:
    """Runs with --on any, each of which ends when it is told, and where each was."""

    def __init__(self, combo: Combo) -> None:
        self.combo, self.runs = combo, list[subprocess.Popen[bytes]]()
        self.env = {"XDG_CONFIG_HOME": str(combo.dir / "config"), "XDG_STATE_HOME": str(combo.dir / "state")}
        self.log = combo.dir / "log"
        self.log.touch()
        (combo.dir / "config" / "rexec").mkdir(parents=True)
        (combo.dir / "config" / "rexec" / "hosts.toml").write_text(HOSTS)
        subprocess.run(["chown", "-R", combo.as_user, combo.dir], check=True)

    def start(self, stack: ExitStack, *options: str) -> None:
        number = len(self.runs)
        told = ["--on", "any", "--lease", "1s", "--json-log", str(self.combo.dir / f"json{number}"), *options]
        run = self.combo.rexec.start(
            [*told, "--", "python3", "-c", _JOB, str(number)], as_user=self.combo.as_user, env=self.env,
            cwd=self.combo.dir, stdin=subprocess.PIPE,
        )  # fmt: skip
        self.runs.append(stack.enter_context(run))

    def running(self) -> set[int]:
        lines = self.log.read_text().split()
        return {int(line[1:]) for line in lines if line[0] == "+"} - {int(line[1:]) for line in lines if line[0] == "-"}

    def jobs(self) -> list[dict[str, object]]:
        with self.combo.rexec.start(["jobs", "--json"], as_user=self.combo.as_user, env=self.env) as process:
            rows: list[dict[str, object]] = json.loads(process.communicate(timeout=HANG)[0])
            return rows

    def host(self, number: int) -> str:
        events = map(json.loads, (self.combo.dir / f"json{number}").read_text().splitlines())
        return next(str(each["host"]) for each in events if each["event"] == "reached")

    def end(self, number: int) -> None:
        _, said = self.runs[number].communicate(timeout=HANG)
        assert self.runs[number].returncode == 0, said


@one
def test_many_runs_at_once(combo: Combo, desk: ModuleType) -> None:
    with ExitStack() as stack:
        runs = Desk(combo)
        for _ in range(6):
            runs.start(stack)
        until(lambda: len(runs.running()) == 3, "three run")
        until(lambda: len(runs.jobs()) == 6, "all have joined")
        states = [str(row["state"]) for row in runs.jobs()]
        assert states == ["running"] * 3 + [f"waiting, {place} in line" for place in ("1st", "2nd", "3rd")]
        first = runs.running()
        assert Counter(map(runs.host, first)) == {"alpha": 2, "beta": 1}

        last = str(runs.jobs()[-1]["run"])
        with combo.rexec.start(["priority", last, "1"], as_user=combo.as_user, env=runs.env) as changed:
            assert changed.wait(HANG) == 0
        assert str(runs.jobs()[3]["run"]) == last

        killed = first.pop()
        runs.runs[killed].kill()
        until(lambda: len(runs.running()) == 4, "another has its slot")
        for number in first:
            runs.end(number)
        until(lambda: len(runs.running()) == 4, "the last two run")  # with the one that could not say its end
        for number in runs.running() - {killed}:
            runs.end(number)
        assert runs.jobs() == []


@one
def test_a_run_goes_where_its_requirement_holds_and_rather_where_its_rank_is_larger(
    combo: Combo, desk: ModuleType
) -> None:
    with ExitStack() as stack:
        runs = Desk(combo)
        for options in (["--rank", "tier"], ["--rank", "tier"], ["--require", "tier =?= undefined"]):
            runs.start(stack, *options)
            until(lambda: len(runs.running()) == len(runs.runs), "it runs")
        assert [runs.host(number) for number in range(3)] == ["beta", "alpha", "alpha"]
        runs.start(stack, "--require", "Slots == 1 && TARGET.tier == 2")
        until(lambda: [row["state"] for row in runs.jobs()] == ["running"] * 3 + ["waiting, 1st in line"], "it waits")
        runs.end(1)
        runs.end(2)
        runs.start(stack)
        until(lambda: 4 in runs.running(), "who wants alpha passes by")
        runs.end(0)
        until(lambda: 3 in runs.running(), "it runs")
        assert [runs.host(number) for number in (3, 4)] == ["beta", "alpha"]
        runs.end(3)
        runs.end(4)
        runs.start(stack, "--require", "Tear == 2")
        _, said = runs.runs[5].communicate(timeout=HANG)
        assert said == b"rexec: Tear: an attribute of no host; `rexec hosts --ad HOST` shows what there is\n"

        def said_of_hosts(*words: str) -> str:
            with combo.rexec.start(["hosts", *words], as_user=combo.as_user, env=runs.env) as process:
                return process.communicate(timeout=HANG)[0].decode()

        assert '\nArch = "X86_64"\n' in said_of_hosts("--ad", "beta") and "tier = 2\n" in said_of_hosts("--ad", "beta")
        assert said_of_hosts("--require", "Slots >= 2 && Memory > 100").splitlines()[:2] == [
            "alpha  all holds", "beta   Slots >= 2 does not hold (Slots = 1)",
        ]  # fmt: skip


@one
def test_what_a_run_can_never_have_is_said(combo: Combo, desk: ModuleType) -> None:
    with ExitStack() as stack:
        runs = Desk(combo)
        runs.start(stack, "--cpus", "3")
        _, said = runs.runs[0].communicate(timeout=HANG)
        assert (runs.runs[0].returncode, said) == (
            125,
            b"rexec: no host has 3 slots (alpha has 2): ask for fewer with --cpus, or give it more with slots = N in "
            b"hosts.toml\n",
        )
        assert Path(runs.log).read_text() == ""
    said = combo.run(["true"], options=["--cpus", "2"])
    assert (said.returncode, said.stderr) == (
        125,
        b"rexec: --cpus, --memory, --priority, --require and --rank are for slots: say --on any, or name several "
        b"hosts\n",
    )  # fmt: skip


@USER
@LONG
def test_jobs_that_move_take_slots_too(mover: Mover) -> None:
    (mover.dir / "config" / "rexec").mkdir(parents=True)
    (mover.dir / "config" / "rexec" / "hosts.toml").write_text(
        "".join(f'[host.{name}]\nssh = "{name}"\nowner = "none"\nslots = 1\n' for name in mover.hosts)
    )
    give(mover, mover.dir)

    def start(*options: str) -> str:
        return mover.verb("--checkpoint", "--detach", "--on", "any", *options, "--", "sh", "-c", COUNT).strip()

    def runs() -> list[tuple[int, str]]:
        rows = [row for row in json.loads(mover.verb("jobs", "--json")) if "run" in row]
        return [(row["job"] or 0, row["state"]) for row in rows]

    first, second = start(), start()
    for job in (first, second):
        mover.running(job)
    assert {mover.job(job)["host"] for job in (first, second)} == set(mover.hosts)
    third = start("--cpus", "1")
    until(lambda: mover.job(third)["state"] == "parked", "it waits")
    with mover.rexec.start(["--on", "any", "--", "true"], as_user=mover.user, env=mover.env, cwd=mover.dir) as plain:
        until(lambda: len(runs()) == 4, "all have joined")
        assert runs()[2:] == [(int(third), "waiting, 1st in line"), (0, "waiting, 2nd in line")]
        assert f"job {third}: sh -c" in mover.verb("jobs")
        assert mover.verb("hold", second).startswith(f"job {second}: the job is parked: it is held")
        mover.running(third)
        assert (int(second), "running") not in runs()
        (mover.dir / "end").touch()
        assert plain.wait(HANG) == 0
    assert mover.ended(third) == "exit 3"
    mover.verb("release", second)
    assert mover.ended(second) == "exit 3"
    assert runs() == []
    assert mover.verb_fails("--checkpoint", "--on", mover.hosts[0], "--cpus", "2", "--", "true")[2] == (
        "rexec: --cpus, --memory, --priority, --require and --rank are for slots: say --on any, or name several hosts\n"
    )
