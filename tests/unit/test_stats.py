"""Attributes that others have changed are asked for together, once a job asks for one after the other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from remoteio.execute.known_stats import KnownStats
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.wire import fuse_abi as abi
from remoteio.wire import left
from remoteio.wire.coherence import KEPT_BY_KERNEL, LISTED_AFTER, TTL

if TYPE_CHECKING:
    from remoteio.execute.known import Asked

TOP, FIRST, COUNT, NOW = 1, 100, 400, 50.0


def attr(size: int) -> bytes:
    return abi.ATTR.pack(7, size, *[0] * 14)


class Host:
    """What a host knows of a directory with COUNT files, of which others have changed all."""

    def __init__(self) -> None:
        self.known = KnownStats()
        self.known.leases.heard, self.known.leases.seconds = NOW + 100, KEPT_BY_KERNEL
        self.under_way: dict[int, Asked] = {}
        for k in range(COUNT):
            self.known.leases.name(TOP, b"%d" % k, FIRST + k)
            self.known.leases.attributes(FIRST + k, attr(k))
        self.known.broken([(FIRST + k, b"") for k in range(COUNT)])

    def asks(self, k: int, now: float = NOW, by_name: bool = True) -> bool:
        """Whether home is to be asked for it."""
        raw = abi.request(abi.LOOKUP, TOP, b"%d\0" % k, 3)
        op, node = abi.LOOKUP, TOP
        if not by_name:
            op, node, raw = abi.GETATTR, FIRST + k, abi.request(abi.GETATTR, FIRST + k, abi.GETATTR_IN.pack(0, 0, 0), 3)
        return self.known.answer(op, 3, node, memoryview(raw), now) is None

    def wants(self) -> list[int]:
        """The files that home is asked for now, ahead."""
        nodes: list[int] = []
        for raw in self.known.ask_ahead(NOW, self.under_way):
            if abi.IN_HEADER.unpack_from(raw)[1] == abi.STATS:
                nodes += left.nodes_of(raw)
        return [node - FIRST for node in nodes]

    def told(self, attrs: list[bytes]) -> None:
        ((_, _, _, stamp, _, raw),) = self.under_way.values()
        self.under_way.clear()
        self.known.stats_told(raw, stamp, b"".join(attrs))


@pytest.mark.parametrize("by_name", [True, False])
def test_from_the_third_on_those_behind_it_are_asked_for_too(by_name: bool) -> None:
    host = Host()
    for k in range(LISTED_AFTER - 1):
        assert host.asks(k, by_name=by_name) and host.wants() == []
    assert host.asks(2, by_name=by_name) and host.known.ahead.moved
    assert host.wants() == list(range(3, 19))
    assert host.asks(3, by_name=by_name) and host.wants() == [], "home has not answered"
    host.told([attr(1000)] * 15 + [left.NOT])
    assert not any(host.asks(k, by_name=by_name) for k in range(3, 18))
    assert host.asks(18, by_name=by_name) and host.wants() == list(range(19, 51)), "twice as many"
    host.told([attr(1000)] * 32)
    assert not host.asks(50, by_name=by_name) and host.asks(51, by_name=by_name) and len(host.wants()) == 64


def test_no_more_are_asked_for_at_once_than_home_takes_and_all_of_a_directory_in_the_end() -> None:
    host, asked, most = Host(), 0, 0
    for k in range(COUNT):
        if host.asks(k):
            asked += 1
            wanted = host.wants()
            most = max(most, len(wanted))
            if wanted:
                host.told([attr(1000)] * len(wanted))
    assert asked < 12 and most == left.MOST


def test_a_kernel_that_was_told_of_no_break_asks_for_each_by_itself() -> None:
    host = Host()
    host.known.leases.seconds = TTL
    for k in range(10):
        assert host.asks(k) and host.wants() == []


def test_who_asks_now_and_then_asks_for_one() -> None:
    host = Host()
    for k in range(10):
        assert host.asks(k, NOW + k * TTL) and host.wants() == []


def test_what_has_changed_meanwhile_is_not_taken_and_where_home_tells_nothing_it_is_left_alone() -> None:
    host = Host()
    for k in range(LISTED_AFTER):
        host.asks(k)
    wanted = host.wants()
    host.known.broken([(FIRST + wanted[0], b"")])
    host.told([attr(1000)] * len(wanted))
    assert host.asks(wanted[0]) and not host.asks(wanted[1])
    assert host.wants()
    host.told([])
    assert host.asks(200) and host.asks(201) and host.wants() == []


def test_home_tells_what_was_leased_and_leases_it_again(tmp_path: Path) -> None:
    for name in ("one", "two", "other"):
        (tmp_path / name).write_text(name)
    export = Export(ShownIds(os.geteuid(), os.getegid(), frozenset()), str(tmp_path))
    assert export.leases.begin()
    try:
        nodes = [_looked_up(export, name) for name in (b"one", b"two")]
        for name in ("one", "two"):
            (tmp_path / name).chmod(0o600)
        assert export.leases.due()
        assert _modes(export, [*nodes, 12345]) == [0o600, 0o600, None]
        (tmp_path / "one").chmod(0o640)
        assert export.leases.due(), "it is leased again"
        (tmp_path / "two").unlink()
        assert _modes(export, nodes) == [0o640, None]
    finally:
        export.close()


def _looked_up(export: Export, name: bytes) -> int:
    for _ in range(2):  # a file that is looked up once has no lease
        assert export.answer(abi.Request(abi.request(abi.LOOKUP, abi.ROOT_ID, name + b"\0", 5))) is not None
    return next(node.id for node in export.inodes.nodes.values() if node.name == name)


def _modes(export: Export, nodes: list[int]) -> list[int | None]:
    raw = abi.request(abi.STATS, 0, left.pack(nodes), 6)
    answer = export.answer(abi.Request(raw))
    assert answer is not None
    told = dict(left.parse(raw, bytes(answer[-1])[abi.OUT_HEADER.size :]))
    return [abi.ATTR.unpack(told[node])[9] & 0o7777 if node in told else None for node in nodes]
