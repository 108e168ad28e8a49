"""A link that is over sends nothing more: the numbers of its descriptors may be another's by then."""

from __future__ import annotations

import socket
import threading

import pytest

from remoteio.wire import frames
from remoteio.wire.link import Link, LinkClosed


def test_nothing_is_sent_over_a_link_that_is_closed() -> None:
    ours, other = socket.socketpair()
    link = Link(ours.fileno(), ours.fileno())
    link.close()
    with pytest.raises(LinkClosed, match="it is over here"):
        link.send(frames.PING)
    ours.close()
    assert other.recv(100) == b""
    other.close()


def test_close_waits_for_the_one_that_writes() -> None:
    ours, other = socket.socketpair()
    link = Link(ours.fileno(), ours.fileno())
    ended = []

    def send() -> None:
        try:
            link.send(frames.IMAGE, bytes(1 << 22))
        except LinkClosed:
            ended.append(True)

    writer = threading.Thread(target=send)
    writer.start()
    assert len(other.recv(1, socket.MSG_PEEK)) == 1  # it writes, and more than fits
    closer = threading.Thread(target=link.close)
    closer.start()
    closer.join(0.2)
    assert closer.is_alive()
    ours.shutdown(socket.SHUT_RDWR)
    closer.join(10)
    assert ended and not closer.is_alive()
    writer.join()
    ours.close()
    other.close()
