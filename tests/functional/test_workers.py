"""docs/dask.md and docs/parsl.md: the program of the page, whose workers are killed, moved and lost while it runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from math import isqrt
from pathlib import Path

import pytest

from tests.job_commands import USER, Mover, again, give, kill_agent, vacate
from tests.program import as_login
from tests.reachable import Copy
from tests.until import HANG, until

DOCS = Path(__file__).resolve().parents[2] / "docs"


def points(radius: int) -> int:
    return sum(isqrt(radius * radius - x * x - 1) + 1 for x in range(radius))


class Master:
    """The program of a page, that counts for each radius the points within."""

    def __init__(self, mover: Mover, page: str, copy: Copy) -> None:
        (text,) = re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.M | re.S)
        shutil.copytree(DOCS / "workers", mover.dir / "docs/workers")
        for name, given in zip(("alpha", "beta"), mover.hosts, strict=True):
            text = re.sub(rf"\b{name}\b", given, text)
        (mover.dir / "circles.py").write_text(text)
        give(mover, mover.dir / "docs", mover.dir / "circles.py")
        env = mover.env | {"PATH": f"{copy.rexec.parent}:/usr/bin:/bin"}
        self.process = as_login(mover.user, [copy.python, "circles.py"], cwd=mover.dir, env=env, stdin=subprocess.PIPE)

    def counts(self, radius: int, amid: Callable[[], object]) -> None:
        """Have it count, do something after the first part, and see that its sum is right."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(b"%d\n" % radius)
        self.process.stdin.flush()
        assert re.fullmatch(rb"1 of \d+\n", self.process.stdout.readline())
        amid()
        last = next((line for line in self.process.stdout if line.startswith(b"radius")), b"")
        assert last == b"radius %d: %d points\n" % (radius, points(radius))


@pytest.mark.long(lambda **_: True)
@pytest.mark.timeout(400)  # what it does is little, and starts many Pythons
@USER
def test_dask_computes_the_same_whatever_becomes_of_its_workers(mover: Mover, reached: Copy) -> None:
    reached.bring("distributed")

    def joins(job: str, amid: Callable[[], object]) -> None:
        """It is a worker, and after `amid` again."""

        def seen() -> int:
            return mover.path(job, "stderr").read_text().count("Registered to")

        before = until(seen, f"job {job} is a worker")
        amid()
        until(lambda: seen() > before, f"job {job} is a worker again")

    def lost(job: str) -> None:
        mover.verb("checkpoint", job)
        again(mover, job)

    master = Master(mover, "dask.md", reached)
    with master.process as process:
        master.counts(8_000, lambda: mover.verb("kill", "3"))
        master.counts(8_100, lambda: joins("1", lambda: vacate(mover, "1")))
        master.counts(8_200, lambda: joins("2", lambda: lost("2")))
        out, err = process.communicate(timeout=HANG)
    assert (process.returncode, out) == (0, b""), err.decode()


@pytest.mark.long(lambda **_: True)
@pytest.mark.timeout(400)
@USER
def test_parsl_computes_the_same_whatever_becomes_of_its_workers(mover: Mover, reached: Copy) -> None:
    reached.bring("parsl")

    def workers() -> dict[str, list[str]]:
        """The jobs that run, and the number that Parsl has given to each."""
        rows = (row for row in json.loads(mover.verb("jobs", "--json")) if row["state"] == "running")
        return {str(row["id"]): re.findall(r"--block_id=(\d+)", str(row["command"])) for row in rows}

    def joined(block: str) -> int:
        """How often it has become a worker."""
        return sum("Successfully connected" in each.read_text() for each in runs.glob(f"block-{block}/*/manager.log"))

    def unlucky() -> None:
        """One is killed, one is told to leave, and one is lost with its host; they are workers again."""
        before = {block: joined(block) for block in (second, third)}
        mover.verb("kill", killed)
        mover.verb("checkpoint", dies)
        kill_agent(mover, dies)
        vacate(mover, left)
        for block in before:
            until(lambda block=block: joined(block) > before[block], f"block {block} is a worker again")

    runs = mover.dir / "runinfo/000/rexec"
    master = Master(mover, "parsl.md", reached)
    with master.process as process:
        jobs = until(lambda: found if len(found := workers()) == 3 else {}, "there are three jobs")
        for block in "012":
            until(lambda block=block: joined(block), f"block {block} is a worker")
        (killed, _), (left, (second,)), (dies, (third,)) = sorted(jobs.items(), key=lambda each: int(each[0]))
        master.counts(8_000, unlucky)
        out, err = process.communicate(timeout=HANG)
    assert (process.returncode, out) == (0, b""), err.decode()
