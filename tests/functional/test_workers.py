"""docs/dask.md: the program of the page, whose workers are killed, moved and lost while it runs."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from math import isqrt
from pathlib import Path

import pytest

from tests.job_commands import USER, Mover, again, give, vacate
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
        hosts = ", ".join(f'"{name}"' for name in mover.hosts)
        (mover.dir / "circles.py").write_text(text.replace('"alpha", "beta"', hosts))
        give(mover, mover.dir / "docs", mover.dir / "circles.py")
        self.process = as_login(
            mover.user, [copy.python, "circles.py"], cwd=mover.dir, env=mover.env, stdin=subprocess.PIPE
        )

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
