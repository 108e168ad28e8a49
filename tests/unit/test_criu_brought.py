"""A criu that is brought to a host, however large it is."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress

from remoteio.wire import frames
from remoteio.wire.link import Link, LinkClosed
from remoteio.wire.session_link import SessionLink
from remoteio.wire.session_sender import MOST
from shim.execute.agent.criu_here import _archive


def test_one_that_is_larger_than_what_a_link_keeps_is_brought_whole() -> None:
    """Home keeps it for another stream, for which this host's end does not say what it has by itself yet."""
    parts = [os.urandom(1 << 20) for _ in range(2 * (MOST >> 20))]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        home, there = SessionLink(ours.fileno(), ours.fileno()), Link(theirs.fileno(), theirs.fileno())
        home.last(lambda why: None)

        def bring() -> None:
            with suppress(LinkClosed):  # it was not taken
                for part in (*parts, b""):
                    home.send(frames.BUNDLE, part)

        def hear() -> None:
            with suppress(LinkClosed):
                while True:
                    home.receive()

        got: list[bytes] = []
        threads = [threading.Thread(target=run) for run in (bring, hear)]
        taking = threading.Thread(target=lambda: got.append(_archive(there, [])), daemon=True)
        for thread in (*threads, taking):
            thread.start()
        taking.join(60)
        home.close()
        for thread in threads:
            thread.join()
    assert got == [b"".join(parts)]
