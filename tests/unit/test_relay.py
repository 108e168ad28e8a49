"""The relay's tables, entered by several threads at once: what crosses on its way is answered once and undone once."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from remoteio.execute.relay import Relay
from remoteio.wire import fuse_abi as abi
from remoteio.wire.frames import FUSE, FrameReader
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


def test_a_reply_before_the_answer_to_a_dying_process_is_the_answer(ends: Ends) -> None:
    ends.relay._asked[9] = (abi.ACCESS, 1, NOBODY, 0, 0.0, b"")
    ends.relay.from_link(abi.reply(9))
    ends.relay._interrupt(9)
    assert ends.told() == [(0, 9)] and ends.sent() == []
    assert not ends.relay._asked and not ends.relay._abandoned


def test_that_a_file_has_no_capability_is_learnt_before_a_change_of_it_can_go_out(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay, held = ends.relay, []
    monkeypatch.setattr(relay._known, "no_capability", lambda node, now: held.append(relay._order.locked()))
    relay._asked[9] = (abi.GETXATTR, 5, 1, relay._known.asked(abi.GETXATTR, 5), 0.0, b"")
    relay.from_link(abi.failure(9, errno.ENODATA))
    assert held == [True]
