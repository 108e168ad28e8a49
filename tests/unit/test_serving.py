"""The agent hears what init said last, whatever init left unread."""

from __future__ import annotations

import socket

from shim.execute.agent.agent import next_word


def test_the_status_is_heard_of_an_init_that_ended_with_a_signal_unread() -> None:
    ours, inits = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        ours.send(b"K15")
        inits.send(b"E1792")
        inits.close()
        assert next_word(ours) == (b"E1792", [])
        assert next_word(ours) == (b"", [])
