"""docs/parsl.md: the program of the page, whose workers are killed, moved and lost while it runs."""

from __future__ import annotations

import json
import re

import pytest

from tests.job_commands import USER, Mover, kill_agent, vacate
from tests.master import Master
from tests.reachable import Copy
from tests.until import HANG, until


@pytest.mark.longest
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
