"""The owner of the execute host comes back: a key on one of its terminals, and what the job does then."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.mover import Placement
from tests.mover_as_user import COUNT, Make, Run, begun, killed, more
from tests.owner_terminal import OWNER, terminal
from tests.until import soon


def test_a_key_freezes_and_no_more_keys_let_it_go_on_in_place(run: Run) -> None:
    def body(make: Make, home: Path) -> None:
        with terminal() as keyboard:
            mover = make("/bin/sh", "-c", COUNT, owner=OWNER)
            at = begun(mover)
            more(mover)

            def once() -> float:
                """How near to its bounds it came: 1 is beyond one of them."""
                os.write(keyboard, b"x\n")
                typed = time.monotonic()
                news = at.wait("frozen")
                froze = time.monotonic() - typed
                assert news["source"].startswith("terminals: /dev/")
                time.sleep(0.1)  # what was under way over the link
                size = len(mover.out)
                at.wait("thawed")
                thawed, said = time.monotonic() - typed, len(mover.out) - size
                assert thawed > 1.9
                more(mover)
                return max(froze / 0.5, thawed / 4, said / 40)

            for _ in range(2):
                soon(once, 1.0)
            killed(mover, at)

    run(body)


def driven_out(at: Placement, keyboard: int) -> None:
    """Type until it leaves: after a pause of 2 s, as of a machine that stands still, it would have gone on."""
    os.write(keyboard, b"x\n")
    while at.wait("frozen", "leaving")["what"] != "leaving":
        time.sleep(0.8)  # another touch, not the same
        os.write(keyboard, b"x\n")


def test_further_keys_make_it_leave(run: Run) -> None:
    def body(make: Make, home: Path) -> None:
        with terminal() as keyboard:
            mover = make("/bin/sh", "-c", COUNT + " | cat", owner=OWNER)
            at = begun(mover)
            more(mover)
            driven_out(at, keyboard)
            at.wait("moved")
            at.wait("closed")
            at.close()
            mover.owner = '["none", null]'
            at = mover.place("local", mover.image)
            at.go()
            at.wait("started")
            more(mover, 100)
            killed(mover, at)

    run(body)


def test_a_job_that_cannot_leave_goes_on_until_the_next_key(run: Run) -> None:
    def body(make: Make, home: Path) -> None:
        with terminal() as keyboard:
            mover = make("/bin/sh", "-c", COUNT, owner=OWNER)
            at = begun(mover)
            at.full = True
            more(mover)
            driven_out(at, keyboard)
            assert at.wait("refused")["why"] == "the store is full"
            at.wait("thawed")
            more(mover)
            os.write(keyboard, b"x\n")
            at.wait("frozen")
            at.wait("thawed")
            more(mover)
            killed(mover, at)

    run(body)
