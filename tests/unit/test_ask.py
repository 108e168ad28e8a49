"""What the agent asks of init, and what comes back."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from remoteio.errors import RexecError
from shim.execute.agent.job_tree import Gone, Mobile
from shim.execute.init import messages
from shim.execute.init.messages import Message


@pytest.fixture
def agent() -> Iterator[SimpleNamespace]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield SimpleNamespace(
            sandbox=SimpleNamespace(init=ours), theirs=theirs, replies=queue.SimpleQueue(), _asking=threading.Lock(),
            _owed=0,
        )  # fmt: skip


def ask(agent: SimpleNamespace, message: Message, limit: float = 10.0) -> bytes:
    return Mobile.ask(agent, message, limit=limit)


def test_an_answer_that_came_too_late_is_not_taken_for_the_next(agent: SimpleNamespace) -> None:
    with pytest.raises(RexecError, match="does not answer"):
        ask(agent, messages.WRITE_BACK, limit=0.01)
    for what in ((messages.WRITTEN, b"late"), (messages.IPC, b"0")):
        agent.replies.put(what)
    assert ask(agent, messages.ASK_IPC) == b"0"


def test_what_init_cannot_do_is_said(agent: SimpleNamespace) -> None:
    agent.replies.put((messages.FAULT, b"out of memory"))
    with pytest.raises(RexecError, match="cannot do its part: out of memory"):
        ask(agent, messages.DUMP)


def test_the_end_is_heard_by_all_who_ask(agent: SimpleNamespace) -> None:
    agent.replies.put((None, b""))
    for _ in range(2):
        with pytest.raises(Gone):
            ask(agent, messages.DUMP)
    agent.theirs.close()
    with pytest.raises(Gone):
        ask(agent, messages.DUMP)
