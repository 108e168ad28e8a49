"""What home may have to keep is bounded on the host: a large request waits there while others are under way."""

from __future__ import annotations

import threading

import pytest

from remoteio.execute import sent
from remoteio.execute.sent import Sent
from remoteio.wire import fuse_abi as abi
from remoteio.wire.behind import SMALL
from tests.until import HANG

LARGE = abi.request(abi.WRITE, 1, bytes(SMALL), 2)


def waiting(made: Sent, size: int) -> threading.Event:
    """Tell when a request of that size may be sent."""
    may = threading.Event()

    def wait() -> None:
        made.await_room(size)
        may.set()

    threading.Thread(target=wait, daemon=True).start()
    return may


def test_a_large_request_waits_until_home_has_answered_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sent, "ROOM_SENT", 2 * len(LARGE))
    made = Sent()
    for unique in (2, 4):
        assert waiting(made, len(LARGE)).wait(HANG)
        made.sends(abi.request(abi.WRITE, 1, bytes(SMALL), unique))
    third = waiting(made, len(LARGE))
    assert waiting(made, SMALL - 1).wait(HANG), "small ones wait for nothing"
    made.answered(7)
    assert not third.wait(0.05)
    made.answered(4)
    assert third.wait(HANG)


def test_what_is_small_or_has_no_reply_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sent, "ROOM_SENT", 1)
    made = Sent()
    made.sends(abi.request(abi.WRITE, 1, bytes(8), 2))
    made.sends(abi.request(abi.BATCH_FORGET, 0, bytes(SMALL), 4))
    assert waiting(made, len(LARGE)).wait(HANG)
