"""logind and Mutter asked through a real dbus-daemon. The objects behind the bus are stand-ins of ours."""

from __future__ import annotations

import os
import queue
import select
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jeepney import DBusAddress, HeaderFields, MessageType, new_error, new_method_return, new_signal
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import open_dbus_connection

from shim.execute.owner.desktop import REFRESH, LogindSource, MutterSource, bus_path, person_session
from shim.execute.owner.source import Source
from shim.submit.job.logout import killed_at_logout
from shim.wire.dbus import Bus, DBusError

pytestmark = pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="needs the package dbus")

CONFIG = """<busconfig><type>session</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
</policy></busconfig>"""

LOGIN1 = "/org/freedesktop/login1"


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "bus"
    config = tmp_path / "bus.conf"
    config.write_text(CONFIG.format(socket=path))
    daemon = subprocess.Popen(
        ["dbus-daemon", "--nofork", "--print-address=1", f"--config-file={config}"], stdout=subprocess.PIPE, text=True
    )
    assert daemon.stdout is not None
    assert daemon.stdout.readline().startswith("unix:path=")
    yield path
    daemon.terminate()
    daemon.communicate()


class StandIn:
    """Serves one bus name from a thread: `answer(member, body)` gives (signature, body), or None for an error."""

    def __init__(self, path: Path, name: str, answer: Callable[[str, str, Any], tuple[str, Any] | None]) -> None:
        self._connection = open_dbus_connection(f"unix:path={path}")
        self._connection.send_and_get_reply(message_bus.RequestName(name))
        self._answer = answer
        self._signals: queue.Queue[Any] = queue.Queue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stop.is_set():
            while not self._signals.empty():
                self._connection.send(self._signals.get())
            try:
                message = self._connection.receive(timeout=0.01)
            except TimeoutError:
                continue
            if message.header.message_type != MessageType.method_call:
                continue
            fields = message.header.fields
            answer = self._answer(fields[HeaderFields.path], fields[HeaderFields.member], message.body)
            if answer is None:
                self._connection.send(new_error(message, "org.freedesktop.DBus.Error.UnknownMethod"))
            else:
                self._connection.send(new_method_return(message, *answer))

    def emit(self, path: str, interface: str, member: str, signature: str, body: Any) -> None:
        self._signals.put(new_signal(DBusAddress(path, interface=interface), member, signature, body))

    def stop(self) -> None:
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            self._connection.close()


def session(**values: Any) -> dict[str, tuple[str, Any]]:
    merged: dict[str, Any] = {
        "Class": "user",
        "State": "active",
        "Type": "wayland",
        "TTY": "tty2",
        "Display": "",
        "User": (1000, "/org/freedesktop/login1/user/_1000"),
        "IdleHint": False,
        "IdleSinceHint": 0,
        "IdleSinceHintMonotonic": 0,
        **values,
    }
    types = {bool: "b", int: "t", str: "s", tuple: "(uo)"}
    return {key: (types[type(value)], value) for key, value in merged.items()}


class Logind(StandIn):
    def __init__(self, path: Path, sessions: dict[str, dict[str, tuple[str, Any]]]) -> None:
        self.sessions = sessions
        self.manager: dict[str, tuple[str, Any]] = {}
        super().__init__(path, "org.freedesktop.login1", self._reply)

    def _reply(self, path: str, member: str, body: Any) -> tuple[str, Any] | None:
        if member == "ListSessions":
            return "a(susso)", (
                [(name, 1000, "ann", "seat0", f"{LOGIN1}/session/{name}") for name in list(self.sessions)],
            )
        if member == "GetAll" and path == LOGIN1:
            return "a{sv}", (self.manager,)
        name = path.rpartition("/")[2]
        if member == "GetAll" and name in self.sessions:
            return "a{sv}", (self.sessions[name],)
        return None

    def change(self, name: str, **values: Any) -> None:
        self.sessions[name] = {**self.sessions[name], **{key: session(**values)[key] for key in values}}
        changed = {key: self.sessions[name][key] for key in values}
        body = ("org.freedesktop.login1.Session", changed, [])
        self.emit(f"{LOGIN1}/session/{name}", "org.freedesktop.DBus.Properties", "PropertiesChanged", "sa{sv}as", body)


@pytest.fixture
def logind(bus: Path) -> Iterator[Logind]:
    idle_since = int((time.monotonic() - 100) * 1e6)
    started = Logind(
        bus,
        {
            "c1": session(Class="greeter"),
            "5": session(Type="tty", TTY=""),
            "7": session(Class="background", Type="unspecified"),
            "2": session(IdleHint=True, IdleSinceHintMonotonic=idle_since),
        },
    )
    yield started
    started.stop()


def wait_for(source: Source, seconds: float) -> tuple[str | None, float]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        fileno = source.fileno()
        poll = select.poll()  # select(2) ends at descriptor 1023, which another test's may have taken
        if fileno is not None:
            poll.register(fileno, select.POLLIN)
        poll.poll(None if source.interval is None else source.interval * 1000)
        touched = source.poll(time.monotonic())
        if touched is not None:
            return touched, time.monotonic()
    return None, time.monotonic()


def idle(source: Source) -> float:
    now = time.monotonic()
    last = source.last_input(now)
    assert last is not None
    return now - last


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
        changed = time.monotonic()
        logind.change("2", IdleHint=False)
        touched, noticed = wait_for(source, 2.0)
        assert touched == "session 2"
        assert noticed - changed < 0.1
        assert idle(source) < 0.1
        # Nothing finer sees this seat: "active" is all that tells that the owner is still there.
        assert wait_for(source, 2.5)[0] == "session 2 (active)"
        source.renew = False
        assert wait_for(source, 1.5)[0] is None
        source.renew = True
        logind.change("2", IdleHint=True, IdleSinceHintMonotonic=int(time.monotonic() * 1e6))
        assert wait_for(source, 1.5)[0] is None
        assert idle(source) < 4.0
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
        assert wait_for(source, 2.0)[0] == "session 9"
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
    source = LogindSource(time.monotonic(), str(bus))
    fileno = source.fileno()
    assert fileno is not None
    with socket.socket(fileno=os.dup(fileno)) as ours:
        ours.shutdown(socket.SHUT_RDWR)
    assert wait_for(source, 0.3)[0] is None
    assert "closed the connection" in str(source.absent())
    assert source.poll(time.monotonic() + REFRESH / 2) is None
    assert source.absent() is not None
    assert source.poll(time.monotonic() + REFRESH) is None
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
    say = killed_at_logout("ann", str(bus), booted=str(tmp_path), linger=str(tmp_path))
    assert ("loginctl enable-linger" in say) == told


def test_who_lingers_or_has_no_logind_outlives_the_login(bus: Path, logind: Logind, tmp_path: Path) -> None:
    logind.manager = {"KillUserProcesses": ("b", True)}
    assert killed_at_logout("ann", str(bus), booted=str(tmp_path), linger=str(tmp_path)) != ""
    (tmp_path / "ann").touch()
    assert killed_at_logout("ann", str(bus), booted=str(tmp_path), linger=str(tmp_path)) == ""
    assert killed_at_logout("bob", str(bus), booted=str(tmp_path / "none"), linger=str(tmp_path)) == ""
    assert killed_at_logout("bob", str(tmp_path / "none"), booted=str(tmp_path), linger=str(tmp_path)) == ""
    logind.stop()
    assert killed_at_logout("bob", str(bus), booted=str(tmp_path), linger=str(tmp_path)) == ""


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


def test_mutter_tells_of_every_touch(bus: Path, tmp_path: Path) -> None:
    ours = os.geteuid()
    (tmp_path / f"run/{ours}").mkdir(parents=True)
    (tmp_path / f"run/{ours}/bus").symlink_to(bus)
    desktop = Mutter(bus)
    try:
        source = MutterSource(time.monotonic(), str(tmp_path / "run"))
        assert source.absent() is None
        assert source.users() == {ours}
        assert idle(source) == pytest.approx(50, abs=1)
        assert wait_for(source, 0.6)[0] is None
        for _ in range(2):
            at = time.monotonic()
            desktop.input()
            touched, noticed = wait_for(source, 2.0)
            assert touched == f"desktop of user {ours}"
            assert noticed - at < 0.1
            # The watch is set again after a moment; a hand that rests meanwhile is not reported twice.
            assert wait_for(source, 0.6)[0] is None
            assert desktop.watches
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


BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")


@pytest.fixture
def connection(bus: Path) -> Iterator[Bus]:
    opened = Bus(str(bus))
    yield opened
    opened.close()


def test_a_call_that_is_refused_and_one_that_is_answered(connection: Bus) -> None:
    (names,) = connection.call(*BUS, "ListNames", answer="as")
    assert "org.freedesktop.DBus" in names
    with pytest.raises(DBusError, match=r"refused NoSuch: org\.freedesktop\.DBus\.Error\.UnknownMethod"):
        connection.call(*BUS, "NoSuch", answer="")


def test_an_answer_of_another_type_than_it_should_have_is_refused(connection: Bus) -> None:
    with pytest.raises(DBusError, match="answered ListNames with the type 'as', not 'au'"):
        connection.call(*BUS, "ListNames", answer="au")


def test_a_bus_that_never_answers_is_given_up(tmp_path: Path) -> None:
    path = str(tmp_path / "silent")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        began = time.monotonic()
        with pytest.raises(DBusError, match="cannot be used: timed out"):
            Bus(path, 0.2)
        assert 0.2 <= time.monotonic() - began < 2.0


def test_another_users_session_bus_is_closed_even_to_root() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        os.chmod(directory, 0o777)
        path = directory + "/bus"
        argv = ["dbus-daemon", "--session", "--nofork", "--print-address=1", f"--address=unix:path={path}"]
        daemon = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, user=65534, group=65534, extra_groups=[])
        try:
            assert daemon.stdout is not None
            assert daemon.stdout.readline().startswith("unix:path=")
            with pytest.raises(DBusError, match=r"closed the connection|Broken pipe"):
                Bus(path)
        finally:
            daemon.terminate()
            daemon.communicate()
