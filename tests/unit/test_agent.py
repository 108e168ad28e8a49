"""The agent hears what init said last, whatever init left unread."""

from __future__ import annotations

import socket

from shim.execute.agent.agent import next_word
from shim.execute.init import messages


def test_the_status_is_heard_of_an_init_that_ended_with_a_signal_unread() -> None:
    ours, inits = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        messages.send(ours, messages.SIGNAL, b"15")
        messages.send(inits, messages.ENDED, b"1792")
        inits.close()
        assert next_word(ours) == (messages.ENDED, b"1792", [])
        assert next_word(ours) == (None, b"", [])
