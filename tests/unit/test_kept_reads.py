"""READs that are answered from what the host has kept: when they are looked up, and who does not wait for it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remoteio.execute import read_on
from remoteio.execute.relay import Relay
from remoteio.wire import frames, leases
from remoteio.wire import fuse_abi as abi
from remoteio.wire.known import Piggyback
from remoteio.wire.link import Link
from shim.execute.agent.cache import encrypting
from tests.until import until

NODE, PARENT = 5, 1
VERSION = b"v" * 32
SIZE = 1 << 20
DATA = os.urandom(SIZE)
ATTR = abi.ATTR.pack(NODE, SIZE, *[0] * (len(abi.ATTR.unpack(bytes(abi.ATTR.size))) - 2))


class Home:
    """The far end of a relay's link, which answers READs; `reads` has the offsets of those that came."""

    def __init__(self, top: Path) -> None:
        self._kernel, to_kernel = os.pipe()
        unused, self._other = os.pipe()
        self._home, to_home = os.pipe()
        self.fds = (self._kernel, to_kernel, unused, self._other, self._home, to_home)
        self.relay = Relay(to_kernel, Link(unused, to_home), lambda error: None)
        self.relay.keep_in(str(top / "kept"), encrypting)
        self.relay.heard()
        self._quickest(1.0)
        self._reader, self._number = frames.FrameReader(), 100
        self._lease()

    def _quickest(self, seconds: float) -> None:
        self.relay._quickest = seconds

    def _lease(self) -> None:
        """Tell the relay of a name that leads to the file, and its version with the reply to an OPEN."""
        entry = abi.ENTRY.pack(NODE, 0, 1, 1, 0, 0) + ATTR
        self._answer(abi.LOOKUP, PARENT, leases.NAME | leases.ATTR, b"name", frames.FUSE, entry)
        self._answer(abi.OPEN, NODE, leases.ATTR | leases.CONTENTS | leases.KEPT, b"", frames.KNOWN, bytes(16))

    def _answer(self, op: int, nodeid: int, what: int, name: bytes, kind: int, body: bytes) -> None:
        unique, payload = self._ask(op, nodeid, bytes(64)), b""
        payload = abi.reply(unique, body)
        if kind == frames.KNOWN:
            payload = payload + Piggyback(ATTR, version=VERSION).attr + VERSION
        self.relay.leased(leases.pack(kind, what, name, payload))
        self.told()

    def _ask(self, op: int, nodeid: int, body: bytes) -> int:
        self._number += 1
        relay, raw = self.relay, abi.request(op, nodeid, body, self._number)
        relay._asked[self._number] = (op, nodeid, 0, relay._known.asked(op, nodeid), 0.0, raw)
        return self._number

    def read(self, offset: int = 0, size: int = SIZE, flags: int = 0) -> int:
        """Have the relay asked for that, as its threads do; the request's number."""
        unique = self._ask(abi.READ, NODE, abi.READ_IN.pack(9, offset, size, 0, 0, flags, 0))
        self.relay._send(abi.READ, self.relay._asked[unique][5])
        return unique

    def answer(self, unique: int, data: bytes) -> None:
        self.relay.from_link(abi.reply(unique, data))

    def told(self) -> bytes:
        """What the relay has written to the kernel."""
        return os.read(self._kernel, 1 << 21)

    def asked(self) -> list[int]:
        """The numbers of the READs that went home; waits for one."""
        found = self._reader.feed(os.read(self._home, 1 << 16))
        return [request.unique for _, payload in found if (request := abi.Request(payload)).op == abi.READ]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    until(lambda: made.relay._aside.rest(0), "nothing is being looked up")
    made.relay.settle()
    for fd in made.fds:
        os.close(fd)


PART = 1 << 15


def filled(home: Home, at: int = 0) -> None:
    unique, data = home.read(at, PART), DATA[at : at + PART]
    assert home.asked() == [unique]
    home.answer(unique, data)
    assert home.told() == abi.reply(unique, data)
    home.relay.settle()


def test_what_home_has_answered_is_answered_here(home: Home) -> None:
    filled(home)
    unique = home.read(0, PART)
    assert home.told() == abi.reply(unique, DATA[:PART])
    assert home.relay.counts.here[abi.READ] == 1 and unique not in home.relay._asked


def change(home: Home) -> None:
    home.relay._known.asked(abi.WRITE, NODE)


def taken_back(home: Home) -> None:
    home.relay.broken(leases.pack_break(NODE, b""))


def silent(home: Home) -> None:
    home.relay._known.leases.heard -= 3600


def near(home: Home) -> None:
    home._quickest(0.001)


@pytest.mark.parametrize("why", [change, taken_back, silent, near])
def test_home_is_asked(home: Home, why: Callable[[Home], None]) -> None:
    filled(home)
    why(home)
    unique = home.read(0, PART)
    assert home.asked() == [unique]


def test_who_reads_the_disk_asks_home(home: Home) -> None:
    filled(home)
    unique = home.read(0, PART, os.O_DIRECT)
    assert home.asked() == [unique]


def test_what_was_asked_for_before_a_change_is_not_kept(home: Home) -> None:
    unique = home.read(0, PART)
    assert home.asked() == [unique]
    taken_back(home)
    home._lease()
    home.answer(unique, DATA[:PART])
    home.told()
    again = home.read(0, PART)
    assert home.asked() == [again]


def test_a_narrow_link_is_far(home: Home) -> None:
    home._quickest(0.001)
    relay = home.relay
    assert not relay._is_far()
    relay._a_byte = 1 / 1e6
    assert relay._is_far()
    relay._a_byte = 1 / 100e6
    assert not relay._is_far()


def test_who_reads_on_is_sent_only_what_is_not_kept(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    piece = read_on.PIECE
    for at in range(2 * piece, 3 * piece, PART):
        filled(home, at)
    monkeypatch.setattr(read_on, "AFTER", 2 * piece)
    reads, now = home.relay._known.opened.reads, time.monotonic()
    reads.arrived(4 * piece, now, now)
    for at in range(0, 2 * piece, piece // 2):
        unique = home._ask(abi.READ, NODE, abi.READ_IN.pack(9, at, piece // 2, 0, 0, 0, 0))
        assert not reads.waits(NODE, (unique, bytes(home.relay._asked[unique][5])), now)
    home.relay._read_on()
    ahead = [each[5] for unique, each in home.relay._asked.items() if unique >= abi.OWN]
    assert [abi.READ_IN.unpack_from(raw, abi.ARGS)[1] for raw in ahead] == [3 * piece]


def test_who_died_meanwhile_is_not_answered_twice(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(home)
    looking, go = threading.Event(), threading.Event()
    assert home.relay.kept is not None
    read = home.relay.kept.read

    def slow(*of: object) -> bytes | None:
        looking.set()
        go.wait()
        return read(*of)  # type: ignore[arg-type]

    monkeypatch.setattr(home.relay.kept, "read", slow)
    unique = home.read(0, PART)
    looking.wait()
    home.relay._interrupt(unique)  # pid 0: no such process
    assert home.told() == abi.failure(unique, 4)
    go.set()
    until(lambda: home.relay._aside.rest(0), "it is looked up")
    assert not home.relay._abandoned and not home.relay._asked
    os.set_blocking(home._kernel, False)
    with pytest.raises(BlockingIOError):
        home.told()
