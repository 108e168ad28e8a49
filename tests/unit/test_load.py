"""The load that others cause, without our own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shim.execute.owner.load import (
    OthersLoad,
    Sample,
    on_battery,
    others_load,
    parse_busy,
    parse_own,
    sample,
    surroundings,
    tree,
)


def test_load_is_what_is_left_without_ours() -> None:
    assert others_load(Sample(0, 100, 10), Sample(10, 115, 20)) == 0.5
    assert others_load(Sample(0, 100, 10), Sample(10, 115, 5)) == 1.5
    assert others_load(Sample(0, 100, 10), Sample(10, 105, 20)) == 0.0
    assert others_load(Sample(5, 100, 10), Sample(5, 100, 10)) is None


def test_load_is_smoothed_over_a_minute() -> None:
    load = OthersLoad()
    assert load.add(Sample(0, 0, 0)) is None
    assert load.add(Sample(5, 0, 0)) == 0.0
    assert load.add(Sample(10, 5, 0)) == pytest.approx(0.08, abs=0.001)
    for second in range(15, 400, 5):
        load.add(Sample(second, second - 5, 0))
    assert load.value == pytest.approx(1.0, abs=0.01)


def test_proc_formats() -> None:
    assert parse_busy("cpu  100 20 30 4000 500 6 7 8 90 10\ncpu0 1 2\n", 100) == 1.71
    stat = "42 (a) b (c) S " + " ".join(str(number) for number in range(4, 53))
    assert parse_own(stat, 100) == (14 + 15 + 16 + 17) / 100


def test_our_own_work_is_not_load() -> None:
    burn = "import time\nend = time.process_time() + 1.0\nwhile time.process_time() < end: pass\nprint(flush=True)\n"
    before = sample([os.getpid()])
    child = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"],
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.read()
    child.communicate()
    after = sample([os.getpid()])
    # Child and grandchild have ended: their time is kept by whoever reaped them.
    assert after.own - before.own >= 0.95
    assert after.busy - before.busy >= after.own - before.own - 0.2


def test_tree_holds_grandchildren_and_survives_endings() -> None:
    with subprocess.Popen(
        ["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as shell:
        assert shell.stdout is not None
        sleeper = int(shell.stdout.readline())
        assert {os.getpid(), shell.pid, sleeper} <= tree([os.getpid()])
        os.killpg(shell.pid, 9)
    assert tree([shell.pid]) == set()


def supply(base: Path, name: str, **values: str) -> None:
    directory = base / "class/power_supply" / name
    directory.mkdir(parents=True)
    for key, value in values.items():
        (directory / key).write_text(value + "\n")


def test_battery(tmp_path: Path) -> None:
    assert not on_battery(str(tmp_path))
    supply(tmp_path, "hid-mouse", type="Battery", scope="Device", status="Discharging")
    assert not on_battery(str(tmp_path))
    supply(tmp_path, "BAT0", type="Battery", status="Discharging")
    supply(tmp_path, "AC", type="Mains", online="0")
    assert on_battery(str(tmp_path))
    (tmp_path / "class/power_supply/AC/online").write_text("1\n")
    assert not on_battery(str(tmp_path))


def test_this_machine() -> None:
    around = surroundings(0.5)
    clock = time.localtime()
    assert around.load == 0.5
    assert around.minute in (clock.tm_hour * 60 + clock.tm_min, clock.tm_hour * 60 + clock.tm_min - 1)
    assert around.free_memory > 1 << 20
