"""An error that nobody has thought of, at any step of a dump: the job runs on as it was, and the step is named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.mover import Placement
from tests.mover_as_user import COUNT, Make, Run, begun, killed, more
from tests.until import until

pytestmark = [
    pytest.mark.where(lambda order="vacate", **params: params["uid"] != 0),
    pytest.mark.long(lambda order="vacate", point="held", **params: (order, point) not in SHORT),
]
STEPS = {
    "preflight": "looking for what cannot be saved", "room": "making room for the image",
    "criu": "saving its processes", "freeze": "bringing the job's streams and files to rest",
    "post-dump": "bringing the job's streams and files to rest", "sending": "sending the image",
}  # fmt: skip
CASES = [
    (order, point)
    for order in ("checkpoint", "vacate")
    for point in STEPS
    if (order, point) != ("checkpoint", "freeze")
]
SHORT = (("vacate", "post-dump"), ("vacate", "held"))


def refused(at: Placement, order: str, serial: int) -> dict[str, Any]:
    at.order(order, serial)
    return at.wait("refused")


@pytest.mark.parametrize(("order", "point"), CASES, ids=["-".join(case) for case in CASES])
def test_the_job_runs_on_and_can_be_saved_the_next_time(run: Run, order: str, point: str) -> None:
    def body(make: Make, home: Path) -> None:
        mover = make("/bin/sh", "-c", COUNT, strike=f"{point}:error:1")
        at = begun(mover)
        more(mover)
        heard = refused(at, order, 1)
        assert (home / "struck").exists()
        assert heard["why"].startswith(f"the checkpoint failed while {STEPS[point]}: KeyError('on purpose'), at "), (
            heard
        )
        assert heard["why"].endswith("; the job goes on")
        more(mover)
        assert at.checkpoint(2)["what"] == "committed"
        after = at.move("local")
        more(mover)
        killed(mover, after)

    run(body)


@pytest.mark.parametrize("point", ["held", "committed", "left"])
def test_once_it_is_committed_the_image_goes_on_and_nothing_else(run: Run, point: str) -> None:
    def body(make: Make, home: Path) -> None:
        mover = make("/bin/sh", "-c", COUNT, strike=f"{point}:error:1")
        at = begun(mover)
        more(mover)
        at.order("vacate", 1)
        at.wait("closed")
        at.close()
        assert (home / "struck").exists() and "refused" not in [what for what, _ in at.seen]
        after = mover.place("local", mover.image)
        after.go()
        more(mover)
        killed(mover, after)

    run(body)


ENDS = "echo begun; while [ ! -e struck ]; do sleep .01; done; echo ended; exit 7"


@pytest.mark.parametrize("point", ["preflight", "sending"])
def test_a_job_that_ends_just_then_has_its_own_status(run: Run, point: str) -> None:
    def body(make: Make, home: Path) -> None:
        mover = make("/bin/sh", "-c", ENDS, strike=f"{point}:error:1")
        at = begun(mover)
        until(lambda: mover.out, "it runs")
        at.order("checkpoint", 1)
        status = at.wait("exit")["status"]
        assert os.waitstatus_to_exitcode(int(status)) == 7 and mover.out == b"begun\nended\n"

    run(body)
