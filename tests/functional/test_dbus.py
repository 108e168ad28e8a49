"""shim/wire/dbus.py against a real dbus-daemon: calls, answers of another type, a bus that is silent or closed."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.wire.dbus import Bus, DBusError
from tests.stand_in_bus import DAEMON
from tests.until import soon

pytestmark = DAEMON
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

        def once() -> float:
            began = time.monotonic()
            with pytest.raises(DBusError, match="cannot be used: timed out"):
                Bus(path, 0.2)
            return time.monotonic() - began

        soon(once, 2.0)


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
