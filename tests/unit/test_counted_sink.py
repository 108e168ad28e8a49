"""A job that can be checkpointed reads its input no more: that is told, and nobody is kept from its turn."""

from __future__ import annotations

import os
import threading
from typing import Any

from remoteio.wire import frames
from shim.execute.agent.counted_streams import CountedSink


def test_who_receives_may_give_it_more_while_its_end_is_told() -> None:
    """A link whose stream is cut and full waits; what ends the wait comes by the thread that also calls ``put``."""
    sent: list[tuple[int, bytes]] = []
    put, failed = threading.Event(), list[BaseException]()

    class Link:
        def send(self, kind: int, payload: bytes) -> None:
            assert put.wait(60)
            sent.append((kind, payload))

    link: Any = Link()
    reading, writing = os.pipe()
    os.close(reading)
    sink = CountedSink(link, frames.STDIN, writing)
    told = threading.Event()

    class Told(threading.Thread):
        def run(self) -> None:
            try:
                sink._run()
            except BaseException as e:  # the test looks at it
                failed.append(e)
            told.set()

    thread = Told(daemon=True)
    sink.put(b"nobody reads this")
    thread.start()
    while not sink.ended:
        assert not told.wait(0.01)

    def more() -> None:
        sink.put(b"nor this")
        put.set()

    receiver = threading.Thread(target=more, daemon=True)
    receiver.start()
    assert told.wait(60) and not failed
    assert sent == [(frames.CLOSED, bytes((frames.STDIN,)))]
    for ended in (thread, receiver):
        ended.join(60)
    os.close(writing)
