"""docs/dask.md: the program of the page, whose workers are killed, moved and lost while it runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.job_commands import USER, Mover, again, vacate
from tests.master import Master
from tests.reachable import Copy
from tests.until import HANG, until


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
