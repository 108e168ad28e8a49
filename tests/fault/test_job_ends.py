"""A job that ends while an image of it is made, or just after: its own status is told, and it never runs again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.mover import Mover, Placement
from tests.mover_as_user import Make, Run, begun
from tests.owner_terminal import OWNER, terminal
from tests.until import until

PYTHON = "/usr/bin/python3"
ENDS = "echo begun; while [ ! -e struck ]; do sleep .01; done; echo ended; exit 7"
# While criu has the tree, from `criu` to `post-dump`, nobody in it can end.
DUMP = [("checkpoint", point) for point in ("preflight", "criu", "sending", "committed")]
DUMP += [("vacate", point) for point in ("preflight", "criu")]


def ended(mover: Mover, at: Placement) -> None:
    """It has ended by itself, perhaps after it has left; whatever else is heard of it comes before."""
    heard = at.wait("exit", "moved")
    at.wait("closed")
    at.close()
    if heard["what"] == "moved":
        at = mover.place("local", mover.image)
        at.go()
        ended(mover, at)
        return
    assert os.waitstatus_to_exitcode(int(heard["status"])) == 7
    assert mover.out == b"begun\nended\n"
    assert "dead" not in [what for what, _ in at.seen]


@pytest.mark.parametrize("before", [0, 1], ids=["first", "with an image"])
@pytest.mark.parametrize(("order", "point"), DUMP, ids=["-".join(case) for case in DUMP])
def test_while_an_image_is_made(run: Run, order: str, point: str, before: int) -> None:
    def body(make: Make, home: Path) -> None:
        mover = make("/bin/sh", "-c", ENDS, strike=f"{point}:job:{1 + before}")
        at = begun(mover)
        for serial in range(before):
            assert at.checkpoint(1 + serial)["what"] == "committed"
        at.order(order, 9)
        ended(mover, at)
        assert (home / "struck").exists()

    run(body)


def test_as_its_owner_comes_back(run: Run) -> None:
    """The machine's, to stop it."""

    def body(make: Make, home: Path) -> None:
        with terminal() as keyboard:
            mover = make("/bin/sh", "-c", ENDS, strike="freeze:job:1", owner=OWNER)
            at = begun(mover)
            # until it is watched
            until(lambda: os.write(keyboard, b"x\n") and (home / "struck").exists(), "it is not stopped")
            ended(mover, at)

    run(body)


def goes_on(mover: Mover, strike: str) -> Placement:
    """It has begun and left, and is told to go on elsewhere, where it is struck."""
    at = mover.place("local")
    until(lambda: mover.out == b"begun\n", "it has not begun")
    at.order("vacate", 1)
    at.wait("moved")
    at.wait("closed")
    at.close()
    mover.strike = strike
    at = mover.place("local", mover.image)
    at.go()
    return at


@pytest.mark.parametrize(("point", "who"), [("runs", "root"), ("restored", "job")])
def test_as_soon_as_it_goes_on(run: Run, point: str, who: str) -> None:
    def body(make: Make, home: Path) -> None:
        mover = make("/bin/sh", "-c", ENDS)
        at = goes_on(mover, f"{point}:{who}:1")
        ended(mover, at)

    run(body)


def test_killed_between_its_restore_and_its_going_on(run: Run) -> None:
    """Home knows it to run before init knows whom a signal is for."""

    def body(make: Make, home: Path) -> None:
        at = goes_on(make("/bin/sh", "-c", ENDS), "runs:signal:1")
        at.order("kill", 0)
        assert at.end() == 9

    run(body)


@pytest.mark.long(lambda order, **who: bool(who["uid"]) == (order == "checkpoint"))
@pytest.mark.parametrize("order", ["checkpoint", "vacate"])
def test_at_any_moment(run: Run, order: str) -> None:
    """The end of small jobs is swept over the whole of a dump, some 0.2 s, in steps of 10 ms."""

    def body(make: Make, home: Path) -> None:
        for step in range(25):
            mover = make("/bin/sh", "-c", f"echo begun; sleep {step / 100}; echo ended; exit 7")
            at = begun(mover)
            at.order(order, 1)
            ended(mover, at)

    run(body)


BIG = """
import os, time
data = os.urandom(400 << 20)
print("begun", flush=True)
while not os.path.exists("struck"):
    time.sleep(.01)
print("ended", flush=True)
os._exit(7)
"""


@pytest.mark.parametrize("before", [0, 1], ids=["first", "with an image"])
def test_a_big_one_in_the_middle_of_its_image(run: Run, before: int) -> None:
    """It goes on as soon as it is in the spool, and is sent from there for a while."""

    def body(make: Make, home: Path) -> None:
        mover = make(PYTHON, "-c", BIG)
        at = mover.place("local")
        until(lambda: mover.out == b"begun\n", "it has not begun")
        for serial in range(before):
            assert at.checkpoint(1 + serial)["what"] == "committed"
        at.order("checkpoint", 9)
        at.wait("dumped")
        (home / "struck").touch()
        ended(mover, at)

    run(body)
