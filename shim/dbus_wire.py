"""The little of D-Bus that asking for idle times needs: marshalling, SASL EXTERNAL, calls, signals.

Shipped: bare python3 >= 3.9. Source: the D-Bus specification 0.43 (wire protocol version 1). No descriptors are passed.
A value of type `v` is given and returned as the pair (signature, value); `a{..}` is a dict, other arrays are lists,
structs are tuples.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

METHOD_CALL, METHOD_RETURN, ERROR, SIGNAL = 1, 2, 3, 4
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SENDER, _SIGNATURE = range(1, 9)
_FIELD_TYPES = {_PATH: "o", _INTERFACE: "s", _MEMBER: "s", _DESTINATION: "s", _SIGNATURE: "g"}
_FIXED = {"y": "B", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d", "b": "I", "h": "I"}
_ALIGN = {"y": 1, "g": 1, "v": 1, "n": 2, "q": 2, "x": 8, "t": 8, "d": 8, "(": 8, "{": 8}
_MAX_MESSAGE = 1 << 27
_MAX_DEPTH = 64


class DBusError(Exception):
    """The bus cannot be used, or a call was refused; the text is a clause that says which and why."""


def split_signature(signature: str) -> list[str]:
    """The complete types of a signature: "sa{sv}(ii)" → ["s", "a{sv}", "(ii)"]. DBusError if it is none."""
    types = []
    at = 0
    while at < len(signature):
        end = _type_end(signature, at, 0)
        types.append(signature[at:end])
        at = end
    return types


def _type_end(signature: str, at: int, depth: int) -> int:
    if at >= len(signature) or depth > _MAX_DEPTH:
        raise DBusError(f"the type {signature!r} is incomplete")
    code = signature[at]
    if code in _FIXED or code in "sogv":
        return at + 1
    if code == "a":
        return _type_end(signature, at + 1, depth + 1)
    if code in "({":
        closing = ")" if code == "(" else "}"
        end = at + 1
        while end < len(signature) and signature[end] != closing:
            end = _type_end(signature, end, depth + 1)
        if end < len(signature) and end > at + 1:
            return end + 1
    raise DBusError(f"the type {signature!r} is not one")


def marshal(signature: str, values: tuple[Any, ...]) -> bytes:
    """The values, little endian, as the body of a message (so aligned to 8 from its first byte)."""
    out = bytearray()
    for kind, value in zip(split_signature(signature), values):
        _put(out, kind, value)
    return bytes(out)


def _pad(out: bytearray, alignment: int) -> None:
    out.extend(bytes(-len(out) % alignment))


def _put(out: bytearray, kind: str, value: Any) -> None:
    code = kind[0]
    _pad(out, _ALIGN.get(code, 4))
    if code in _FIXED:
        out.extend(struct.pack("<" + _FIXED[code], value))
    elif code in "so":
        data = str(value).encode()
        out.extend(struct.pack("<I", len(data)) + data + b"\0")
    elif code == "g":
        data = str(value).encode()
        out.extend(struct.pack("B", len(data)) + data + b"\0")
    elif code == "v":
        inner, content = value
        _put(out, "g", inner)
        _put(out, inner, content)
    elif code == "a":
        length_at = len(out)
        out.extend(bytes(4))
        element = kind[1:]
        _pad(out, _ALIGN.get(element[0], 4))
        start = len(out)
        for item in value.items() if isinstance(value, dict) else value:
            _put(out, element, item)
        struct.pack_into("<I", out, length_at, len(out) - start)
    else:
        for part, item in zip(split_signature(kind[1:-1]), value):
            _put(out, part, item)


class _Reader:
    """Takes values off a message; DBusError for whatever does not fit."""

    __slots__ = ("at", "data", "order")

    def __init__(self, data: bytes, order: str, at: int = 0) -> None:
        self.data = data
        self.order = order
        self.at = at

    def values(self, signature: str) -> tuple[Any, ...]:
        try:
            return tuple(self._take(kind, 0) for kind in split_signature(signature))
        except (struct.error, UnicodeDecodeError, TypeError, IndexError) as error:
            raise DBusError(f"a message does not fit its type {signature!r}: {error}") from None

    def _fixed(self, form: str) -> int:
        value: int = struct.unpack_from(self.order + form, self.data, self.at)[0]
        self.at += struct.calcsize("=" + form)
        return value

    def _bytes(self, length: int) -> bytes:
        end = self.at + length
        if end > len(self.data):
            raise DBusError("a message ends in the middle of a value")
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def _take(self, kind: str, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise DBusError("a message nests too deep")
        code = kind[0]
        self.at += -self.at % _ALIGN.get(code, 4)
        if code in _FIXED:
            value = self._fixed(_FIXED[code])
            return bool(value) if code == "b" else value
        if code in "sog":
            text = self._bytes(self._fixed("B" if code == "g" else "I")).decode()
            self._bytes(1)
            return text
        if code == "v":
            inner = str(self._take("g", depth))
            if len(split_signature(inner)) != 1:
                raise DBusError(f"a variant has the type {inner!r}")
            return inner, self._take(inner, depth + 1)
        if code == "a":
            return self._take_array(kind[1:], depth + 1)
        return tuple(self._take(part, depth + 1) for part in split_signature(kind[1:-1]))

    def _take_array(self, element: str, depth: int) -> Any:
        length = self._fixed("I")
        self.at += -self.at % _ALIGN.get(element[0], 4)
        end = self.at + length
        if end > len(self.data):
            raise DBusError("an array is longer than its message")
        items = []
        while self.at < end:
            items.append(self._take(element, depth))
        if self.at != end:
            raise DBusError("an array's length does not fit its elements")
        return dict(items) if element[0] == "{" else items


class Message:
    """A message: kind (METHOD_CALL, …), serial, the header fields used, and its body's values."""

    __slots__ = ("body", "destination", "error", "interface", "kind", "member", "path", "reply_to", "sender", "serial")

    def __init__(self, kind: int, serial: int, fields: dict[int, Any], body: tuple[Any, ...]) -> None:
        self.kind = kind
        self.serial = serial
        self.path = str(fields.get(_PATH, ""))
        self.interface = str(fields.get(_INTERFACE, ""))
        self.member = str(fields.get(_MEMBER, ""))
        self.error = str(fields.get(_ERROR_NAME, ""))
        self.destination = str(fields.get(_DESTINATION, ""))
        self.sender = str(fields.get(_SENDER, ""))
        reply_to = fields.get(_REPLY_SERIAL, 0)
        self.reply_to = reply_to if isinstance(reply_to, int) else 0
        self.body = body


def take_message(buffer: bytearray) -> Message | None:
    """Removes the first whole message from the buffer; None if there is none yet. DBusError for garbage."""
    if len(buffer) < 16:
        return None
    if buffer[0] not in b"lB" or buffer[3] != 1:
        raise DBusError("the bus sent what is not a D-Bus message")
    order = "<" if buffer[0] == ord("l") else ">"
    body_length, serial, fields_length = struct.unpack_from(order + "III", buffer, 4)
    body_at = 16 + fields_length + -fields_length % 8
    total = body_at + body_length
    if total > _MAX_MESSAGE:
        raise DBusError("the bus sent a message that is too long")
    if len(buffer) < total:
        return None
    data = bytes(buffer[:total])
    del buffer[:total]
    (pairs,) = _Reader(data[: 16 + fields_length], order, 12).values("a(yv)")
    fields = {code: value for code, (_, value) in pairs}
    signature = str(fields.get(_SIGNATURE, ""))
    # The body is aligned to 8 in the message, so its alignment counts from its own first byte.
    return Message(data[1], serial, fields, _Reader(data[body_at:], order).values(signature))


def call_bytes(serial: int, fields: dict[int, str], signature: str, values: tuple[Any, ...]) -> bytes:
    """A method call as bytes."""
    body = marshal(signature, values)
    if signature:
        fields = {**fields, _SIGNATURE: signature}
    header = marshal(
        "yyyyuua(yv)",
        (
            ord("l"),
            METHOD_CALL,
            0,
            1,
            len(body),
            serial,
            [(code, (_FIELD_TYPES[code], text)) for code, text in fields.items()],
        ),
    )
    return header + bytes(-len(header) % 8) + body


class Bus:
    """A connection to a message bus on a unix socket, named and ready. DBusError if it cannot be had."""

    __slots__ = ("_buffer", "_patience", "_serial", "_signals", "_socket", "where")

    def __init__(self, path: str, timeout: float = 2.0) -> None:
        self.where = path
        self._patience = timeout
        self._serial = 0
        self._buffer = bytearray()
        self._signals: deque[Message] = deque()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(timeout)
            # "@name" is how an address of the abstract namespace is written.
            self._socket.connect("\0" + path[1:] if path.startswith("@") else path)
            self._authenticate()
            self._ask_bus("Hello")
        except OSError as error:
            self._socket.close()
            raise DBusError(f"the bus at {path} cannot be used: {error.strerror or error}") from None
        except DBusError:
            self._socket.close()
            raise

    def _authenticate(self) -> None:
        uid = str(os.geteuid()).encode().hex()
        self._socket.sendall(f"\0AUTH EXTERNAL {uid}\r\n".encode())
        answer = b""
        while not answer.endswith(b"\r\n"):
            part = self._socket.recv(1024)
            if not part or len(answer) > 4096:
                raise DBusError(f"the bus at {self.where} closed the connection")
            answer += part
        if not answer.startswith(b"OK "):
            raise DBusError(f"the bus at {self.where} does not admit this user")
        self._socket.sendall(b"BEGIN\r\n")

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
        timeout: float = 2.0,
    ) -> tuple[Any, ...]:
        """Calls a method and waits for its answer, `timeout` seconds at most. Signals meanwhile are kept."""
        self._serial += 1
        fields = {_PATH: path, _DESTINATION: destination, _INTERFACE: interface, _MEMBER: member}
        deadline = time.monotonic() + timeout
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(call_bytes(self._serial, fields, signature, values))
            while True:
                message = take_message(self._buffer)
                if message is None:
                    self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
                    self._receive()
                elif message.kind == SIGNAL:
                    self._signals.append(message)
                elif message.reply_to == self._serial and message.kind == METHOD_RETURN:
                    return message.body
                elif message.reply_to == self._serial and message.kind == ERROR:
                    raise DBusError(f"{destination} refused {member}: {message.error}")
        except OSError as error:
            raise DBusError(f"{destination} did not answer {member}: {error.strerror or error}") from None

    def signals(self) -> list[Message]:
        """The signals that came since the last call, without waiting. DBusError if the bus is gone."""
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
            if message.kind == SIGNAL:
                self._signals.append(message)
        taken = list(self._signals)
        self._signals.clear()
        return taken

    def _receive(self) -> None:
        part = self._socket.recv(65536)
        if not part:
            raise DBusError(f"the bus at {self.where} closed the connection")
        self._buffer += part

    def match(self, rule: str) -> None:
        """Asks for the signals that a match rule describes."""
        self._ask_bus("AddMatch", "s", (rule,))

    def _ask_bus(self, member: str, signature: str = "", values: tuple[Any, ...] = ()) -> None:
        name = "org.freedesktop.DBus"
        self.call(name, "/org/freedesktop/DBus", name, member, signature, values, self._patience)
