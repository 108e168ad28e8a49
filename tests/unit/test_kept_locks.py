"""Locks that home has left to the host: which are answered there, and what home is told of them in the end."""

from __future__ import annotations

import errno
import os
import time

from hypothesis import given
from hypothesis import strategies as st

from remoteio.execute.kept_locks import END, F_RDLCK, F_UNLCK, F_WRLCK, IDLE, LONGEST, KeptLocks
from remoteio.execute.relay import Relay
from remoteio.wire import fuse_abi as abi
from remoteio.wire.behind import HEAD, WHOLE
from remoteio.wire.frames import AFTER, FrameReader
from remoteio.wire.link import Link
from tests.until import HANG

NODE, OWNER, HANDLE = 5, 77, 9
SIZE = 12  # bytes of a file that are looked at, and its last
KINDS = (F_RDLCK, F_WRLCK, F_UNLCK)


def asks(kind: int, first: int = 0, last: int = END, owner: int = OWNER, flags: int = 0, fh: int = HANDLE) -> bytes:
    return abi.request(abi.SETLK, NODE, abi.LK_IN.pack(fh, owner, first, last, kind, 1, flags, 0))


def left(kind: int = F_WRLCK, first: int = 0, last: int = 0) -> KeptLocks:
    """Locks after home has granted one, and left all of the file to this host."""
    locks = KeptLocks()
    assert locks.replied(NODE, asks(kind, first, last), True, 0.0, 0.0)
    return locks


def plan(locks: KeptLocks) -> list[tuple[int, int, int]]:
    found = []
    for nodeid, args in locks.left(locks.leave(), 1.0):
        fh, owner, first, last, kind, *_ = abi.LK_IN.unpack(args)
        assert (nodeid, fh, owner) == (NODE, HANDLE, OWNER)
        found.append((first, last, kind))
    return found


@given(
    st.lists(
        st.tuples(st.sampled_from(KINDS), st.integers(0, SIZE - 1), st.sampled_from([*range(SIZE), END])).filter(
            lambda each: each[1] <= each[2]
        )
    )
)
def test_home_is_told_of_what_the_job_holds_and_of_no_more(asked: list[tuple[int, int, int]]) -> None:
    locks, held = left(), dict.fromkeys([*range(SIZE), END], F_UNLCK)
    held[0] = F_WRLCK
    for kind, first, last in asked:
        assert locks.answer(abi.SETLK, NODE, asks(kind, first, last), 0.0)
        held |= {at: kind for at in held if first <= at <= last}
    home = dict.fromkeys(held, F_WRLCK)  # the whole file
    for first, last, kind in plan(locks):
        assert first <= last and kind != F_WRLCK, "what is locked for writing is so already"
        home |= {at: kind for at in home if first <= at <= last}
    assert home == held
    assert not locks
    assert not locks.answer(abi.SETLK, NODE, asks(F_UNLCK), 0.0)


def test_what_was_held_before_is_held_after_the_file_was_left_to_this_host_once_more() -> None:
    locks = left(F_RDLCK, 3, 4)
    assert plan(locks) == [(0, 2, F_UNLCK), (3, 4, F_RDLCK), (5, END, F_UNLCK)]
    assert locks.replied(NODE, asks(F_WRLCK, 8, 8), True, 2.0, 2.0)
    assert plan(locks) == [(0, 2, F_UNLCK), (3, 4, F_RDLCK), (5, 7, F_UNLCK), (9, END, F_UNLCK)]


def test_nobody_else_is_answered() -> None:
    locks = left()
    assert not locks.answer(abi.SETLK, NODE, asks(F_WRLCK, owner=OWNER + 1), 0.0)
    assert not locks.answer(abi.SETLK, NODE, asks(F_WRLCK, flags=abi.LK_FLOCK), 0.0)
    assert not locks.answer(abi.GETLK, NODE, asks(F_WRLCK), 0.0)
    assert not locks.answer(abi.SETLK, NODE + 1, asks(F_WRLCK), 0.0)
    assert locks.answer(abi.SETLKW, NODE, asks(F_WRLCK), 0.0)
    locks.leave()
    assert not locks.answer(abi.SETLK, NODE, asks(F_WRLCK), 0.0), "home is being told"


def test_what_is_closed_is_home_s_without_a_word() -> None:
    locks = left()
    locks.flushed(NODE, OWNER + 1)
    assert locks.has(NODE)
    locks.flushed(NODE, OWNER)
    assert not locks and plan(locks) == []
    locks = left()
    locks.closed(HANDLE + 1)
    assert locks.has(NODE)
    locks.closed(HANDLE)
    assert not locks and plan(locks) == []


def test_who_opened_the_file_meanwhile_has_its_locks_at_home() -> None:
    locks = KeptLocks()
    locks.lost(NODE, 0.2)
    assert not locks.replied(NODE, asks(F_WRLCK, 1, 1), True, 0.1, 0.3)
    assert plan(locks) == [(0, 0, F_UNLCK), (2, END, F_UNLCK)]
    assert locks.was(NODE, 0.5), "asked for before it was home's again: home may have refused that"
    assert not locks.was(NODE, 1.5)
    assert locks.replied(NODE, asks(F_WRLCK, 1, 1), True, 1.5, 1.6), "nobody else has it open any more"


def test_none_is_left_to_this_host_for_long() -> None:
    locks = left()
    assert not locks.due(IDLE / 2)
    assert locks.due(IDLE)
    assert locks.answer(abi.SETLK, NODE, asks(F_UNLCK), LONGEST - IDLE / 2)
    assert not locks.due(LONGEST - IDLE / 4)
    assert locks.due(LONGEST)


def test_what_home_refused_as_it_had_left_the_locks_to_this_host_is_asked_once_more() -> None:
    """Two processes ask at once: home grants the first all of the file, and so refuses the second."""
    ends = [os.pipe() for _ in range(3)]
    (kernel, to_kernel), (unused, _), (home, to_home) = ends
    relay = Relay(to_kernel, Link(unused, to_home), _raises)
    first, second = asks(F_WRLCK, 0, 0), asks(F_WRLCK, 5, 5, owner=OWNER + 1)
    for unique, raw in ((2, first), (4, second)):
        relay._asked[unique] = (abi.SETLK, NODE, 1, relay._known.asked(abi.SETLK, NODE), time.monotonic(), raw)
    relay.from_link(abi.reply(2, WHOLE))
    assert relay._aside.rest(HANG)
    relay.from_link(abi.failure(4, errno.EAGAIN))
    assert relay._aside.rest(HANG)
    assert os.read(kernel, 1 << 16) == abi.reply(2), "the second is told nothing so far"
    sent = [(kind, payload) for kind, payload in FrameReader().feed(os.read(home, 1 << 16))]
    assert [kind for kind, _ in sent] == [AFTER, AFTER]
    (number, _), (nothing, after) = (HEAD.unpack_from(payload) for _, payload in sent)
    unlock, again = (abi.LK_IN.unpack_from(payload, HEAD.size + abi.ARGS) for _, payload in sent)
    assert unlock[1:5] == (OWNER, 1, END, F_UNLCK)
    assert again[1:5] == (OWNER + 1, 5, 5, F_WRLCK)
    assert (number, nothing, after) == (1, 0, 1), "and after that"
    for fd in (fd for pair in ends for fd in pair):
        os.close(fd)


def _raises(error: BaseException) -> None:
    raise error
