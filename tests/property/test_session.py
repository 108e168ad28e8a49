"""Whatever cuts the streams of a session, and wherever: each frame arrives once, in order, and little is kept."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remoteio.errors import ProtocolError
from remoteio.wire.frames import ACK, FUSE, HEADER, LARGE, FrameReader
from remoteio.wire.session import COUNT, Session

FULL = 3000  # bytes kept, from which on an end sends nothing new
OWED = 500  # bytes received that are acknowledged by themselves


class Pipe:
    """One direction of a stream: what is put into it comes out later, in pieces, until it is cut."""

    def __init__(self) -> None:
        self.bytes = bytearray()


class End:
    """A session, the frames that it still has to send, and those that it has received."""

    def __init__(self, to_send: list[bytes]) -> None:
        self.session, self.reader = Session(), FrameReader()
        self.to_send, self.received = deque(to_send), list[bytes]()
        self.out = self.into = Pipe()

    def put(self, parts: list[bytes | memoryview]) -> None:
        self.session.keep(parts)
        self.out.bytes += b"".join(parts)

    def act(self) -> None:
        """Send the next frame, unless too much is kept; or an acknowledgement, which waits for nothing."""
        if self.session.owed >= OWED:
            self.put([self.session.tell()])
        if self.to_send and self.session.held < FULL:
            payload = self.to_send.popleft()
            head = HEADER.pack(len(payload), FUSE, 0, 0, 0)
            self.put([head, memoryview(payload)] if len(payload) > 50 else [head + payload])

    def take(self, n: int) -> None:
        """Receive `n` bytes, if so many have come."""
        data = bytes(self.into.bytes[:n])
        del self.into.bytes[: len(data)]
        self.session.received += len(data)
        for kind, payload in self.reader.feed(data):
            if kind == ACK:
                self.session.told(payload)
            else:
                self.received.append(bytes(payload))
        assert self.session.held < 5 * FULL


def rejoin(one: End, other: End) -> None:
    """Cut the stream, with all that is under way, and put another in its place."""
    for end, far in ((one, other), (other, one)):
        end.out = far.into = Pipe()
    for end, far in ((one, other), (other, one)):
        end.out.bytes += b"".join(end.session.rejoin(far.session.received))


PAYLOADS = st.lists(st.binary(max_size=1500), max_size=30)
# who acts, and what: sends, takes so many bytes, loses the stream
STEPS = st.lists(st.tuples(st.booleans(), st.sampled_from(("act", "take", "cut")), st.integers(1, 700)), max_size=200)


@settings(max_examples=200)
@given(PAYLOADS, PAYLOADS, STEPS)
def test_every_frame_arrives_once_and_in_order(there: list[bytes], back: list[bytes], steps: list) -> None:
    ends = End(there), End(back)
    rejoin(*ends)
    for first, what, n in steps:
        if what == "cut":
            rejoin(*ends)
        elif what == "act":
            ends[first].act()
        else:
            ends[first].take(n)
    while ends[0].to_send or ends[1].to_send or ends[0].out.bytes or ends[1].out.bytes:
        for end in ends:
            end.act()
            end.take(1000)
    assert ends[0].received == back and ends[1].received == there


@given(st.lists(st.binary(min_size=1, max_size=100), min_size=1, max_size=10), st.data())
def test_what_is_sent_again_is_what_lacks(sent: list[bytes], data: st.DataObject) -> None:
    session, stream = Session(), b"".join(sent)
    session.keep(list(sent))
    acknowledged = data.draw(st.integers(0, len(stream)))
    session.told(COUNT.pack(acknowledged))
    theirs = data.draw(st.integers(acknowledged, len(stream)))
    assert b"".join(session.rejoin(theirs)) == stream[theirs:]
    assert session.acknowledged == theirs
    assert b"".join(session.rejoin(theirs)) == stream[theirs:], "as often as need be"


def test_what_no_end_can_have_received_is_an_error() -> None:
    session = Session()
    session.keep([bytes(10)])
    session.told(COUNT.pack(5))
    for theirs in (4, 11):
        with pytest.raises(ProtocolError):
            session.told(COUNT.pack(theirs))
        with pytest.raises(ProtocolError):
            session.rejoin(theirs)
    with pytest.raises(ProtocolError, match="has 4 bytes, not 8"):
        session.told(bytes(4))


def test_an_acknowledgement_from_before_the_cut_comes_after_it() -> None:
    session = Session()
    session.keep([bytes(10)])
    session.rejoin(8)
    session.told(COUNT.pack(3))  # was sent first, and lost with the stream
    assert session.acknowledged == 8
    session.told(COUNT.pack(9))
    assert session.acknowledged == 9


def test_nothing_is_copied_and_nothing_kept_that_was_acknowledged() -> None:
    session, payload = Session(), bytearray(LARGE)
    session.keep([b"head", memoryview(payload)])
    again = session.rejoin(0)
    assert isinstance(again[1], memoryview) and again[1].obj is payload
    session.told(COUNT.pack(session.sent))
    assert session.held == 0 and session.rejoin(session.sent) == []


def test_it_forgoes() -> None:
    session = Session()
    session.keep([bytes(10)])
    session.received = 7
    assert session.held and session.owed == 7
    session.forgo()
    session.keep([bytes(10)])
    assert session.held == session.owed == 0 and session.sent == 20
