"""A link that lasts: what waits while it is cut, what does not, and how it ends."""

from __future__ import annotations

import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest

from remoteio.errors import ProtocolError
from remoteio.wire import frames, later, session_sender
from remoteio.wire.link import LinkClosed
from remoteio.wire.session import COUNT
from remoteio.wire.session_link import SessionLink
from remoteio.wire.session_sender import MOST
from tests.session_ends import Ends

SOON = 60.0
BULK = bytes(1 << 20)


@pytest.fixture(params=[False, True], ids=["sockets", "pipes"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    before = set(os.listdir("/proc/self/fd"))
    ends = Ends(request.param)
    yield ends
    ends.close()
    assert set(os.listdir("/proc/self/fd")) <= before, "all that it had is closed"


def at_once(run: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def ended(thread: threading.Thread) -> bool:
    thread.join(SOON)
    return not thread.is_alive()


def received(link: SessionLink, count: int) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    while len(found) < count:
        found += [(kind, bytes(payload)) for kind, payload in link.receive()]
    return found


def test_what_is_sent_while_it_is_cut_arrives_when_it_is_joined(ends: Ends) -> None:
    ends.one.send(frames.ORDER, b"before")
    ends.cut()
    ends.one.send(frames.ORDER, b"while")
    ends.one.send(frames.PING)
    waits = at_once(lambda: ends.one.receive())
    ends.rejoin()
    ends.one.send(frames.ORDER, b"after")
    assert received(ends.other, 3) == [(frames.ORDER, word) for word in (b"before", b"while", b"after")]
    ends.other.send(frames.NEWS, b"")
    assert ended(waits)


def test_what_is_for_later_goes_with_what_is_not(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(later, "MOMENT", SOON)
    for word in (b"one", b"two"):
        ends.one.send(frames.ORDER, word, later=True)
    assert not ends.other.readable(0)
    ends.one.send(frames.ORDER, b"three")
    assert [bytes(payload) for _, payload in ends.other.receive()] == [b"one", b"two", b"three"]


def test_what_is_for_later_goes_a_moment_later_or_when_it_is_pushed_or_is_much(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends.one.send(frames.ORDER, b"by itself", later=True)
    assert received(ends.other, 1) == [(frames.ORDER, b"by itself")]
    monkeypatch.setattr(later, "MOMENT", SOON)
    for how in (ends.one.push, ends.one.flush):
        ends.one.send(frames.ORDER, b"pushed", later=True)
        how()
        assert received(ends.other, 1) == [(frames.ORDER, b"pushed")]
    for _ in range(5):
        ends.one.send(frames.ORDER, bytes(session_sender.LATER // 4), later=True)
    assert len(received(ends.other, 5)) == 5


def test_what_is_for_later_survives_a_cut(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(later, "MOMENT", SOON)
    ends.one.send(frames.ORDER, b"before", later=True)
    ends.cut()
    ends.one.send(frames.ORDER, b"while", later=True)
    ends.rejoin()
    ends.one.push()
    assert received(ends.other, 2) == [(frames.ORDER, b"before"), (frames.ORDER, b"while")]


def test_each_cut_is_told_once(ends: Ends) -> None:
    for cut in range(1, 4):
        ends.one.drop("so")
        ends.one.drop("again")
        ends.other.drop()
        assert len(ends.cuts) == 2 * cut and ends.cuts[-2] == "so"
        assert ends.one.cut and ends.other.cut
        ends.rejoin()
        assert not ends.one.cut


def test_the_end_of_a_stream_is_told_by_whoever_finds_it(ends: Ends) -> None:
    reader = at_once(lambda: ends.one.receive())
    ends.other.drop("so")
    while len(ends.cuts) < 2:
        assert ends.noticed.wait(SOON)
        ends.noticed.clear()
    assert sorted(ends.cuts) == ["so", "the other end closed the link"]
    ends.rejoin()
    ends.other.send(frames.NEWS, b"")
    assert ended(reader)


def test_what_came_last_is_heard_though_nothing_can_be_said_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_sender, "UNREAD", SOON)
    (near, far_out), (far, near_out) = os.pipe(), os.pipe()
    link = SessionLink(near, near_out)
    cuts: list[str] = []
    link.last(cuts.append)
    os.close(near_out)
    os.close(far)  # as sshd does when ssh has said that nobody reads there
    os.write(far_out, frames.frame(frames.BYE))
    link.send(frames.PING)
    assert not cuts
    with pytest.raises(LinkClosed, match="the other end has ended it"):
        received(link, 1)
    link.close()
    for fd in (near, far_out):
        os.close(fd)


def test_a_stream_that_takes_nothing_and_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_sender, "UNREAD", 0.01)
    (near, far_out), (far, near_out) = os.pipe(), os.pipe()
    link = SessionLink(near, near_out)
    cut = threading.Event()
    link.last(lambda why: cut.set())
    os.close(near_out)
    os.close(far)
    link.send(frames.PING)
    assert cut.wait(SOON)
    link.close()
    for fd in (near, far_out):
        os.close(fd)


def test_who_sends_waits_when_too_much_is_kept_and_an_order_does_not(ends: Ends) -> None:
    ends.cut()
    sent = []

    def send() -> None:
        for k in range(2 * (MOST >> 20)):
            ends.one.send(frames.IMAGE, BULK)
            sent.append(k)

    sender = at_once(send)
    sender.join(0.3)
    assert sender.is_alive() and MOST <= ends.one.queued < MOST + (2 << 20)
    ends.one.send(frames.ORDER, b"now")
    ends.rejoin()
    answers = at_once(lambda: received(ends.one, 1))  # and so the acknowledgements come
    came = received(ends.other, 2 * (MOST >> 20) + 1)
    assert (frames.ORDER, b"now") in came[:3], "small ones go first"
    assert ended(sender)
    ends.other.send(frames.NEWS, b"")
    assert ended(answers)


def test_a_sign_of_life_waits_for_nothing(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_sender, "MOST", 100)
    monkeypatch.setattr(session_sender, "RESERVE", 0)
    ends.one.send(frames.ORDER, bytes(200))
    ends.one.send(frames.PING)
    ends.cut()
    ends.one.send(frames.PING)
    ends.rejoin()
    assert received(ends.other, 2) == [(frames.ORDER, bytes(200)), (frames.PING, b"")]


def test_what_was_written_by_the_links_own_thread_is_forgotten_when_it_has_arrived(ends: Ends) -> None:
    class Buffer(bytearray):
        """One that can be watched."""

    ends.other.send(frames.NEWS, b"")
    received(ends.one, 1)  # this thread is the one that receives, and so leaves what does not fit to another
    buffer = Buffer(BULK)
    watched = weakref.ref(buffer)
    ends.one.send(frames.FUSE, buffer)
    del buffer
    received(ends.other, 1)
    ends.other.send(frames.NEWS, b"")
    received(ends.one, 1)
    assert ends.one.flush(SOON)
    until = time.monotonic() + SOON
    while watched() is not None and time.monotonic() < until:
        time.sleep(0.01)  # the other thread lets go of it after it has said that it is done
    assert watched() is None


def test_a_writer_in_a_stream_that_nobody_reads_is_freed_and_what_it_wrote_arrives(ends: Ends) -> None:
    sender = at_once(lambda: ends.one.send(frames.IMAGE, BULK))
    sender.join(0.2)
    assert sender.is_alive(), "more than the stream holds"
    ends.one.drop("it is half open")
    assert ended(sender)
    ends.rejoin()
    assert received(ends.other, 1) == [(frames.IMAGE, BULK)]


def test_the_last_word_is_settled_as_soon_as_it_has_arrived(ends: Ends) -> None:
    ends.one.send(frames.EXIT, bytes(4))
    assert not ends.one.settled(0.01)
    ends.cut()
    assert not ends.one.settled(0.01)
    ends.rejoin()
    receiver = at_once(lambda: ends.one.receive())
    assert received(ends.other, 1) == [(frames.EXIT, bytes(4))]
    assert ends.one.settled(SOON) and ended(receiver)


def test_what_was_sent_after_the_last_word_is_not_waited_for(ends: Ends) -> None:
    """As what another thread grants, or gives back, while the job ends: home acknowledges that a second later."""
    ends.one.send(frames.EXIT, bytes(4))
    assert received(ends.other, 1) == [(frames.EXIT, bytes(4))]
    ends.one.send(frames.CREDIT, bytes((frames.PUSHED,)) + bytes(4))
    receiver = at_once(lambda: ends.one.receive())
    waiting = at_once(ends.one.has_last_word)
    assert ended(waiting) and ended(receiver)


def test_what_had_arrived_before_the_cut_is_settled_by_the_join(ends: Ends) -> None:
    ends.one.send(frames.EXIT, bytes(4))
    received(ends.other, 1)
    ends.cut()
    assert not ends.one.settled(0.01)
    ends.rejoin()
    assert ends.one.settled(SOON)


def test_who_says_bye_while_another_writes_ends_it_at_both_ends(ends: Ends) -> None:
    """Else the other end takes it for a cut, and dials."""
    writer = at_once(lambda: ends.one.send(frames.IMAGE, BULK))
    writer.join(0.2)
    assert writer.is_alive(), "more than the stream holds"
    ending = at_once(ends.one.bye)
    assert received(ends.other, 1) == [(frames.IMAGE, BULK)]
    with pytest.raises(LinkClosed, match="the other end has ended it"):
        while not ends.other.receive():
            pass  # perhaps no frame is whole
    assert ended(writer) and ended(ending) and not ends.cuts


def test_who_shuts_it_ends_it_at_both_ends(ends: Ends) -> None:
    ends.one.send(frames.EXIT, bytes(4))
    ends.one.shut("that was all")
    assert received(ends.other, 1) == [(frames.EXIT, bytes(4))]
    with pytest.raises(LinkClosed, match="the other end has ended it"):
        ends.other.receive()
    assert ends.one.over and ends.other.over and not ends.cuts
    for call in (lambda: ends.one.send(frames.PING), ends.one.receive, lambda: ends.one.settled(1)):
        with pytest.raises(LinkClosed, match="that was all"):
            call()
    here, there = socket.socketpair()
    with here, there, pytest.raises(LinkClosed):
        ends.one.join(here.fileno(), here.fileno(), 0)


def test_all_who_wait_while_it_is_cut_are_told_that_it_is_over(ends: Ends) -> None:
    ends.cut()
    ends.one.send(frames.NEWS, b"")
    told = []

    def wait(call: Callable[[], object]) -> None:
        with pytest.raises(LinkClosed, match="nobody is there"):
            call()
        told.append(call)

    for _ in range(MOST >> 20):
        ends.one.send(frames.IMAGE, BULK)
    calls: list[Callable[[], object]] = [
        ends.one.receive, lambda: ends.one.send(frames.IMAGE, BULK), ends.one.settled, ends.one.flush
    ]  # fmt: skip
    waiting = [at_once(lambda call=call: wait(call)) for call in calls]  # type: ignore[misc]
    ends.one.shut("nobody is there")
    assert all(map(ended, waiting)) and len(told) == len(calls)


def test_what_cannot_have_been_received_is_no_way_to_join(ends: Ends) -> None:
    ends.one.send(frames.ORDER, b"{}")
    ends.cut()
    here, there = socket.socketpair()
    with here, there, pytest.raises(ProtocolError):
        ends.one.join(here.fileno(), here.fileno(), 1000)
    assert ends.one.cut
    ends.rejoin()
    assert received(ends.other, 1) == [(frames.ORDER, b"{}")]


def test_an_acknowledgement_of_what_was_never_sent_is_an_error(ends: Ends) -> None:
    ends.other.send(frames.ACK, COUNT.pack(1 << 40))
    with pytest.raises(ProtocolError, match="acknowledges"):
        ends.one.receive()


@pytest.mark.parametrize("lasts", [False, True])
def test_until_it_lasts_and_when_it_forgoes_the_end_of_the_stream_is_the_end(lasts: bool) -> None:
    ours, theirs = socket.socketpair()
    link = SessionLink(ours.fileno(), ours.fileno())
    if lasts:
        link.last(lambda why: pytest.fail("nobody is to join it"))
        link.forgo()
    link.send(frames.PING)
    assert theirs.recv(100) == frames.frame(frames.PING)
    sender = at_once(lambda: theirs.sendall(frames.frame(frames.FUSE, BULK)))
    assert received(link, 1) == [(frames.FUSE, BULK)] and ended(sender)
    link.send(frames.PING)
    assert theirs.recv(100) == frames.frame(frames.PING), "and nothing is acknowledged"
    theirs.close()
    with pytest.raises(LinkClosed):
        link.receive()
    with pytest.raises(LinkClosed):
        link.send(frames.PING)
        link.send(frames.PING)
    link.close()
    ours.close()


def test_what_is_cut_when_it_forgoes_is_over(ends: Ends) -> None:
    ends.cut()
    ends.one.forgo()
    with pytest.raises(LinkClosed, match="nobody is to join it"):
        ends.one.receive()


def test_without_a_thread_for_it_who_joins_sends_again(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    ends.one.send(frames.ORDER, b"{}")
    ends.cut()

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    ends.rejoin()
    monkeypatch.undo()
    assert received(ends.other, 1) == [(frames.ORDER, b"{}")]


def test_who_receives_is_not_held_up_by_a_full_stream(ends: Ends) -> None:
    ends.other.send(frames.NEWS, b"go")
    received(ends.one, 1)  # this thread is the one that receives
    for _ in range(MOST // len(BULK) + 4):
        ends.one.send(frames.IMAGE, BULK)  # though nobody takes it
    assert ends.one.queued > MOST
    ends.other.send(frames.NEWS, b"on")
    assert received(ends.one, 1) == [(frames.NEWS, b"on")]


def test_who_looks_whether_there_is_something_to_receive_is_told(ends: Ends) -> None:
    assert not ends.one.readable(0.01)
    ends.other.send(frames.NEWS, b"")
    assert ends.one.readable(SOON)
    ends.cut()
    assert not ends.one.readable(0.01)
    ends.one.shut()
    assert ends.one.readable(SOON), "receive will not wait"
