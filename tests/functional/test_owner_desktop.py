"""logind asked through a real dbus-daemon; the logind behind the bus is a stand-in of ours."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from shim.execute.owner import desktop
from shim.execute.owner.desktop import REFRESH, LogindSource, bus_path, person_session
from shim.execute.owner.source import RESCAN
from shim.submit.job.logout import killed_at_logout
from tests.stand_in_bus import DAEMON, LOGIN1, Logind, idle, session, wait_for
from tests.until import soon, until

pytestmark = DAEMON


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """How soon a bus must answer is not what these tests show."""
    monkeypatch.setattr(desktop, "PATIENCE", 10.0)
    monkeypatch.setattr(desktop, "PATIENCE_AT_FIRST", 10.0)


def test_only_a_persons_session_counts(bus: Path, logind: Logind) -> None:
    source = LogindSource(time.monotonic(), str(bus))
    try:
        assert source.absent() is None
        assert idle(source) == pytest.approx(100, abs=2)
        assert wait_for(source, 0.2)[0] is None
    finally:
        source.close()


def test_the_hint_turning_false_is_input_at_once_and_goes_on_while_it_lasts(bus: Path, logind: Logind) -> None:
    source = LogindSource(time.monotonic(), str(bus))
    try:

        def once() -> float:
            logind.change("2", IdleHint=True, IdleSinceHintMonotonic=int((time.monotonic() - 100) * 1e6))
            until(lambda: wait_for(source, 0.05)[0] is None and source._sessions["2"].idle_since, "that is known")
            changed = time.monotonic()
            logind.change("2", IdleHint=False)
            touched, noticed = wait_for(source, 10.0)
            assert touched == "session 2"
            return noticed - changed

        soon(once, 0.1)
        soon(lambda: idle(source), 0.1)
        # Nothing finer sees this seat: "active" is all that tells that the owner is still there.
        assert wait_for(source, 10.0)[0] == "session 2 (active)"
        source.renew = False
        assert wait_for(source, 1.5)[0] is None
        source.renew = True
        since = time.monotonic()
        logind.change("2", IdleHint=True, IdleSinceHintMonotonic=int(since * 1e6))
        assert wait_for(source, 1.5)[0] is None
        assert idle(source) <= time.monotonic() - since + 0.001
    finally:
        source.close()


def test_a_session_that_a_finer_source_sees_is_left_to_it(bus: Path, logind: Logind) -> None:
    source = LogindSource(time.monotonic(), str(bus))
    try:
        source.covered_users = {1000}
        logind.change("2", IdleHint=False)
        assert wait_for(source, 0.5)[0] is None
        assert source.last_input(time.monotonic()) is None
    finally:
        source.close()


def test_a_login_is_input(bus: Path, logind: Logind) -> None:
    source = LogindSource(time.monotonic(), str(bus))
    try:
        logind.sessions["9"] = session(Type="tty", TTY="pts/4", IdleSinceHintMonotonic=int(time.monotonic() * 1e6))
        logind.emit(LOGIN1, "org.freedesktop.login1.Manager", "SessionNew", "so", ("9", f"{LOGIN1}/session/9"))
        assert wait_for(source, 10.0)[0] == "session 9"
    finally:
        source.close()


def test_a_session_that_vanishes_while_listed_is_passed_over(bus: Path, logind: Logind) -> None:
    class Gone(dict[str, Any]):
        def __contains__(self, name: object) -> bool:
            return name != "2" and super().__contains__(name)

    logind.sessions = Gone(logind.sessions)
    source = LogindSource(time.monotonic(), str(bus))
    try:
        assert source.absent() is None
        assert source.last_input(time.monotonic()) is None
    finally:
        source.close()


def test_no_bus_and_a_bus_without_logind_say_so(tmp_path: Path, bus: Path) -> None:
    missing = LogindSource(time.monotonic(), str(tmp_path / "none"))
    assert "cannot be used: No such file or directory" in str(missing.absent())
    assert missing.poll(time.monotonic()) is None
    empty = LogindSource(time.monotonic(), str(bus))
    assert "refused ListSessions: org.freedesktop.DBus.Error.ServiceUnknown" in str(empty.absent())


def test_a_bus_that_ends_makes_the_source_absent(bus: Path, logind: Logind) -> None:
    now = time.monotonic()
    source = LogindSource(now, str(bus))
    fileno = source.fileno()
    assert fileno is not None
    with socket.socket(fileno=os.dup(fileno)) as ours:
        ours.shutdown(socket.SHUT_RDWR)
    assert source.poll(now) is None
    assert "closed the connection" in str(source.absent())
    bus.rename(bus.with_name("away"))
    assert source.poll(now + RESCAN) is None
    assert "No such file or directory" in str(source.absent()), "it is tried soon, and then more seldom"
    bus.with_name("away").rename(bus)
    assert source.poll(now + RESCAN + REFRESH / 2) is None
    assert source.absent() is not None
    assert source.poll(now + RESCAN + REFRESH) is None
    assert source.absent() is None
    source.close()


@pytest.mark.parametrize(
    ("kills", "only", "excluded", "told"),
    [
        (True, [], ["root"], True),
        (False, [], ["root"], False),
        (True, [], ["root", "ann"], False),
        (True, ["bob"], [], False),
        (True, ["ann"], [], True),
    ],
)
def test_who_would_be_killed_at_logout_is_told(
    kills: bool, only: list[str], excluded: list[str], told: bool, bus: Path, logind: Logind, tmp_path: Path
) -> None:
    logind.manager = {
        "KillUserProcesses": ("b", kills),
        "KillOnlyUsers": ("as", only),
        "KillExcludeUsers": ("as", excluded),
        "NAutoVTs": ("u", 6),
    }
    say = at_logout("ann", str(bus), tmp_path)
    assert ("loginctl enable-linger" in say and "systemd-run --user --scope" in say) == told


def at_logout(user: str, bus: str, directory: Path, cgroup: str = "0::/user.slice/user-7.slice/session-2.scope") -> str:
    (directory / "cgroup").write_text(cgroup + "\n")
    return killed_at_logout(user, bus, str(directory), str(directory), str(directory / "cgroup"))


@pytest.mark.parametrize("kills", [True, False])
def test_who_lingers_keeps_what_the_users_own_manager_runs_and_nothing_else(
    kills: bool, bus: Path, logind: Logind, tmp_path: Path
) -> None:
    """A login's own processes are ended by KillUserProcesses, lingering or not; a desktop's are the manager's."""
    logind.manager = {"KillUserProcesses": ("b", kills)}
    desktop = "0::/user.slice/user-7.slice/user@7.service/app.slice/vte.scope"
    assert "run `loginctl enable-linger` to keep them" in at_logout("ann", str(bus), tmp_path, desktop)
    (tmp_path / "ann").touch()
    assert at_logout("ann", str(bus), tmp_path, desktop) == ""
    say = at_logout("ann", str(bus), tmp_path)
    assert "enable-linger" not in say and ("systemd-run --user --scope" in say) == kills


def test_who_has_no_logind_outlives_the_login(bus: Path, logind: Logind, tmp_path: Path) -> None:
    logind.manager = {"KillUserProcesses": ("b", True)}
    assert at_logout("bob", str(bus), tmp_path) != ""
    assert killed_at_logout("bob", str(bus), booted=str(tmp_path / "none"), linger=str(tmp_path)) == ""
    assert at_logout("bob", str(tmp_path / "none"), tmp_path) == ""
    logind.stop()
    assert at_logout("bob", str(bus), tmp_path) == ""


def test_sessions_of_persons() -> None:
    assert person_session("1", session(State="closing")) is None
    assert person_session("1", session(Class="manager")) is None
    assert person_session("1", session(Class="user-early")) is not None
    terminal = person_session("1", session(Type="tty", TTY="tty1", IdleSinceHintMonotonic=5_000_000))
    assert terminal is not None
    assert terminal.idle_since == 5.0


def test_bus_addresses() -> None:
    assert bus_path(None, "/x") == "/x"
    assert bus_path("tcp:host=a,port=1;unix:path=/run/bus,guid=1", "/x") == "/run/bus"
    assert bus_path("unix:abstract=/tmp/dbus-1", "/x") == "@/tmp/dbus-1"
