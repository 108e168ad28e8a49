"""A lock of a job that moves is held against every program here, while it runs and while it is between two hosts."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.functional.test_moves import USER, Mover, _kill_ssh, kept, mover  # noqa: F401
from tests.functional.test_moving_real import vacate
from tests.until import until

# A child has the flock, taken by a parent that is gone; three record locks, the last two of which touch.
JOB = """
import fcntl, os, time
whole, part = open("whole", "w"), open("part", "r+")
fcntl.flock(whole, fcntl.LOCK_EX)
if os.fork():
    os._exit(0)
for start, length in ((10, 5), (100, 10), (110, 10)):
    fcntl.lockf(part, fcntl.LOCK_EX, length, start)
fcntl.lockf(part, fcntl.LOCK_UN, 2, 12)
fcntl.lockf(part, fcntl.LOCK_SH, 1, 500)
print("has them", flush=True)
while not os.path.exists("go"):
    time.sleep(.05)
fcntl.lockf(part, fcntl.LOCK_UN)
fcntl.flock(whole, fcntl.LOCK_UN)
print("gave them up", flush=True)
while not os.path.exists("end"):
    time.sleep(.05)
"""
SCRIPT = f"python3 -c '{JOB}'; while [ ! -e end ]; do sleep .05; done"  # the shell is there as long as the child
TAKEN = [10, 11, 14, 100, 119]  # of the bytes of `part`
FREE = [9, 12, 13, 15, 99, 120]


def free(path: Path, start: int, how: int = fcntl.LOCK_EX) -> bool:
    with path.open("r+") as file:
        try:
            fcntl.lockf(file, how | fcntl.LOCK_NB, 1, start)
        except OSError:
            return False
        return True


def as_it_should_be(part: Path) -> None:
    assert [start for start in (*TAKEN, *FREE) if free(part, start)] == FREE
    assert free(part, 500, fcntl.LOCK_SH) and not free(part, 500)


def moved(mover: Mover, job: str) -> None:  # noqa: F811
    vacate(mover, job)


def held(mover: Mover, job: str) -> None:  # noqa: F811
    mover.verb("hold", job)
    as_it_should_be(mover.dir / "part")
    mover.verb("release", job)


def lost(mover: Mover, job: str) -> None:  # noqa: F811
    mover.verb("checkpoint", job)
    _kill_ssh(mover)
    until(lambda: mover.job(job)["generation"] == 2, "another generation", within=30)
    mover.running(job)


WAYS: dict[str, Callable[[Mover, str], None]] = {"moved": moved, "held": held, "lost": lost}


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.where(lambda **params: params["mover"] == "user" or params["how"] == "moved")
def test_nobody_else_gets_it(mover: Mover, how: str) -> None:  # noqa: F811
    for name in ("whole", "part"):
        (mover.dir / name).write_bytes(bytes(1000))
        os.chmod(mover.dir / name, 0o666)
    part = mover.dir / "part"
    job = mover.submit("sh", "-c", SCRIPT)
    until(lambda: mover.path(job, "stdout").read_text() == "has them\n", "it has them", within=30)
    as_it_should_be(part)
    with subprocess.Popen(["flock", mover.dir / "whole", "echo", "got it"], stdout=subprocess.PIPE) as waiter:
        WAYS[how](mover, job)
        WAYS["moved"](mover, job)
        as_it_should_be(part)
        assert waiter.poll() is None, "somebody else got the lock in between"
        (mover.dir / "go").touch()
        assert waiter.communicate(timeout=20)[0] == b"got it\n"
    assert "gave them up" in mover.path(job, "stdout").read_text()
    assert all(free(part, start) for start in (*TAKEN, *FREE, 500))
    (mover.dir / "end").touch()
    assert mover.ended(job) == "done"


@USER
def test_a_lock_that_another_has_by_now(mover: Mover) -> None:  # noqa: F811
    """Nobody waits for it: the restart is refused, and says why."""
    for name in ("whole", "part"):
        (mover.dir / name).write_bytes(bytes(1000))
        os.chmod(mover.dir / name, 0o666)
    job = mover.submit("sh", "-c", SCRIPT)
    until(lambda: mover.path(job, "stdout").read_text() == "has them\n", "it has them", within=30)
    mover.verb("checkpoint", job)
    mover.verb("kill", job)
    mover.ended(job)
    with (mover.dir / "whole").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        mover.verb("restart", job)
        until(lambda: "file lock" in str(mover.job(job)["why"]), "it says why", within=30)
    said = "the restart failed: a file lock that the job held is held by another program now"
    assert said in str(mover.job(job)["why"])
    mover.verb("release", job)
    mover.running(job)
    assert not free(mover.dir / "part", 10)
    for name in ("go", "end"):
        (mover.dir / name).touch()
    assert mover.ended(job) == "done"
