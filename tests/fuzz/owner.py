"""Targets: what is read of a machine's owner: D-Bus, X11, and the policy that a job brings along."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import tomllib

from remoteio.errors import ProtocolError
from shim.execute.agent import owner_guard
from shim.execute.owner import flat_toml, word, x11, x11_wire
from shim.wire import dbus, owner_policy
from shim.wire.conditions import Surroundings
from tests.fuzz.target import pieces, scratch, target

_PATIENCE = 0.02  # seconds


@target(dbus.DBusError)
def dbus_messages(data: bytes) -> None:
    """What a bus sends, as it arrives."""
    buffer = bytearray()
    for at in range(0, len(data), 40):
        buffer += data[at : at + 40]
        while dbus.take_message(buffer) is not None:
            continue
    assert len(buffer) <= len(data)


@target()
def bus_address(data: bytes) -> None:
    assert isinstance(dbus.bus_path(data.decode("utf-8", "surrogateescape"), "/run/bus"), str)


@target(dbus.DBusError)
def bus(data: bytes) -> None:
    """A connection to a bus: messages are what it says each time it is to answer."""
    with scratch() as top:
        path = os.path.join(top, "bus")
        with _Server(path, pieces(data)):
            made = dbus.Bus(path, timeout=2.0)
            try:
                made.call("a.b", "/a", "a.b", "C", answer="a(susso)", timeout=2.0)
                made.signals()
            finally:
                made.close()


@target()
def x11_cookies(data: bytes) -> None:
    """An authority file."""
    for cookie in x11_wire.cookies(data, "0"):
        assert cookie in data


@target(struct.error, IndexError)
def x11_answers(data: bytes) -> None:
    """Each answer of a display by itself."""
    for read in (x11_wire.root_window, x11_wire.major_opcode, x11_wire.idle_seconds):
        try:
            read(data)
        except (struct.error, IndexError):
            continue
    x11_wire.root_window(data)


@target(x11.X11Error)
def x11_display(data: bytes) -> None:
    """A display, by what it says to each who connects."""
    with scratch() as top:
        path = os.path.join(top, "X7")
        with _Server(path, [data]):
            display = x11.Display(path, timeout=2.0)
            try:
                display.ask()
                for _ in range(3):
                    display.answer()
            finally:
                display.close()


@target(owner_policy.PolicyError, ProtocolError)
def policy(data: bytes) -> None:
    """The owner's policy in START."""
    found = owner_guard.parse(data.decode("utf-8", "replace"))
    if found.watched:
        assert owner_policy.parse_owner_policy(found.name, found.table()) == found


@target(word.WordError)
def owner_toml(data: bytes) -> None:
    """The file of a machine's owner, as the machine reads it: what is accepted is TOML, and means the same."""
    text = data.decode("utf-8", "replace")
    found = word.parse(text, "owner.toml")
    assert flat_toml.parse(text).keys() == tomllib.loads(text).keys()
    assert found.lowered(())[0] == found.nice
    found.refuses("someone", Surroundings(0.5, 0, False, 0), 1.0, None)


class _Server:
    """Listens on a unix socket; to whoever connects it says a word for each that it hears, and then no more."""

    def __init__(self, path: str, words: list[bytes]) -> None:
        self._words = words
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(path)
        self._socket.listen(8)
        self._kept: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        self._thread.join()
        for each in (*self._kept, self._socket):
            each.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return  # it is over
            self._kept.append(client)
            try:
                for word in self._words:
                    if select.select([client], [], [], _PATIENCE)[0]:
                        client.recv(4096)
                    client.sendall(word)
                client.shutdown(socket.SHUT_WR)
            except OSError:
                continue  # it has gone


TARGETS = (dbus_messages, bus_address, bus, x11_cookies, x11_answers, x11_display, policy, owner_toml)
