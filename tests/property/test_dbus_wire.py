"""D-Bus on the wire: garbage gives DBusError and nothing else; what jeepney writes we read, and the reverse."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jeepney import DBusAddress, Parser, new_signal
from jeepney.low_level import Message as Theirs

from shim.dbus_wire import DBusError, call_bytes, split_signature, take_message

texts = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=20)
bodies = st.tuples(
    texts,
    st.dictionaries(
        texts, st.one_of(st.tuples(st.just("s"), texts), st.tuples(st.just("t"), st.integers(0, 2**64 - 1)))
    ),
    st.lists(st.tuples(st.integers(0, 255), st.booleans(), st.integers(-(2**63), 2**63 - 1))),
    st.lists(st.lists(texts, max_size=3), max_size=3),
)
SIGNATURE = "sa{sv}a(ybx)aas"


@given(bodies, st.integers(1, 2**32 - 1), st.integers(0, 200))
def test_we_read_what_jeepney_writes(body: Any, serial: int, cut: int) -> None:
    signal = new_signal(DBusAddress("/a/b", interface="c.d"), "Changed", SIGNATURE, body)
    data = signal.serialise(serial)
    buffer = bytearray(data[:cut])
    if cut < len(data):
        assert take_message(buffer) is None
    buffer += data[cut:] + b"l"
    message = take_message(buffer)
    assert message is not None
    assert (message.path, message.interface, message.member, message.serial) == ("/a/b", "c.d", "Changed", serial)
    assert message.body == body
    assert buffer == b"l"


@given(bodies, st.integers(1, 2**32 - 1))
def test_jeepney_reads_what_we_write(body: Any, serial: int) -> None:
    parser = Parser()
    parser.add_data(call_bytes(serial, {1: "/a/b", 3: "Do", 6: "x.y", 2: "c.d"}, SIGNATURE, body))
    theirs = parser.get_next_message()
    assert isinstance(theirs, Theirs)
    assert theirs.body == body
    assert theirs.header.serial == serial


@given(st.binary(max_size=300), st.sampled_from([b"", b"l\4\0\1", b"B\2\1\1", b"l\4\0\1\x10\0\0\0\1\0\0\0\x08\0\0\0"]))
def test_garbage_raises_dbus_error_only(data: bytes, start: bytes) -> None:
    buffer = bytearray(start + data)
    with contextlib.suppress(DBusError):
        while take_message(buffer) is not None:
            pass


@given(st.data())
def test_a_damaged_message_raises_dbus_error_only(data: st.DataObject) -> None:
    whole = call_bytes(1, {1: "/a", 3: "Do"}, SIGNATURE, ("a", {"k": ("s", "v")}, [(1, True, 2)], [["x"]]))
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(DBusError):
        take_message(damaged)


@pytest.mark.parametrize("signature", ["a", "(", "()", "(i", "a{", "z", "a(", "{}", "a" * 100 + "i"])
def test_bad_signatures(signature: str) -> None:
    with pytest.raises(DBusError):
        split_signature(signature)
