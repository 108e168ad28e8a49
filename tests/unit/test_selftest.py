"""Preparing a host for checkpoints: several jobs at once, and a test that takes long."""

from __future__ import annotations

import os
import time
from pathlib import Path
from unittest.mock import patch

from checkpoint.execute import selftest
from checkpoint.wire import criu_bundle


def test_two_that_test_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    """The other one, a process of its own, begins and ends where the first is about to put its result in place."""
    replace, left = os.replace, [1]

    def meanwhile(old: str, new: str) -> None:
        if left:
            left.pop()
            assert selftest.cached("/bundle", str(tmp_path), True, lambda: None) == ""
        replace(old, new)

    with patch.object(selftest, "run", return_value=""), patch.object(os, "replace", meanwhile):
        assert selftest.cached("/bundle", str(tmp_path), True, lambda: None) == ""
    assert os.listdir(tmp_path) == ["criu-selftest-apart"]
    with patch.object(selftest, "run", side_effect=AssertionError):
        assert selftest.cached("/bundle", str(tmp_path), True, lambda: None) == ""


def test_a_record_that_cannot_be_put_in_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    try:
        criu_bundle.record(str(tmp_path / "taken"), "text")
    except OSError:
        assert os.listdir(tmp_path) == ["taken"]
    else:
        raise AssertionError("a directory was replaced")


def test_signs_of_life_while_the_test_takes_long(tmp_path: Path) -> None:
    pulses = []

    def slow(write: int, *_: object) -> None:
        while os.getppid() == parent and time.monotonic() < began + 2.5:
            time.sleep(0.05)
        os.write(write, b"works")
        os._exit(0)

    parent, began = os.getpid(), time.monotonic()
    with patch.object(selftest, "_guarded", slow):
        assert selftest.run("/bundle", True, lambda: pulses.append(time.monotonic())) == ""
    assert len(pulses) == 2
