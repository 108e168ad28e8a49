"""Frames arrive as they were sent, however the stream is cut; bytes that are none are a FrameError."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remoteio.wire.frames import (
    HEADER,
    KINDS,
    LARGE,
    MAX_PAYLOAD,
    FrameError,
    FrameReader,
    frame,
    pack_fields,
    unpack_fields,
)

FRAMES = st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.binary(max_size=400)), max_size=12)
LARGE_SIZES = st.integers(LARGE - 2, LARGE + 70000)


def read(chunks: list[bytes]) -> list[tuple[int, bytes]]:
    reader = FrameReader()
    return [(kind, bytes(payload)) for chunk in chunks for kind, payload in reader.feed(chunk)]


@given(FRAMES)
def test_whole_and_byte_by_byte(sent: list[tuple[int, bytes]]) -> None:
    stream = b"".join(frame(*one) for one in sent)
    assert read([stream]) == sent
    assert read([stream[k : k + 1] for k in range(len(stream))]) == sent


@settings(max_examples=40, deadline=None)
@given(
    FRAMES, st.lists(LARGE_SIZES, min_size=1, max_size=3), st.lists(st.integers(500, 100_000), min_size=1, max_size=20)
)
def test_large_ones_cut_anywhere(small: list[tuple[int, bytes]], sizes: list[int], cuts: list[int]) -> None:
    sent = [*small, *((1, bytes([k]) * size) for k, size in enumerate(sizes)), *small]
    stream = b"".join(frame(*one) for one in sent)
    chunks, at = [], 0
    while at < len(stream):
        step = cuts[len(chunks) % len(cuts)]
        chunks.append(stream[at : at + step])
        at += step
    assert read(chunks) == sent


@given(st.binary(max_size=2000))
def test_garbage_is_frames_or_a_frame_error(data: bytes) -> None:
    for chunks in ([data], [data[k : k + 1] for k in range(len(data))]):
        try:
            frames = read(chunks)
        except FrameError:
            continue
        assert data.startswith(b"".join(frame(*one) for one in frames))


@given(st.integers(0, 2**32 - 1), st.integers(0, 255), st.binary(min_size=3, max_size=3))
def test_a_head_is_refused_before_its_payload(length: int, kind: int, reserved: bytes) -> None:
    head = struct.pack("=IB", length, kind) + reserved
    assert len(head) == HEADER.size
    if kind in KINDS and length <= MAX_PAYLOAD and not any(reserved):
        assert read([head]) == ([(kind, b"")] if not length else [])
    else:
        with pytest.raises(FrameError):
            read([head])


@given(st.dictionaries(st.text(max_size=9), st.lists(st.binary(max_size=50), max_size=4), max_size=5))
def test_fields_come_back(fields: dict[str, list[bytes]]) -> None:
    assert unpack_fields(pack_fields(fields)) == fields


@given(st.binary(max_size=200))
def test_garbage_is_fields_or_a_frame_error(data: bytes) -> None:
    try:
        unpack_fields(data)
    except FrameError:
        return


@given(
    st.dictionaries(st.text(min_size=1, max_size=4), st.lists(st.binary(max_size=9), max_size=2), min_size=1), st.data()
)
def test_fields_cut_short_are_refused(fields: dict[str, list[bytes]], data: st.DataObject) -> None:
    packed = pack_fields(fields)
    with pytest.raises(FrameError):
        unpack_fields(packed[: data.draw(st.integers(0, len(packed) - 1))])
