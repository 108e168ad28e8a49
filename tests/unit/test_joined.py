"""Two changes of a file's mode, ids and times as one: it leaves what the two leave, one after the other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoteio.execute.joined import joined
from remoteio.wire import fuse_abi as abi

KINDS = (abi.FATTR_MODE, abi.FATTR_UID, abi.FATTR_GID, abi.FATTR_ATIME, abi.FATTR_MTIME)
NOW = {abi.FATTR_ATIME: abi.FATTR_ATIME_NOW, abi.FATTR_MTIME: abi.FATTR_MTIME_NOW}


def setattr_of(valid: int, value: int, unique: int = 1) -> bytes:
    args = abi.SETATTR_IN.pack(valid, 0, 7, value, 0, value, value, 0, value, value, 0, value, 0, value, value, 0)
    return abi.request(abi.SETATTR, 5, args, unique)


@st.composite
def changes(draw: st.DrawFn) -> int:
    valid = draw(st.sampled_from((0, abi.FATTR_FH, abi.FATTR_KILL_SUIDGID)))
    for kind in draw(st.sets(st.sampled_from(KINDS), min_size=1)):
        valid |= kind | (NOW.get(kind, 0) if draw(st.booleans()) else 0)
    return valid


def left(state: dict[int, object], raw: bytes) -> dict[int, object]:
    """What a file has after that change."""
    valid, _, _, _, _, at, mt, _, atn, mtn, _, mode, _, uid, gid, _ = abi.SETATTR_IN.unpack_from(raw, abi.ARGS)
    for kind, value in zip(KINDS, (mode, uid, gid, (at, atn), (mt, mtn)), strict=True):
        if valid & kind:
            state = {**state, kind: "now" if valid & NOW.get(kind, 0) else value}
    return state


@given(changes(), changes())
def test_it_leaves_what_the_two_leave(first: int, second: int) -> None:
    one, two = setattr_of(first, 1, 8), setattr_of(second, 2, 9)
    both = joined(one, two)
    assert both is not None
    assert left({}, both) == left(left({}, one), two)
    assert abi.Request(both).unique == 8
    kept = abi.FATTR_FH | abi.FATTR_KILL_SUIDGID
    assert abi.SETATTR_IN.unpack_from(both, abi.ARGS)[0] & kept == (first | second) & kept


@pytest.mark.parametrize(("first", "second"), [(abi.FATTR_SIZE, 1), (1, abi.FATTR_SIZE), (1, 1 << 20)])
def test_what_else_is_set_is_a_change_of_its_own(first: int, second: int) -> None:
    assert joined(setattr_of(first, 1), setattr_of(second, 2)) is None


def test_so_is_what_another_user_sets() -> None:
    other = bytearray(setattr_of(abi.FATTR_MODE, 2))
    other[24:28] = (1000).to_bytes(4, "little")
    assert joined(setattr_of(abi.FATTR_MODE, 1), bytes(other)) is None
