"""D-Bus: a message is read wherever the stream is cut; garbage gives DBusError and nothing else, and never hangs."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jeepney import DBusAddress, HeaderFields, new_signal

from shim.wire.dbus import DBusError, take_message

# without control characters: "\\x02()" may be a signature
texts = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=20)
bodies = st.tuples(
    texts,
    st.dictionaries(
        texts, st.one_of(st.tuples(st.just("s"), texts), st.tuples(st.just("t"), st.integers(0, 2**64 - 1)))
    ),
    st.lists(st.tuples(st.integers(0, 255), st.booleans(), st.integers(-(2**63), 2**63 - 1))),
    st.lists(st.lists(texts, max_size=3), max_size=3),
)
SIGNATURE = "sa{sv}a(ybx)aas"


def changed(body: Any, serial: int = 1) -> bytes:
    data: bytes = new_signal(DBusAddress("/a/b", interface="c.d"), "Changed", SIGNATURE, body).serialise(serial)
    return data


@given(bodies, st.integers(1, 2**31), st.integers(0, 200))
@example(("a() ()", {"()": ("s", "((()))")}, [(0x28, True, 0x2928)], [["a()"]]), 0x2928, 0)
def test_a_message_is_taken_when_it_is_whole(body: Any, serial: int, cut: int) -> None:
    data = changed(body, serial)
    buffer = bytearray(data[:cut])
    if cut < len(data):
        assert take_message(buffer) is None
    buffer += data[cut:] + b"l"
    message = take_message(buffer)
    assert message is not None
    assert message.header.fields[HeaderFields.member] == "Changed"
    assert message.header.serial == serial
    assert message.body == body
    assert buffer == b"l"


@given(st.binary(max_size=300), st.sampled_from([b"", b"l\4\0\1", b"B\2\1\1", b"l\4\0\1\x10\0\0\0\1\0\0\0\x08\0\0\0"]))
def test_garbage_raises_dbus_error_only(data: bytes, start: bytes) -> None:
    buffer = bytearray(start + data)
    with contextlib.suppress(DBusError):
        while take_message(buffer) is not None:
            pass


@given(st.data())
def test_a_damaged_message_raises_dbus_error_only(data: st.DataObject) -> None:
    whole = changed(("a", {"k": ("s", "v")}, [(1, True, 2)], [["x"]]))
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(DBusError):
        take_message(damaged)


@pytest.mark.parametrize("types", [b"a()bxs", b"bxsa()", b"a(()s)", b"a(y())"])
def test_an_array_of_empty_structs_is_refused(types: bytes) -> None:
    data = changed(("a", {}, [(1, True, 2)], [])).replace(b"a(ybx)", types)
    with pytest.raises(DBusError, match="an empty struct"):
        take_message(bytearray(data))


def test_an_empty_struct_in_a_variant_is_refused() -> None:
    data = changed(("a", {"k": ("aas", [])}, [], []))
    with pytest.raises(DBusError, match="an empty struct"):
        take_message(bytearray(data.replace(b"\3aas\0", b"\3a()\0")))


def test_variants_nested_beyond_measure_are_refused() -> None:
    deep = b"\1v\0" * 3000
    data = new_signal(DBusAddress("/a", interface="c.d"), "Changed", "v", (("ay", deep),)).serialise(1)
    with pytest.raises(DBusError, match="not a D-Bus message"):
        take_message(bytearray(data.replace(b"\2ay\0" + len(deep).to_bytes(4, "little"), b"\1v\0" * 3)))


def test_a_message_longer_than_any_answer_is_refused_before_it_has_come() -> None:
    with pytest.raises(DBusError, match="too long"):
        take_message(bytearray(b"l\4\0\1" + (1 << 20).to_bytes(4, "little") + bytes(8)))
