"""Two minutes of moves and cuts leave nothing behind: soak.py in rounds, whose ends are alike."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tests.fault.soak import Soak
from tests.until import until

REXEC = str(Path(sys.executable).with_name("rexec"))
MINUTES = 2


@pytest.mark.long(lambda **_: True)
@pytest.mark.timeout(900)
def test_what_is_there_after_two_minutes_of_moves_and_cuts_was_there_after_the_first_round(tmp_path: Path) -> None:
    """One more of anything for each move, or each cut, is a leak. A process's memory is not given back evenly."""
    soak = Soak(tmp_path, REXEC, count=3, seed=1)
    try:
        soak.warm_up()
        soak.round()
        first, moves, began = soak.count(), soak.moves, time.monotonic()
        while time.monotonic() - began < MINUTES * 60:
            soak.round()
        more = (soak.moves - moves) // 2

        def grown() -> list[str]:
            now = soak.count()
            most = {what: first[what] + more for what in ("processes", "descriptors", "mounts")}
            most["files"] = first["files"] - first["packs"] + now["packs"] + more
            most["memory"] = first["memory"] * 5 // 4 + (32 << 20)
            return [f"{what}: {first[what]}, now {now[what]}" for what in most if now[what] > most[what]]

        until(lambda: not grown(), f"nothing has grown in {soak.moves - moves} moves; of what has, the last: {grown()}")
        assert soak.end() == []
    finally:
        soak.kill()
