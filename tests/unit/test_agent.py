"""The agent hears what init said last, whatever init left unread; and says what is wrong with what it is told."""

from __future__ import annotations

import socket

import pytest

from remoteio.wire import frames
from remoteio.wire.link import Link
from shim.execute.agent.agent import next_word
from shim.execute.init import messages
from shim.execute.main import main


def test_the_status_is_heard_of_an_init_that_ended_with_a_signal_unread() -> None:
    ours, inits = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        messages.send(ours, messages.SIGNAL, b"15")
        messages.send(inits, messages.ENDED, b"1792")
        inits.close()
        assert next_word(ours) == (messages.ENDED, b"1792", [])
        assert next_word(ours) == (None, b"", [])


@pytest.mark.parametrize("said", [b"no frame", frames.frame(frames.START, b"no job"), frames.frame(frames.PING)])
def test_home_is_told_what_it_said_wrong(said: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(said)
        read_fd = theirs.detach()
        assert main(read_fd, read_fd) == 1
        link = Link(ours.fileno(), ours.fileno())
        ((kind, payload),) = link.receive()
        assert kind == frames.FAIL and payload[:4] == b"\x7d\0\0\0" and b"rexec" in payload[4:]
