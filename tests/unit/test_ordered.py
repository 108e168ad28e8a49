"""Requests in their order at home: what comes after a change is begun when that is done, however it arrives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoteio.errors import ProtocolError
from remoteio.submit.export import ordered
from remoteio.submit.export.ordered import Ordered
from remoteio.wire import fuse_abi as abi
from remoteio.wire.behind import HEAD
from remoteio.wire.frames import AFTER, FUSE

Begun = Callable[[bytes | memoryview], bool]


def request(unique: int, op: int = abi.GETATTR) -> bytes:
    return abi.request(op, 1, bytes(16), unique)


def after(unique: int, number: int, before: int, op: int = 0) -> bytes:
    return HEAD.pack(number, before) + request(unique, op or (abi.WRITE if number else abi.GETATTR))


def unique(payload: bytes | memoryview) -> int:
    return int(abi.IN_HEADER.unpack_from(payload)[2])


@given(changes=st.lists(st.booleans(), max_size=12), order=st.randoms(use_true_random=False))
def test_each_is_begun_once_and_none_before_the_change_before_it(changes: list[bool], order: st.DataObject) -> None:
    made, last, frames = Ordered(), 0, []
    must: dict[int, int] = {}  # unique -> number of what must be done before
    numbers: dict[int, int] = {}
    for k, change in enumerate(changes, 1):
        must[k] = last
        if change:
            last += 1
            numbers[k] = last
        frames.append(after(k, last if change else 0, must[k]))
    order.shuffle(frames)  # type: ignore[attr-defined]
    begun: list[int] = []
    done: set[int] = set()

    def begin(payload: bytes | memoryview) -> bool:
        k = unique(payload)
        assert must[k] <= len(done) and k not in begun
        begun.append(k)
        return True

    made.begin = begin
    while frames or len(done) < last:
        under_way = [k for k in begun if k in numbers and k not in done]
        if under_way and (not frames or order.random() < 0.5):  # type: ignore[attr-defined]
            done.add(under_way[0])
            for payload in made.done(under_way[0]):
                assert unique(payload) in numbers, "what somebody waits for is begun by another thread"
                begin(payload)
        else:
            for payload in made.take(AFTER, frames.pop()):
                begin(payload)
    assert sorted(begun) == list(must)


def test_what_nobody_else_can_begin_is_the_callers() -> None:
    made = Ordered()
    assert list(map(unique, made.take(AFTER, after(1, 1, 0)))) == [1]
    assert made.take(AFTER, after(2, 0, 1)) == []
    assert list(map(unique, made.done(1))) == [2]
    assert made.done(2) == []


def test_the_next_change_and_what_nobody_waits_for_is_done_without_another_thread() -> None:
    made, begun = Ordered(), list[int]()
    made.begin = lambda payload: begun.append(unique(payload)) is None
    made.take(AFTER, after(1, 1, 0))
    for each in (after(2, 0, 1, abi.OPENED), after(3, 0, 1, abi.RELEASE), after(4, 2, 1)):
        assert made.take(AFTER, each) == []
    assert list(map(unique, made.done(1))) == [2, 3, 4]
    for each in (after(5, 0, 2, abi.RELEASE), after(6, 3, 2), after(7, 0, 2, abi.GETATTR)):
        assert made.take(AFTER, each) == []
    assert list(map(unique, made.done(4))) == [6]
    assert begun == [5, 7], "somebody waits for one of these"


def test_an_interrupt_does_not_overtake_what_it_interrupts() -> None:
    made, begun = Ordered(), list[int]()
    made.begin = lambda payload: begun.append(unique(payload)) is None
    made.take(AFTER, after(1, 1, 0))
    assert made.take(AFTER, after(2, 0, 1, abi.SETLKW)) == []
    assert made.take(FUSE, request(3, abi.INTERRUPT)) == []
    assert list(map(unique, made.take(FUSE, request(4)))) == [4]
    made.done(1)
    assert begun == [2, 3]
    assert list(map(unique, made.take(FUSE, request(5, abi.INTERRUPT)))) == [5]


@pytest.mark.parametrize(
    "frames", [[after(1, 1, 0), after(2, 1, 0)], [after(1, 1, 0), after(1, 2, 1)], [after(1, 3, 1)], [b"short"],
     [after(1, 1, 0, abi.RENAME)], [after(1, 0, 0) + bytes(abi.MAX_REQUEST)]],
    ids=["a number twice", "a request twice", "out of its order", "short", "not to be answered before", "long"],
)  # fmt: skip
def test_what_no_relay_sends_ends_the_session(frames: list[bytes]) -> None:
    made = Ordered()
    with pytest.raises(ProtocolError):
        for each in frames:
            made.take(AFTER, each)


@pytest.mark.parametrize(("name", "most"), [("MOST_HELD", 3), ("MOST_HELD_BYTES", 3 * len(request(1)))])
def test_no_more_is_kept_than_a_kernel_asks_for(monkeypatch: pytest.MonkeyPatch, name: str, most: int) -> None:
    monkeypatch.setattr(ordered, name, most)
    made = Ordered()
    for k in range(3):
        assert made.take(AFTER, after(k + 1, 0, 9)) == []
    with pytest.raises(ProtocolError, match="not for the change"):
        made.take(AFTER, after(4, 0, 9))


def test_the_number_of_a_change_is_no_other_requests() -> None:
    made = Ordered()
    made.take(AFTER, after(7, 3, 2))
    assert list(map(unique, made.take(FUSE, request(7)))) == [7]
    with pytest.raises(ProtocolError, match="of a request that is no change"):
        made.done(7)
