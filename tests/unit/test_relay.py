"""The relay's tables, entered by several threads at once: what crosses on its way is answered once and undone once."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from remoteio.execute.at_once import COPIED_HERE
from remoteio.execute.leased_names import is_absent, named
from remoteio.execute.relay import Relay
from remoteio.wire import fetched
from remoteio.wire import fuse_abi as abi
from remoteio.wire.frames import CREDIT, FUSE, PUSHED, FrameReader
from remoteio.wire.link import Link

NOBODY = (1 << 22) + 1  # beyond the largest pid: that process has died
ENTRY = abi.ENTRY.pack(5, 0, 1, 1, 0, 0) + bytes(abi.ATTR.size)


class Ends:
    """A relay, what it has written to the kernel, and what it has sent home."""

    def __init__(self) -> None:
        self._kernel, to_kernel = os.pipe()
        unused, self._other = os.pipe()
        self._home, to_home = os.pipe()
        self._fds = (self._kernel, to_kernel, unused, self._other, self._home, to_home)
        self.relay = Relay(to_kernel, Link(unused, to_home), lambda error: None)

    def told(self) -> list[tuple[int, int]]:
        """(errno, unique) of each message to the kernel. They must all be without a body."""
        os.set_blocking(self._kernel, False)
        try:
            data = os.read(self._kernel, 1 << 16)
        except BlockingIOError:
            return []
        return [(-error, unique) for _, error, unique in abi.OUT_HEADER.iter_unpack(data)]

    def sent(self) -> list[int]:
        """The operations of the requests that went home."""
        os.set_blocking(self._home, False)
        try:
            frames = FrameReader().feed(os.read(self._home, 1 << 16))
        except BlockingIOError:
            return []
        assert all(kind == FUSE for kind, _ in frames)
        return [abi.Request(payload).op for _, payload in frames]

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


class Crossing(dict[int, tuple[int, int, int, int, float]]):
    """What is asked; `meanwhile` happens in another thread right after something has been taken out."""

    meanwhile: Callable[[], None] | None = None

    def pop(self, key: int, default: Any = None) -> Any:
        found = super().pop(key, default)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return found


def test_a_reply_that_crosses_the_answer_to_a_dying_process_is_undone(ends: Ends) -> None:
    asked = ends.relay._asked = Crossing({9: (abi.LOOKUP, 1, NOBODY, 0, 0.0, b"")})
    asked.meanwhile = lambda: ends.relay.from_link(abi.reply(9, ENTRY))
    ends.relay._interrupt(9)
    assert ends.told() == [(errno.EINTR, 9)]
    assert ends.sent() == [abi.FORGET], "the submit side has counted a lookup"
    assert not ends.relay._asked and not ends.relay._abandoned


@pytest.mark.parametrize(("op", "size"), [(abi.UNLINK, 0), (abi.RMDIR, 0), (abi.MKDIR, abi.MKDIR_IN.size)])
def test_a_name_that_home_has_changed_for_a_dying_process_is_looked_up_anew(ends: Ends, op: int, size: int) -> None:
    raw, leases = abi.request(op, 7, bytes(size) + b"name\0", 9), ends.relay._known.leases
    ends.relay._asked[9] = (op, 7, NOBODY, ends.relay._known.asked(op, 7), 0.0, raw)
    ends.relay._interrupt(9)
    leases.name(7, b"name", 0 if size else 8)  # as another request tells before home has done this one
    leases.heard, reply = float("inf"), abi.reply(9, ENTRY) if size else abi.reply(9)
    ends.relay.from_link(reply)
    assert not is_absent(leases, 7, b"name") and not named(leases, 7, b"name")


def test_an_interrupt_of_what_another_thread_is_about_to_send_goes_home(ends: Ends) -> None:
    raw = abi.request(abi.INTERRUPT, 0, abi.INTERRUPT_IN.pack(9), 9 | 1)
    assert not ends.relay._special(abi.INTERRUPT, 9 | 1, 0, raw), "home knows whether it has come"
    assert not ends.told() and not ends.sent()


def test_a_reply_before_the_answer_to_a_dying_process_is_the_answer(ends: Ends) -> None:
    ends.relay._asked[9] = (abi.ACCESS, 1, NOBODY, 0, 0.0, b"")
    ends.relay.from_link(abi.reply(9))
    ends.relay._interrupt(9)
    assert ends.told() == [(0, 9)] and ends.sent() == []
    assert not ends.relay._asked and not ends.relay._abandoned


@pytest.mark.parametrize("changes", [False, True])
def test_an_access_list_that_others_change_while_it_is_told_is_not_kept_by_the_kernel(
    changes: bool, ends: Ends
) -> None:
    relay, raw = ends.relay, abi.request(abi.GETXATTR, 5, abi.GETXATTR_IN.pack(99, 0) + b"system.posix_acl_access\0", 9)
    relay._asked[9] = (abi.GETXATTR, 5, 1, relay._known.asked(abi.GETXATTR, 5), relay.now(), raw)
    if changes:
        relay._known.broken([(5, b"")])
    relay.from_link(told := abi.reply(9, b"the list"))
    forgets = abi.inval_inode(5, -1) if changes else b""
    assert os.read(ends._kernel, 1 << 16) == forgets + told, "before it: what is being fetched then is not kept"


def test_that_a_file_has_no_capability_is_learnt_before_a_change_of_it_can_go_out(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay, held = ends.relay, []
    monkeypatch.setattr(relay._known, "replied", lambda *args: held.append(relay._order.locked()))
    relay._asked[9] = (abi.GETXATTR, 5, 1, relay._known.asked(abi.GETXATTR, 5), 0.0, b"")
    relay.from_link(abi.failure(9, errno.ENODATA))
    assert held == [True]


@pytest.mark.parametrize(("trip", "size", "here"), [
    (0.02, 100, True), (0.02, COPIED_HERE, True), (0.02, COPIED_HERE + 1, False), (0.02, -1, False),
    (0.001, 100, False),
])  # fmt: skip
def test_a_small_file_is_copied_by_the_kernel_where_home_is_far(trip: float, size: int, here: bool, ends: Ends) -> None:
    """Also once an OPEN was answered in no time, as its file had been asked for before, and came just then."""
    relay = ends.relay
    relay.begins(trip)
    raw = abi.request(abi.OPEN, 7, abi.OPEN_IN.pack(0, 0), 9)
    relay._known.files._asked[7] = 1, [(9, raw)]
    relay._known._own(abi.FETCH, 7, b"", relay.now() - trip, relay._asked)
    relay._asked[9] = (abi.OPEN, 7, 1, relay._known.asked(abi.OPEN, 7), relay.now(), raw)
    attr = abi.ATTR.pack(7, 1, *[0] * 14)
    relay.from_link(abi.reply(next(iter(relay._asked)), fetched.pack(3, attr, 0, b"", b"x")))
    assert 9 not in relay._asked
    if size >= 0:
        relay._known.learn(5, abi.ATTR.pack(5, size, *[0] * 14), b"", relay.now())
    raw = abi.request(abi.COPY_FILE_RANGE_64, 5, abi.COPY_IN.pack(1, 0, 6, 2, 0, 1 << 40, 0), 10)
    os.set_blocking(ends._kernel, False)
    os.read(ends._kernel, 1 << 16)
    assert relay._at_once(abi.COPY_FILE_RANGE_64, 10, 5, raw) is here
    assert ends.told() == ([(errno.EOPNOTSUPP, 10)] if here else [])


@pytest.mark.parametrize(("trip", "asks"), [(0.0, False), (0.001, True), (0.02, True)])
def test_home_is_asked_for_what_the_job_may_use_once_it_is_known_how_far_it_is(
    trip: float, asks: bool, ends: Ends
) -> None:
    ends.relay.begins(trip)
    os.set_blocking(ends._home, False)
    try:
        sent = FrameReader().feed(os.read(ends._home, 1 << 16))
    except BlockingIOError:
        sent = []
    assert [(kind, payload[0]) for kind, payload in sent] == ([(CREDIT, PUSHED)] if asks else [])


def test_the_roots_attributes_are_asked_for_ahead_of_the_mount(ends: Ends) -> None:
    relay, root = ends.relay, abi.GETATTR_IN.pack(0, 0, 0)
    assert not relay._special(abi.INIT, 1, 0, abi.request(abi.INIT, 0, bytes(16), 1)), "INIT itself is passed on"
    assert ends.sent() == [abi.GETATTR]
    (asked,) = relay._asked
    relay.from_link(abi.reply(asked, abi.ATTR_OUT.pack(1, 0, 0) + bytes(range(88))))
    request = memoryview(abi.request(abi.GETATTR, abi.ROOT_ID, root, 2))
    told = relay._known.answer(abi.GETATTR, 2, abi.ROOT_ID, request, time.monotonic())
    assert told is not None and told.endswith(bytes(range(88))) and not relay._asked and ends.told() == []


@pytest.mark.parametrize("reply", [abi.failure(0, errno.EIO), abi.reply(0, bytes(104))], ids=["failed", "not to keep"])
def test_attributes_of_the_root_that_are_not_told_are_asked_for_again(ends: Ends, reply: bytes) -> None:
    ends.relay._special(abi.INIT, 1, 0, abi.request(abi.INIT, 0, bytes(16), 1))
    (asked,) = ends.relay._asked
    size, error, _ = abi.OUT_HEADER.unpack_from(reply)
    ends.relay.from_link(abi.OUT_HEADER.pack(size, error, asked) + reply[abi.OUT_HEADER.size :])
    request = memoryview(abi.request(abi.GETATTR, abi.ROOT_ID, abi.GETATTR_IN.pack(0, 0, 0), 2))
    assert ends.relay._known.answer(abi.GETATTR, 2, abi.ROOT_ID, request, time.monotonic()) is None
