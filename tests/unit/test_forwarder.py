"""Connections over a link: two forwarders, a link between them, and real sockets at both ends."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from remoteio.errors import ProtocolError, RexecError
from remoteio.wire import frames
from remoteio.wire.link import Link, LinkClosed
from shim.submit import forwarding
from shim.wire import forwards, loopback
from shim.wire.forwarder import Forwarder
from shim.wire.forwards import Connections, Forward, Side
from tests.until import HANG, until

MINE = frozenset((os.geteuid(),))


def fails(error: BaseException) -> None:
    raise error


class Ways:
    """Ports that lead from one end to the other: `there` is the host's, `here` is home."""

    def __init__(self, *asked: Forward, users: frozenset[int] = MINE) -> None:
        ends = socket.socketpair()
        self.links = [Link(end.fileno(), end.fileno()) for end in ends]
        self._sockets = ends
        self._threads: list[threading.Thread] = []
        self.here, self.there = (Forwarder(Side(list(asked), at_home, users)) for at_home in (True, False))
        self.errors: list[BaseException] = []
        for link, end in zip(self.links, (self.here, self.there), strict=True):
            end.listen()
            end.begin(link)
            end.start(fails)
            self._threads.append(threading.Thread(target=self._receive, args=(link, end)))
            self._threads[-1].start()

    def _receive(self, link: Link, end: Forwarder) -> None:
        with suppress(LinkClosed):
            while True:
                for kind, payload in link.receive():
                    assert kind == frames.FORWARD
                    try:
                        end.put(payload)
                    except ProtocolError as error:
                        self.errors.append(error)

    def close(self) -> None:
        for end in (self.there, self.here):
            end.stop()
            assert end.done.wait(HANG)
        for link in self.links:
            link.shut()
            link.close()
        for thread in self._threads:
            thread.join()
        for end_of_link in self._sockets:
            end_of_link.close()
        assert self.errors == []


def free() -> tuple[str, int]:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    return f"127.{os.getpid() % 250 + 1}.{port % 250 + 1}.{port // 250 % 250 + 1}", port


@pytest.fixture
def target() -> Iterator[socket.socket]:
    with socket.create_server(free()) as server:
        server.settimeout(HANG)
        yield server


def connected(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, HANG)


def all_of(sock: socket.socket) -> bytes:
    found = bytearray()
    while data := sock.recv(1 << 20):
        found += data
    return bytes(found)


@pytest.fixture(params=[False, True], ids=["from the host", "from home"])
def ways(request: pytest.FixtureRequest, target: socket.socket) -> Iterator[Ways]:
    made = Ways(Forward(request.param, free(), target.getsockname()))
    yield made
    made.close()


def door(ways: Ways) -> tuple[str, int]:
    return next(iter((ways.here._listeners._found or ways.there._listeners._found).values()))[1].listen


def test_both_ways_at_once_byte_for_byte_and_each_end_by_itself(ways: Ways, target: socket.socket) -> None:
    asked, answered = os.urandom(3_000_000), os.urandom(2_000_000)
    with connected(door(ways)) as client, target.accept()[0] as server:
        writes = threading.Thread(target=lambda: (client.sendall(asked), client.shutdown(socket.SHUT_WR)))
        writes.start()
        server.settimeout(HANG)
        assert all_of(server) == asked  # it has its end, and answers all the same
        server.sendall(answered)
        server.shutdown(socket.SHUT_WR)
        assert all_of(client) == answered
        writes.join()
    for end in (ways.here, ways.there):
        until(lambda end=end: not end._carried, "both have ended it, and it is carried on")  # type: ignore[misc]


def test_who_was_killed_to_go_on_elsewhere_has_not_ended_what_he_had(target: socket.socket) -> None:
    """What a killed job's sockets say is no end of its own: who waits at home is to connect anew, not to go home."""

    def resets() -> None:
        raise ConnectionResetError

    made = Ways(Forward(False, free(), target.getsockname()))
    try:
        with connected(door(made)) as job, target.accept()[0] as home:
            job.sendall(b"so far")
            assert home.recv(10) == b"so far"
            made.there.before = resets
            job.close()
            home.settimeout(HANG)
            with pytest.raises(ConnectionResetError):
                home.recv(1)
    finally:
        made.close()


def test_where_nobody_listens_it_is_reset(ways: Ways, target: socket.socket) -> None:
    target.close()
    with pytest.raises(ConnectionResetError), connected(door(ways)) as client:
        client.recv(1)


def test_a_reset_goes_through(ways: Ways, target: socket.socket) -> None:
    client = connected(door(ways))
    with target.accept()[0] as server:
        server.settimeout(HANG)
        client.sendall(b"x")
        assert server.recv(1) == b"x"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        with pytest.raises(ConnectionResetError):
            server.recv(1)


def test_who_reads_nothing_holds_up_nobody_and_little_is_kept(ways: Ways, target: socket.socket) -> None:
    with connected(door(ways)) as slow, target.accept()[0] as deaf:
        slow.setblocking(False)
        sent, full = 0, 0
        while full < 50:  # it may only be about to be read
            try:
                sent += slow.send(bytes(1 << 16))
                full = 0
            except BlockingIOError:
                full += 1
                with connected(door(ways)) as quick, target.accept()[0] as server:
                    quick.sendall(b"quick")
                    server.settimeout(HANG)
                    assert server.recv(5) == b"quick"
        kept = [len(c.out) for end in (ways.here, ways.there) for c in end._connections.known.values()]  # type: ignore[union-attr]
        assert max(kept) <= forwards.WINDOW
        deaf.settimeout(HANG)
        slow.setblocking(True)
        slow.shutdown(socket.SHUT_WR)
        assert len(all_of(deaf)) == sent


def test_another_user_is_turned_away(target: socket.socket) -> None:
    made = Ways(Forward(False, free(), target.getsockname()), users=frozenset((os.geteuid() + 1,)))
    with pytest.raises(ConnectionResetError), connected(door(made)) as client:
        client.recv(1)
    target.setblocking(False)
    with pytest.raises(BlockingIOError):
        target.accept()
    made.close()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["4", "6"])
def test_whose_a_connection_is(target: socket.socket, family: socket.AddressFamily) -> None:
    address, port = target.getsockname()
    with socket.socket(family) as client:
        client.connect((f"::ffff:{address}" if family == socket.AF_INET6 else address, port))
        server, whose = target.accept()
        server.close()
        assert loopback.owner(whose, (address, port)) == os.geteuid()
    assert loopback.owner(whose, (address, port)) is None


def test_what_goes_over_another_link_is_reset(ways: Ways, target: socket.socket) -> None:
    with connected(door(ways)) as client, target.accept()[0] as server:
        ways.here.begin(ways.links[0])
        ways.there.begin(ways.links[1])
        for each in (client, server):
            each.settimeout(HANG)
            with pytest.raises(ConnectionResetError):
                each.recv(1)


def test_without_a_link_it_is_reset(ways: Ways) -> None:
    for end in (ways.here, ways.there):
        end.begin(None)
    with pytest.raises(ConnectionResetError), connected(door(ways)) as client:
        client.recv(1)


def test_what_was_sent_last_is_written_before_the_end(ways: Ways, target: socket.socket) -> None:
    last = os.urandom(400_000)
    with connected(door(ways)) as client:
        server = target.accept()[0]
        sends = client if ways.there._listeners._found else server  # who is at the host, where the job ends
        reads = server if sends is client else client
        sends.sendall(last)
        sends.close()
        ways.there.stop()
        assert ways.there.done.wait(HANG)
        ways.links[1].send(frames.FORWARD)  # no more come
        reads.settimeout(HANG)
        assert all_of(reads) == last
        reads.close()


def test_no_more_are_let_in_than_so_many(ways: Ways, target: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shim.wire.forwarder.MOST", 2)
    clients = [connected(door(ways)) for _ in range(3)]
    servers = {}
    for number in range(2):
        clients[number].sendall(bytes((number,)))
    for _ in range(2):
        server = target.accept()[0]
        server.settimeout(HANG)
        servers[server.recv(1)[0]] = server
    target.settimeout(0.3)
    with pytest.raises(TimeoutError):
        target.accept()
    target.settimeout(HANG)
    for each in (clients[0], servers[0]):
        each.close()
    clients[2].sendall(b"third")
    third = target.accept()[0]
    third.settimeout(HANG)
    assert third.recv(5) == b"third"
    for each in (*clients, *servers.values(), third):
        each.close()


def test_a_port_that_is_taken_is_told_in_a_sentence(target: socket.socket) -> None:
    end = Forwarder(Side([Forward(True, target.getsockname(), free())], True, MINE))
    with pytest.raises(RexecError, match=r"--forward: nothing can listen at 127\.\S+ of .*in use"):
        end.listen()
    end.start(fails)
    end.stop()
    assert end.done.wait(HANG)


# What is said by a host that means ill, to home, which has one port that leads there and one that leads here.

THERE, HERE = Forward(False, ("127.0.0.1", 1), ("127.0.0.1", 2)), Forward(True, ("127.0.0.1", 3), ("127.0.0.1", 4))


class Nobody:
    def send(self, kind: int, *payload: bytes) -> None:
        raise AssertionError


def home() -> Connections:
    return Connections(Side([THERE, HERE], True, MINE), Nobody(), 0)  # type: ignore[arg-type]


def opened() -> Connections:
    made = home()
    made.take(forwards.message(forwards.OPEN, 2, 0))
    return made


def said(what: int, number: int = 2, forward: int = 0, rest: bytes = b"") -> bytes:
    return forwards.message(what, number, forward) + rest


@pytest.mark.parametrize(
    "wrong",
    [
        b"\1", bytes(8), said(9), said(forwards.OPEN, 4, 1), said(forwards.OPEN, 4, 2), said(forwards.OPEN, 3),
        said(forwards.OPEN, 2), said(forwards.OPEN, 4, rest=b"x"), said(forwards.DATA), said(forwards.TAKEN),
        said(forwards.TAKEN, rest=b"\1\0\0\0"), said(forwards.END, rest=b"x"), said(forwards.DATA, 2, 1, b"x"),
        said(forwards.DATA, rest=bytes(forwards.WINDOW + 1)), b"\2\1" + bytes(6) + b"x",
    ],
)  # fmt: skip
def test_what_breaks_the_rules_is_an_error_of_protocol(wrong: bytes) -> None:
    with pytest.raises(ProtocolError):
        opened().take(wrong)


def test_nothing_is_said_behind_the_end() -> None:
    made = opened()
    made.take(said(forwards.END))
    with pytest.raises(ProtocolError, match="behind its end"):
        made.take(said(forwards.DATA, rest=b"x"))


def test_what_is_over_or_never_was_is_passed_over() -> None:
    made = opened()
    made.take(said(forwards.RESET))
    for number in (2, 4, 5):
        assert made.take(said(forwards.DATA, number, rest=b"x")) is None
    assert made.known == {}


def test_one_too_many_is_refused() -> None:
    made = home()
    taken = [made.take(said(forwards.OPEN, 2 * number)) for number in range(1, forwards.TWICE + 2)]
    assert [connection.lost for connection in taken if connection is not None] == [False] * forwards.TWICE + [True]
    assert len(made.known) == forwards.TWICE


@pytest.mark.parametrize(
    "item", [b"", b"2 127.0.0.1 1 127.0.0.1 2", b"0 10.0.0.1 1 127.0.0.1 2", b"0 127.0.0.1 1 127.0.0.1 0"]
)
def test_what_is_no_forward(item: bytes) -> None:
    with pytest.raises(ProtocolError):
        Forward.unpack(item)


@pytest.mark.parametrize(
    ("asked", "packed", "told"),
    [
        ("80", b"0 127.0.0.1 80 127.0.0.1 80", b"REXEC_FORWARD_80=127.0.0.1:80"),
        ("90:80", b"0 127.0.0.1 90 127.0.0.1 80", b"REXEC_FORWARD_80=127.0.0.1:90"),
        ("here:80", b"1 127.0.0.1 80 127.0.0.1 80", b"REXEC_FORWARD_80=127.0.0.1:80"),
        ("here:80:90", b"1 127.0.0.1 80 127.0.0.1 90", b"REXEC_FORWARD_80=127.0.0.1:90"),
    ],
)
def test_what_forward_says(asked: str, packed: bytes, told: bytes) -> None:
    found = forwarding.forwards([asked])
    assert [each.pack() for each in found] == [packed]
    assert Forward.unpack(packed).pack() == packed
    assert forwarding.variables(found) == [told]


@pytest.mark.parametrize("asked", ["any:80", "here:80:any"])
def test_any_is_an_address_of_the_job_s_own(asked: str) -> None:
    names = {forwarding.variables(forwarding.forwards([asked]))[0] for _ in range(20)}
    assert len(names) == 20
    assert all(name.startswith(b"REXEC_FORWARD_80=127.") and b"127.0.0.1" not in name for name in names)


@pytest.mark.parametrize(
    "asked", ["", "any", "80:any", "here:any:80", "0", "65536", "80:", "x:80", "80:90:100", "-1", "²"]
)
def test_what_cannot_be_meant_is_told(asked: str) -> None:
    with pytest.raises(forwarding.ForwardError, match="say PORT"):
        forwarding.forwards([asked])


@pytest.mark.parametrize("asked", [["80", "any:80"], ["80:1", "80:2"], [f"any:{n}" for n in range(1, 66)]])
def test_what_cannot_be_meant_together_is_told(asked: list[str]) -> None:
    with pytest.raises(forwarding.ForwardError):
        forwarding.forwards(asked)
