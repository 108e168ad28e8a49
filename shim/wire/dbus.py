"""A connection to a D-Bus message bus, as far as asking for idle times needs one. Shipped, and jeepney with it.

jeepney has the wire format and the authentication (D-Bus specification 0.43); the socket is read and written here, so
that every wait has its limit. A value of type `v` is given and returned as the pair (signature, value).

The far end is the system's bus or one of this process's own user: it may fail, but it is not taken for an enemy.
"""

from __future__ import annotations

import socket
import struct
import time

from jeepney import DBusAddress, HeaderFields, MatchRule, Message, MessageType, message_bus, new_method_call
from jeepney.auth import BEGIN, AuthenticationError, Authenticator
from jeepney.low_level import calc_msg_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SYSTEM_BUS = "/run/dbus/system_bus_socket"
LOGIND = "org.freedesktop.login1"
LOGIND_OBJECT = "/org/freedesktop/login1"
PROPERTIES = "org.freedesktop.DBus.Properties"
# A session takes some hundred bytes in logind's list; no answer that is asked for here comes near this.
_MAX_MESSAGE = 1 << 20
_MAX_SIGNATURE = 255
_TYPES = frozenset(bytes((each,)) for each in b"ybnqiuxtdsogavh(){}")
# All that jeepney raises for bytes that are no message: its own checks, and where it has none, Python's.
_GARBAGE = (ValueError, KeyError, IndexError, TypeError, AssertionError, RecursionError, struct.error)


class DBusError(Exception):
    """The bus cannot be used, or a call was refused; the text is a clause that says which and why."""


def take_message(buffer: bytearray) -> Message | None:
    """Removes the first whole message from the buffer; None if there is none yet. DBusError for garbage."""
    if len(buffer) < 16:
        return None
    try:
        size = calc_msg_size(buffer[:16])
        if size > _MAX_MESSAGE:
            raise DBusError("the bus sent a message that is too long")
        if len(buffer) < size:
            return None
        data = bytes(buffer[:size])
        del buffer[:size]
        if _empty_struct(data):
            # No valid type, and jeepney 0.9 reads an array of it for ever: no element of it takes a byte.
            raise DBusError("the bus sent an empty struct")
        return Message.from_buffer(data)
    except _GARBAGE as error:
        raise DBusError(f"the bus sent what is not a D-Bus message: {error or type(error).__name__}") from None


def _empty_struct(data: bytes) -> bool:
    """Say whether a signature in a message has an empty struct: its length, a byte, then types alone, then NUL.

    A number or a text with such bytes is none, unless it looks like all of that.
    """
    at = data.find(b"()")
    while at >= 0:
        begin, end = at, at + 2
        while end - at < _MAX_SIGNATURE and data[end : end + 1] in _TYPES:
            end += 1
        while begin and data[end : end + 1] == b"\0" and end - begin <= _MAX_SIGNATURE:
            if data[begin - 1] == end - begin:
                return True
            if data[begin - 1 : begin] not in _TYPES:
                break
            begin -= 1
        at = data.find(b"()", at + 1)
    return False


def bus_path(address: str | None, default: str) -> str:
    """Find the unix socket in an address as DBUS_SYSTEM_BUS_ADDRESS ("@name" if abstract); `default`: it has none."""
    for one in (address or "").split(";"):
        transport, _, pairs = one.partition(":")
        keys = dict(pair.partition("=")[::2] for pair in pairs.split(","))
        if transport == "unix" and "path" in keys:
            return keys["path"]
        if transport == "unix" and "abstract" in keys:
            return "@" + keys["abstract"]
    return default


class Bus:
    """A connection to a message bus on a unix socket, named and ready. DBusError if it cannot be had."""

    __slots__ = ("_buffer", "_patience", "_serial", "_signals", "_socket", "where")

    def __init__(self, path: str, timeout: float = 2.0) -> None:
        self.where = path
        self._patience = timeout
        self._serial = 0
        self._buffer = bytearray()
        self._signals: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(timeout)
            # "@name" is how an address of the abstract namespace is written.
            self._socket.connect("\0" + path[1:] if path.startswith("@") else path)
            self._authenticate()
            self._call(message_bus.Hello(), "s", timeout)
        except OSError as error:
            self._socket.close()
            raise DBusError(f"the bus at {path} cannot be used: {error.strerror or error}") from None
        except DBusError:
            self._socket.close()
            raise

    def _authenticate(self) -> None:
        login = Authenticator()
        try:
            for line in login:
                self._socket.sendall(line)
                part = self._socket.recv(1024)
                if not part:
                    raise DBusError(f"the bus at {self.where} closed the connection")
                login.feed(part)
        except AuthenticationError:
            raise DBusError(f"the bus at {self.where} does not admit this user") from None
        self._socket.sendall(BEGIN)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        values: tuple[Any, ...] = (),
        *,
        answer: str,
        timeout: float = 2.0,
    ) -> tuple[Any, ...]:
        """Calls a method and waits for its answer, `timeout` seconds at most. Signals meanwhile are kept.

        `answer` is the signature that the answer must have. DBusError if it has another, if the call is refused, or if
        no answer comes.
        """
        address = DBusAddress(path, bus_name=destination, interface=interface)
        return self._call(new_method_call(address, member, signature or None, values), answer, timeout)

    def _call(self, message: Message, answer: str, timeout: float) -> tuple[Any, ...]:
        self._serial += 1
        fields = message.header.fields
        destination, member = fields[HeaderFields.destination], fields[HeaderFields.member]
        deadline = time.monotonic() + timeout
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(message.serialise(self._serial))
            while True:
                reply = take_message(self._buffer)
                if reply is None:
                    self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
                    self._receive()
                elif reply.header.message_type == MessageType.signal:
                    self._keep(reply)
                elif reply.header.fields.get(HeaderFields.reply_serial) == self._serial:
                    break
        except OSError as error:
            raise DBusError(f"{destination} did not answer {member}: {error.strerror or error}") from None
        if reply.header.message_type == MessageType.error:
            raise DBusError(f"{destination} refused {member}: {reply.header.fields.get(HeaderFields.error_name)}")
        found = reply.header.fields.get(HeaderFields.signature, "")
        if found != answer:
            raise DBusError(f"{destination} answered {member} with the type {found!r}, not {answer!r}")
        body: tuple[Any, ...] = reply.body
        return body

    def signals(self) -> list[str]:
        """Name the signals (members) that came since the last call, without waiting. DBusError: no bus."""
        self._socket.settimeout(0)
        try:
            while True:
                self._receive()
        except BlockingIOError:
            pass
        except OSError as error:
            raise DBusError(f"the bus at {self.where} is gone: {error.strerror or error}") from None
        while True:
            message = take_message(self._buffer)
            if message is None:
                break
            if message.header.message_type == MessageType.signal:
                self._keep(message)
        taken, self._signals = self._signals, []
        return taken

    def _keep(self, signal: Message) -> None:
        self._signals.append(str(signal.header.fields.get(HeaderFields.member)))

    def _receive(self) -> None:
        part = self._socket.recv(65536)
        if not part:
            raise DBusError(f"the bus at {self.where} closed the connection")
        self._buffer += part

    def match(self, **rule: str) -> None:
        """Asks for the signals from a sender, of an interface, …: keyword arguments as jeepney.MatchRule has them."""
        self._call(message_bus.AddMatch(MatchRule(type="signal", **rule)), "", self._patience)
