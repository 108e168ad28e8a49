"""Mutter's idle monitor asked through a real dbus-daemon; the monitor is a stand-in of ours."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from shim.execute.owner import desktop
from shim.execute.owner.desktop import MutterSource
from tests.stand_in_bus import DAEMON, StandIn, idle, wait_for
from tests.until import soon, until

pytestmark = DAEMON


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """How soon a bus must answer is not what these tests show."""
    monkeypatch.setattr(desktop, "PATIENCE", 10.0)


class Mutter(StandIn):
    """An idle monitor: input() is the owner's hand."""

    def __init__(self, path: Path) -> None:
        self.last = time.monotonic() - 50
        self.watches: list[int] = []
        super().__init__(path, "org.gnome.Mutter.IdleMonitor", self._reply)

    def _reply(self, path: str, member: str, body: Any) -> tuple[str, Any] | None:
        if member == "GetIdletime":
            return "t", (int((time.monotonic() - self.last) * 1000),)
        if member == "AddUserActiveWatch":
            self.watches.append(len(self.watches) + 1)
            return "u", (self.watches[-1],)
        return None

    def input(self) -> None:
        self.last = time.monotonic()
        if self.watches:
            watch = self.watches.pop()
            name = "org.gnome.Mutter.IdleMonitor"
            self.emit("/org/gnome/Mutter/IdleMonitor/Core", name, "WatchFired", "u", (watch,))


def session(bus: Path, directory: Path) -> int:
    """Give this user's session that bus; the user."""
    ours = os.geteuid()
    (directory / f"run/{ours}").mkdir(parents=True)
    (directory / f"run/{ours}/bus").symlink_to(bus)
    return ours


def test_mutter_tells_of_every_touch(bus: Path, tmp_path: Path) -> None:
    ours = session(bus, tmp_path)
    desktop = Mutter(bus)
    try:
        source = MutterSource(time.monotonic(), str(tmp_path / "run"))
        assert source.absent() is None
        assert source.users() == {ours}
        assert idle(source) == pytest.approx(50, abs=1)
        assert wait_for(source, 0.6)[0] is None

        def rests() -> bool:
            assert wait_for(source, 0.6)[0] is None
            return bool(desktop.watches)

        def once() -> float:
            at = time.monotonic()
            desktop.input()
            touched, noticed = wait_for(source, 10.0)
            assert touched == f"desktop of user {ours}"
            # The watch is set again after a moment; a hand that rests meanwhile is not reported twice.
            until(rests, "the watch is set again")
            return noticed - at

        soon(once, 0.1)
        soon(once, 0.1)
        source.close()
    finally:
        desktop.stop()


def test_a_hand_that_rests_has_not_moved_because_the_answer_was_read_late(bus: Path, tmp_path: Path) -> None:
    class Late(Mutter):
        def _reply(self, path: str, member: str, body: Any) -> tuple[str, Any] | None:
            answer = super()._reply(path, member, body)
            if member == "GetIdletime" and time.monotonic() - self.last < 10:
                time.sleep(0.15)  # the delay itself: longer than what tells two touches apart
            return answer

    ours = session(bus, tmp_path)
    desktop = Late(bus)
    try:
        source = MutterSource(time.monotonic(), str(tmp_path / "run"))
        desktop.input()
        assert wait_for(source, 10.0)[0] == f"desktop of user {ours}"
        assert wait_for(source, 0.6)[0] is None
        source.close()
    finally:
        desktop.stop()


def test_a_bus_without_mutter_and_no_bus(bus: Path, tmp_path: Path) -> None:
    path = tmp_path / f"run/{os.geteuid()}/bus"
    path.parent.mkdir(parents=True)
    nothing = MutterSource(time.monotonic(), str(tmp_path / "run"))
    assert nothing.absent() == f"no session bus at {path}"
    path.symlink_to(bus)
    without = MutterSource(time.monotonic(), str(tmp_path / "run"))
    assert "refused AddUserActiveWatch" in str(without.absent())
