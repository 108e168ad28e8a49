"""Protobuf's wire format: what is written is read again; garbage raises ProtobufError and nothing else."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint.wire.protobuf import ProtobufError, content, decode, encode, integer, records

values = st.one_of(st.integers(-(1 << 63), (1 << 64) - 1), st.booleans(), st.binary(), st.text())
messages = st.lists(st.tuples(st.integers(1, (1 << 29) - 1), values))


@given(messages)
def test_what_is_written_is_read(fields: list[tuple[int, int | bool | bytes | str]]) -> None:
    wanted: dict[int, list[int | bytes]] = {}
    for number, value in fields:
        if isinstance(value, int):
            wanted.setdefault(number, []).append(value % (1 << 64))
        else:
            wanted.setdefault(number, []).append(value.encode() if isinstance(value, str) else value)
    raw = encode(fields)
    assert decode(raw) == wanted
    assert b"".join(whole for _, _, whole in records(raw)) == raw
    assert [decode(whole) for _, _, whole in records(raw)] == [{n: [value]} for n, value, _ in records(raw)]


@given(st.binary())
def test_garbage_is_a_message_or_a_protobuf_error(raw: bytes) -> None:
    with contextlib.suppress(ProtobufError):
        for field_values in decode(raw).values():
            assert all(isinstance(value, bytes) or 0 <= value < 1 << 64 for value in field_values)


@given(messages, st.data())
def test_a_message_cut_within_a_field_is_an_error(
    fields: list[tuple[int, int | bool | bytes | str]], data: st.DataObject
) -> None:
    raw = encode(fields)
    ends = {len(encode(fields[:count])) for count in range(len(fields) + 1)}
    cut = data.draw(st.integers(0, len(raw)))
    if cut in ends:
        decode(raw[:cut])
    else:
        with pytest.raises(ProtobufError, match="cut short"):
            decode(raw[:cut])


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"\x0b", "unknown wire type 3"),
        (b"\x0f", "unknown wire type 7"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "more than 64 bits"),
        (b"\x08", "cut short"),
        (b"\x09" + bytes(7), "cut short"),
        (b"\x0d" + bytes(3), "cut short"),
        (b"\x0a\x05abcd", "cut short"),
    ],
)
def test_each_kind_of_garbage_is_named(raw: bytes, why: str) -> None:
    with pytest.raises(ProtobufError, match=why):
        decode(raw)


def test_fixed_numbers_are_bytes_and_the_specification_s_example_is_read() -> None:
    assert decode(bytes.fromhex("089601")) == {1: [150]}
    assert decode(bytes.fromhex("120774657374696e67")) == {2: [b"testing"]}
    assert decode(b"\x09" + b"12345678" + b"\x15" + b"abcd") == {1: [b"12345678"], 2: [b"abcd"]}


def test_the_last_value_of_a_field_counts_if_it_is_of_the_kind_asked_for() -> None:
    fields = decode(encode([(1, 3), (1, 4), (2, "a"), (3, 5), (3, b"x")]))
    assert (integer(fields, 1), integer(fields, 2), integer(fields, 3), integer(fields, 9)) == (4, None, None, None)
    assert (content(fields, 1), content(fields, 2), content(fields, 3), content(fields, 9)) == (b"", b"a", b"x", b"")
