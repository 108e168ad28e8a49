"""A dbus-daemon of the tests' own, with stand-ins of ours behind it: the fixtures `bus` and `logind`."""

from __future__ import annotations

import queue
import select
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jeepney import DBusAddress, HeaderFields, MessageType, new_error, new_method_return, new_signal
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import open_dbus_connection

from shim.execute.owner.source import Source

DAEMON = pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="needs the package dbus")
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
