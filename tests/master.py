"""The program of a page of the manual, the master of workers that are jobs."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from math import isqrt
from pathlib import Path

from tests.job_commands import Mover, give
from tests.program import as_login
from tests.reachable import Copy

DOCS = Path(__file__).resolve().parent.parent / "docs"


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
