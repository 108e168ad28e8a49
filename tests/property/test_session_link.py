"""Links whose streams are cut while both directions are full, many times: all arrives, and nobody waits for ever."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from remoteio.wire import frames
from remoteio.wire.session_link import SessionLink
from remoteio.wire.session_sender import MOST, RESERVE
from tests.session_ends import Ends

SOON = 60.0  # seconds, after which a test has failed


@pytest.fixture(params=[False, True], ids=["sockets", "pipes"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    ends = Ends(request.param)
    yield ends
    ends.close()


class Talk:
    """Sends numbered frames of many sizes by several threads, and receives the other's."""

    def __init__(self, link: SessionLink, count: int, seed: int) -> None:
        self.link, self.count = link, count
        self.received: dict[int, list[int]] = {}
        self.most = 0
        self.failed: list[BaseException] = []
        kinds = (frames.IMAGE, frames.STDOUT, frames.FUSE)
        self.threads = [self._start(partial(self._send, kind, seed)) for kind in kinds]
        self.receiver = self._start(self._receive)

    def _start(self, run: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=self._guarded, args=(run,), daemon=True)
        thread.start()
        return thread

    def _guarded(self, run: Callable[[], None]) -> None:
        try:
            run()
        except BaseException as e:  # a test looks at it
            self.failed.append(e)

    def _send(self, kind: int, seed: int) -> None:
        chance = random.Random(seed + kind)
        for k in range(self.count):
            size = {frames.IMAGE: 300_000, frames.STDOUT: 60_000, frames.FUSE: 200}[kind]
            body = bytes((k % 251,)) * chance.randrange(size)
            self.link.send(kind, k.to_bytes(4, "little") + body)
            self.most = max(self.most, self.link.queued)

    def _receive(self) -> None:
        while sum(map(len, self.received.values())) < 3 * self.count:
            for kind, payload in self.link.receive():
                k = int.from_bytes(payload[:4], "little")
                assert bytes(payload[4:]) == bytes((k % 251,)) * (len(payload) - 4)
                self.received.setdefault(kind, []).append(k)

    def done(self) -> None:
        until = time.monotonic() + SOON
        for thread in (*self.threads, self.receiver):
            thread.join(max(until - time.monotonic(), 0))
            assert not self.failed, self.failed
            assert not thread.is_alive()
        assert self.received == {kind: list(range(self.count)) for kind in self.received}
        assert len(self.received) == 3


@pytest.mark.parametrize("count", [400, 3000])
@pytest.mark.long(lambda count, **how: count > 400)
def test_cut_and_joined_again_while_both_directions_are_full(ends: Ends, count: int) -> None:
    chance = random.Random(11)
    talks = Talk(ends.one, count, 1), Talk(ends.other, count, 2)
    joins = 0
    while any(talk.receiver.is_alive() for talk in talks) and not (talks[0].failed or talks[1].failed):
        time.sleep(chance.random() * 0.006)
        chance.choice((ends.one, ends.other)).drop()
        ends.rejoin()
        joins += 1
    for talk in talks:
        talk.done()
        assert talk.most < MOST + RESERVE + (2 << 20)
    assert joins > count // 40


def test_neither_waits_for_the_other_when_those_that_receive_answer_as_well(ends: Ends) -> None:
    """Every frame is answered by the thread that received it, with more than a stream holds, at both ends."""
    count, answer = 60, bytes(500_000)
    asked, answered = [0, 0], [0, 0]

    def ask(link: SessionLink) -> None:
        for _ in range(count):
            link.send(frames.FUSE, bytes(300_000))

    def receive(k: int, link: SessionLink) -> None:
        while asked[k] < count or answered[k] < count:
            for kind, _ in link.receive():
                if kind == frames.FUSE:
                    asked[k] += 1
                    link.send(frames.IMAGE, answer)
                else:
                    answered[k] += 1

    links = (ends.one, ends.other)
    threads = [threading.Thread(target=ask, args=(link,), daemon=True) for link in links]
    threads += [threading.Thread(target=receive, args=pair, daemon=True) for pair in enumerate(links)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + SOON
    for thread in threads:
        thread.join(max(until - time.monotonic(), 0))
        assert not thread.is_alive()
    assert asked == answered == [count, count]
