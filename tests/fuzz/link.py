"""Targets: what crosses the link as such, to either end."""

from __future__ import annotations

import os

from remoteio.errors import ProtocolError
from remoteio.execute.known import ANSWERED
from remoteio.execute.relay import Relay
from remoteio.wire import frames as wire
from remoteio.wire import fuse_abi as abi
from remoteio.wire import known as known_wire
from remoteio.wire.listed import NAMES
from shim.wire import job_messages
from shim.wire.job_spec import JobSpec
from tests.fuzz.target import pieces, target

_NODES = 4


@target(wire.FrameError)
def frames(data: bytes) -> None:
    """A stream, cut where its first byte says: any cut gives the same frames."""
    cut = data[0] if data else 0
    reader = wire.FrameReader()
    found = reader.feed(data[1:])
    other = wire.FrameReader()
    parted = other.feed(data[1 : 1 + cut]) + other.feed(data[1 + cut :])
    assert [(kind, bytes(payload)) for kind, payload in found] == [(kind, bytes(p)) for kind, p in parted]


@target(wire.FrameError)
def fields(data: bytes) -> None:
    found = wire.unpack_fields(data)
    assert wire.unpack_fields(wire.pack_fields(found)) == found


@target(ProtocolError)
def start(data: bytes) -> None:
    """START, as an agent and a job's record read it."""
    spec = JobSpec.unpack(data)
    assert JobSpec.unpack(spec.pack()).argv == spec.argv


@target(ProtocolError)
def order(data: bytes) -> None:
    what, serial, why = job_messages.parse_order(data)
    assert isinstance(what, str) and isinstance(serial, int) and isinstance(why, str)


@target(ProtocolError)
def known(data: bytes) -> None:
    """KNOWN, behind the number of the operation that it answers."""
    _, rest = known_wire.split(data[1:])
    known_wire.parse(data[0], rest)


class _Nobody:
    """The link's other end."""

    def send(self, kind: int, *payload: bytes | bytearray | memoryview, later: bool = False) -> None:
        assert kind == wire.FUSE and len(b"".join(payload)) >= abi.ARGS


class _AtOnce:
    """In place of the pool of threads: what is to be done aside is done here."""

    def give(self, job) -> bool:
        job()
        return True


def _raise(error: BaseException) -> None:
    raise error


@target(ProtocolError)
def replies(data: bytes) -> None:
    """What home answers, as the relay takes it; and what it then knows. Messages: a letter, and the payload."""
    kernel = os.open("/dev/null", os.O_WRONLY)
    try:
        relay = Relay(kernel, _Nobody(), _raise)
        relay._aside = _AtOnce()
        for unique in range(1, 120):
            op = unique % 60
            if op not in abi.NO_REPLY:
                stamp = relay._known.asked(op, unique % _NODES)
                (relay._asked if unique < 60 else relay._abandoned)[unique] = (
                    op, unique % _NODES, 0, stamp, 0.0, bytes(256),
                )  # fmt: skip
        for k, looks in enumerate((0, 1, NAMES)):
            listing = abi.request(abi.LIST, k + 1, abi.LIST_IN.pack(8, looks), abi.OWN + k)
            relay._asked[abi.OWN + k] = (abi.LIST, k + 1, 0, relay._known.asked(abi.LIST, k + 1), 0.0, listing)
        for message in pieces(data):
            take = {b"k": relay.known, b"o": relay.ordered, b"l": relay.leased, b"b": relay.broken, b"g": relay.granted}
            take.get(message[:1], relay.from_link)(message[1:])
            _ask(relay)
    finally:
        os.close(kernel)


def _ask(relay: Relay) -> None:
    for op in ANSWERED:
        for node in range(_NODES):
            body = {
                abi.LOOKUP: b"name\0",
                abi.READ: abi.READ_IN.pack(node, 0, 4096, 0, 0, 0, 0),
                abi.READDIRPLUS: abi.READ_IN.pack(node, 0, 4096, 0, 0, 0, 0),
                abi.GETXATTR: abi.GETXATTR_IN.pack(0, 0) + b"security.capability\0",
            }.get(op, bytes(16))
            answer = relay._known.answer(op, 7, node, memoryview(abi.request(op, node, body, 7)), 0.0)
            assert answer is None or int.from_bytes(answer[:4], "little") == len(answer)
    relay.give_back()


TARGETS = (frames, fields, start, order, known, replies)
