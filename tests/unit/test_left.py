"""What a job has written is opened again without a question, however long ago, once home has leased it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remoteio.errors import ProtocolError
from remoteio.execute.known_left import KnownLeft
from remoteio.execute.making import Made
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.leases import Leases
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.wire import fuse_abi as abi
from remoteio.wire import left
from remoteio.wire.behind import MAY_WRITE
from remoteio.wire.coherence import TTL
from remoteio.wire.frames import HEADER
from remoteio.wire.leases import broken
from remoteio.wire.makes import MADE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remoteio.execute.known import Asked

TOP, NOW, COUNT = 7, 1000.0, 20
LATER = NOW + 10 * TTL
DATA = b"data"
CREATE = abi.CREATE_IN.pack(os.O_CREAT | os.O_WRONLY, stat.S_IFREG | 0o644, 0, 0)


def attr(size: int) -> bytes:
    return abi.ATTR.pack(9, size, 8, 1, 2, 3, 0, 0, 0, stat.S_IFREG | 0o644, 1, 0, 0, 0, 4096, 0)


class Host:
    """What a host knows that has been told, long ago, of COUNT files that the job has written."""

    def __init__(self) -> None:
        self.known = KnownLeft()
        self.known.leases.heard = LATER
        self.known.leases.listed(TOP, [])
        self.under_way: dict[int, Asked] = {}
        for k in range(COUNT):
            self.known.leases.name(TOP, b"%d" % k, MADE + k)
            self.known.written.stamp(abi.CREATE, TOP, b"", Made(MADE + k, 0, MAY_WRITE, attr(0), b""), NOW)
            raw = abi.request(abi.WRITE, MADE + k, abi.WRITE_IN.pack(1, 0, len(DATA), 0, 0, 0, 0) + DATA)
            self.known.written.stamp(abi.WRITE, MADE + k, raw, None, NOW)

    def ask(self, op: int, node: int, args: bytes) -> bytes | None:
        answer = self.known.answer(op, 3, node, memoryview(abi.request(op, node, args, 3)), LATER)
        return None if answer is None else answer[abi.OUT_HEADER.size :]

    def looks_up(self, k: int) -> bool:
        return self.ask(abi.LOOKUP, TOP, b"%d\0" % k) is not None

    def opens(self, k: int) -> bool:
        return self.ask(abi.OPEN, MADE + k, abi.OPEN_IN.pack(os.O_RDONLY, 0)) is not None

    def reads(self, k: int) -> bytes | None:
        raw = abi.request(abi.READ, MADE + k, abi.READ_IN.pack(1, 0, 100, 0, 0, 0, 0))
        answer = self.known.written.read(3, MADE + k, raw, LATER)
        return None if answer is None else answer[abi.OUT_HEADER.size :]

    def wants(self) -> list[int]:
        """The files that home is asked for now."""
        nodes = []
        for raw in self.known.ask_ahead(LATER, self.under_way):
            if abi.IN_HEADER.unpack_from(raw)[1] == abi.LEFT:
                nodes += left.nodes_of(raw)
        return [node - MADE for node in nodes]

    def told(self, attrs: list[bytes]) -> None:
        ((_, _, _, stamp, _, raw),) = self.under_way.values()
        self.known.left_told(raw, stamp, b"".join(attrs))


@pytest.mark.parametrize("asks", [Host.looks_up, Host.opens])
def test_what_was_written_after_a_file_that_is_asked_for_is_leased_with_it(asks: Callable[[Host, int], bool]) -> None:
    host = Host()
    assert host.wants() == []
    assert not asks(host, 5) and host.known.ahead.moved
    assert host.reads(5) is None
    assert host.wants() == list(range(5, 13))
    assert host.wants() == [], "once"
    host.told([attr(len(DATA))] * 7 + [left.NOT])
    for k in range(5, 12):
        assert host.looks_up(k) and host.opens(k) and host.reads(k) == DATA
    assert (host.looks_up(12), host.opens(12), host.reads(12)) == (False, False, None)
    assert host.wants() == list(range(13, 20)), "twice as many; what home has leased, or refused, not again"
    host.opens(4)
    assert host.wants() == [4]


def test_the_next_are_leased_before_who_goes_on_comes_to_them() -> None:
    host = Host()
    host.opens(0)
    assert host.wants() == list(range(8))
    host.told([attr(len(DATA))] * 8)
    assert host.opens(3) and host.wants() == []
    host.known.ahead.moved = False
    assert host.opens(5) and host.known.ahead.moved and host.wants() == list(range(8, 20))


def test_a_file_that_is_lost_before_home_is_asked_is_not_asked_for() -> None:
    host = Host()
    assert not host.opens(5)
    host.known.written.lose(MADE + 5)
    assert host.wants() == []


def test_what_is_changed_since_it_was_asked_for_is_not_kept() -> None:
    host = Host()
    host.opens(0)
    assert host.wants() == list(range(8))
    host.known.asked(abi.SETATTR, MADE)
    host.known.broken([(MADE + 1, b"")])
    host.known.broken([(TOP, b"2")])
    host.told([attr(len(DATA))] * 3 + [attr(9)] + 4 * [attr(len(DATA))])
    assert [host.opens(k) for k in range(5)] == [False, False, False, True, True]
    assert [host.reads(k) for k in (0, 1, 3, 4)] == [None, None, None, DATA], "of another size it holds something else"
    host.known.broken([(MADE + 4, b"")])
    assert (host.looks_up(4), host.opens(4), host.reads(4)) == (False, False, None)
    host.known.broken([(0, b"")])
    assert (host.looks_up(5), host.opens(5), host.reads(5)) == (False, False, None)


def test_a_refusal_keeps_nothing_and_what_is_no_reply_is_told_so() -> None:
    host = Host()
    host.opens(0)
    host.wants()
    host.told([])
    assert not host.opens(0)
    with pytest.raises(ProtocolError):
        host.told([attr(1)])


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Export]:
    monkeypatch.setattr(Leases, "_break_all", lambda leases: None)  # a mount of another test takes no lease back
    made = Export(ShownIds(os.geteuid(), os.getegid(), frozenset()), str(tmp_path))
    made.behind = True
    assert made.leases.begin()
    yield made
    made.close()


def ask(export: Export, op: int, node: int, args: bytes, number: int = 0) -> bytes:
    request = abi.Request(abi.request(op, node, args, 1))
    request.number = number
    answer = export.answer(request)
    return b"" if answer is None else answer[1]


def write(export: Export, number: int, close: bool = True) -> int:
    """Have a file written by two changes, the number of the first of which it has for its name; its node."""
    node = MADE + number
    ask(export, abi.CREATE, abi.ROOT_ID, CREATE + b"%d\0" % number, number)
    ask(export, abi.WRITE, node, abi.WRITE_IN.pack(node, 0, len(DATA), 0, 0, 0, 0) + DATA, number + 1)
    if close:
        ask(export, abi.RELEASE, node, abi.RELEASE_IN.pack(node, 0, 0, 0))
    return node


def leased(export: Export, nodes: list[int]) -> list[int]:
    raw = abi.request(abi.LEFT, 0, left.pack(nodes), 1)
    answer = export.answer(abi.Request(raw))
    assert answer is not None
    if abi.OUT_HEADER.unpack_from(answer[1])[1]:
        return []
    found = left.parse(raw, answer[1][abi.OUT_HEADER.size :])
    assert all(abi.ATTR.unpack(each)[1] == len(DATA) for _, each in found)
    return [node for node, _ in found]


def test_home_leases_what_is_as_the_job_left_it_and_takes_it_back(export: Export, tmp_path: Path) -> None:
    nodes = [write(export, number) for number in range(1, 20, 2)]
    nodes.append(write(export, 21, close=False))
    ask(export, abi.MKDIR, abi.ROOT_ID, abi.MKDIR_IN.pack(0o755, 0) + b"d\0", 23)
    (tmp_path / "1").write_bytes(b"also")
    (tmp_path / "3").unlink()
    (tmp_path / "5").unlink()
    (tmp_path / "5").write_bytes(DATA)
    os.utime(tmp_path / "7", (1, 1))
    with (tmp_path / "9").open("r+b"):  # who may have it mapped
        assert leased(export, [*nodes, MADE + 23, MADE + 99, 12345]) == nodes[5:-1]
    export.leases.due()
    (tmp_path / "11").write_bytes(b"other")
    os.utime(tmp_path / "13", (1, 1))
    due = export.leases.due()
    assert due and {node for node, name in broken(due[HEADER.size :]) if not name} >= {MADE + 11, MADE + 13}
    assert leased(export, nodes) == [MADE + 9, *nodes[7:-1]]
    assert leased(export, [*nodes[:4], MADE + 99]) == [], "none of these, which is an error"
    export.inodes._check()


def test_home_is_not_asked_for_more_than_may_be(export: Export) -> None:
    node = write(export, 1)
    assert leased(export, [node] * left.MOST) == [node] * left.MOST
    for args in (left.pack([node] * (left.MOST + 1)), b"abc"):
        assert abi.OUT_HEADER.unpack_from(ask(export, abi.LEFT, 0, args))[1] < 0
