"""A link that is over sends nothing more: the numbers of its descriptors may be another's by then."""

from __future__ import annotations

import queue
import socket
import threading

import pytest

from remoteio.wire import frames
from remoteio.wire.link import Link, LinkClosed, Window


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
    closer.join(60)
    assert ended and not closer.is_alive()
    writer.join()
    ours.close()
    other.close()


def test_what_several_take_of_a_window_is_never_more_than_was_given() -> None:
    window, under_way, taken = Window(1000), queue.SimpleQueue[int](), []

    def take(rest: int) -> None:
        while rest:
            n = window.take(min(rest, 70))
            rest -= n
            under_way.put(n)

    takers = [threading.Thread(target=take, args=(10_000,)) for _ in range(3)]
    for taker in takers:
        taker.start()
    while sum(taken) < 30_000:
        taken.append(under_way.get(timeout=60))
        window._check()
        window.give(taken[-1])
    for taker in takers:
        taker.join(60)
    window._check()
    assert window.take(2000) == 1000, "all of it has come back"
    window._check()
