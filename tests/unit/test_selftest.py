"""Preparing a host for checkpoints: several jobs at once, and a test that takes long."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import pytest

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


def test_what_a_failed_test_leaves_is_removed_by_a_later_one(tmp_path: Path) -> None:
    """Not what is in use, of another user, young, or no directory of ours."""
    for name in ("old", "young", "used", "others", "link"):
        (tmp_path / f"rexec-selftest-{name}").mkdir()
        (tmp_path / f"rexec-selftest-{name}" / "criu.log").touch()
    (tmp_path / "rexec-selftest-link").rename(tmp_path / "kept")
    (tmp_path / "rexec-selftest-link").symlink_to(tmp_path / "kept")
    (tmp_path / "rexec-selftest-file").touch()
    old = time.time() - selftest.KEPT_S - 60
    for path in tmp_path.iterdir():
        if path.name != "rexec-selftest-young":
            os.utime(path, (old, old), follow_symlinks=False)
    os.chown(tmp_path / "rexec-selftest-others", 1, 1)
    held = selftest._lock(str(tmp_path / "rexec-selftest-used"))
    selftest.sweep(str(tmp_path))
    assert {path.name.rpartition("-")[2] for path in tmp_path.iterdir()} == {
        "young", "used", "others", "link", "kept", "file",
    }  # fmt: skip
    assert list((tmp_path / "kept").iterdir())
    os.close(held)
    selftest.sweep(str(tmp_path))
    assert not (tmp_path / "rexec-selftest-used").exists()


def test_a_test_that_is_under_way_keeps_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the process that began it was killed, as long as its child lives; a failed one leaves its log."""
    monkeypatch.setattr(selftest.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(selftest, "KEPT_S", -1.0)

    def under_way(write: int, _: str, spool: str, apart: bool) -> None:
        selftest.sweep(str(tmp_path))
        os.write(write, b"kept" if os.path.isdir(spool) else b"gone")
        os._exit(0)

    with patch.object(selftest, "_guarded", under_way):
        assert selftest.run("/bundle", True) == "kept"
        assert len(list(tmp_path.iterdir())) == 1
        assert selftest.run("/bundle", True) == "kept"
    assert len(list(tmp_path.iterdir())) == 1, "the first one's is removed by the second"


def test_signs_of_life_while_the_test_takes_long(tmp_path: Path) -> None:
    times = [time.monotonic()]
    seen, goes_on = os.pipe()

    def slow(write: int, *_: object) -> None:
        os.close(goes_on)
        os.read(seen, 1)
        os.write(write, b"works")
        os._exit(0)

    def pulse() -> None:
        times.append(time.monotonic())
        if len(times) == 3:
            os.write(goes_on, b"x")

    with patch.object(selftest, "_guarded", slow):
        assert selftest.run("/bundle", True, pulse) == ""
    os.close(seen)
    os.close(goes_on)
    assert len(times) >= 3 and all(later - before > 0.9 for before, later in pairwise(times)), times
