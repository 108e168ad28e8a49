"""The signs of life of a session."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from remoteio.wire import frames
from shim.submit import host_session, told_ahead
from shim.submit.host_session import HostSession


class SlowLink:
    """Sends no sign of life until it may `go`."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.giving = threading.Event()
        self.go = threading.Event()

    def send(self, kind: int, *payload: bytes, later: bool = False) -> None:
        if kind == frames.PING:
            self.giving.set()
            self.go.wait(60)
        self.sent.append(kind)

    def flush(self, timeout: float) -> bool:
        """All has been sent."""
        return True


def test_no_sign_of_life_follows_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that were on its way when this process is stopped would count, and the job be ended for the silence after."""
    monkeypatch.setattr(host_session.lease, "PULSE", 0.001)
    link: Any = SlowLink()
    nobody: Any = None
    spec: Any = SimpleNamespace(trip=0, cwd=b"/")
    session = HostSession(link, spec, nobody)
    threads = [threading.Thread(target=session._pulse), threading.Thread(target=session.pause)]
    threads[0].start()
    assert link.giving.wait(60)
    threads[1].start()
    threads[1].join(0.1)
    link.go.set()
    threads[1].join(60)
    session._over.set()
    threads[0].join(60)
    assert link.sent[-1] == frames.PAUSE


def test_a_change_that_waited_behind_what_is_sent_ahead_is_done() -> None:
    """No other thread is to be had: what is sent ahead is made by the one that answers, and the change comes after."""
    done: list[Any] = []
    nobody: Any = None
    spec: Any = SimpleNamespace(trip=0, cwd=b"/")
    link: Any = SlowLink()
    session: Any = HostSession(link, spec, nobody)
    session._threads = SimpleNamespace(aside=lambda item: False)
    session.files = SimpleNamespace(
        ahead=SimpleNamespace(
            saw=lambda export, request: request.unique == 1, made=lambda item, *_: done.append(item) or ()
        )
    )
    session.export = SimpleNamespace(
        ordered=SimpleNamespace(
            request=lambda each: SimpleNamespace(unique=int(each)), done=lambda unique: [b"2"] if unique == 1 else []
        ),
        answered=lambda request: done.append(request.unique),
        behind=True,
    )
    session._answer(b"1")
    assert done == [1, told_ahead.PUSH_DUE, 2]
