"""Runs a test's body as root or as an ordinary user, with a Mover for jobs on `local`: the fixtures `run` and `uid`."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checkpoint.submit import obtain_criu
from tests.desk_hosts import SUBMIT_UID
from tests.mover import Mover, Placement
from tests.reachable import AsUser
from tests.until import until

PYTHON = "/usr/bin/python3"
COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep .01; done"
Make = Callable[..., Mover]
Run = Callable[[Callable[[Make, Path], None]], None]


@pytest.fixture(scope="session")
def caches() -> Iterator[Path]:
    """Where the runtime and criu are kept on `local`, a directory for each user."""
    at = Path(tempfile.mkdtemp(prefix="moving-cache-", dir="/var/tmp"))
    at.chmod(0o755)
    for uid in (0, SUBMIT_UID):
        (at / str(uid)).mkdir()
        os.chown(at / str(uid), uid, uid)
    yield at
    shutil.rmtree(at)


@pytest.fixture(params=[0, SUBMIT_UID], ids=["root", "user"])
def uid(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def run(uid: int, as_user: AsUser, kept: obtain_criu.Bundle, caches: Path) -> Iterator[Run]:
    """run(body): body(make, directory) in a process of that user; `make` is Mover with what all of them share."""
    home = Path(tempfile.mkdtemp(prefix="moving-", dir="/var/tmp"))
    os.chown(home, uid, uid)

    def started(body: Callable[[Make, Path], None]) -> None:
        def inside() -> None:
            os.environ["XDG_CACHE_HOME"] = str(caches / str(uid))

            def make(*argv: str, **more: object) -> Mover:
                return Mover(list(argv), home, home / "store", kept=kept, **more)  # type: ignore[arg-type]

            body(make, home)

        as_user(uid, inside)

    yield started
    shutil.rmtree(home)


def begun(mover: Mover) -> Placement:
    """The job runs, here."""
    at = mover.place("local")
    at.wait("started")
    return at


def killed(mover: Mover, at: Placement) -> None:
    """End the job, which has counted; each number has come once."""
    at.order("kill", 0)
    assert at.end() == 9
    counted(mover)


def more(mover: Mover, n: int = 20) -> None:
    """The job says more."""
    size = len(mover.out)
    until(lambda: len(mover.out) >= size + n, f"the job says no more after {bytes(mover.out[-80:])!r}")


def counted(mover: Mover) -> None:
    numbers = [int(word) for word in mover.out.split()]
    assert numbers == list(range(1, len(numbers) + 1))
