"""In which order a job opens the files of a directory is learned from names that were told alone, too."""

from __future__ import annotations

import stat

import pytest

from remoteio.execute import orders as module
from remoteio.execute.orders import Orders
from remoteio.wire import fuse_abi as abi

TOP, SIZE = 1, 10
NODES = [14, 11, 17, 12, 19, 15]
"""As a command looked them up the last time: by no other order."""


def entry(node: int, kind: int = stat.S_IFREG) -> bytes:
    return abi.ENTRY.pack(node, 0, 1, 1, 0, 0) + abi.ATTR.pack(99 - node, SIZE, *[0] * 7, kind | 0o644, *[0] * 6)


def name(node: int) -> bytes:
    return b"%d" % (node * 7 % 20)


def listing(nodes: list[int]) -> bytes:
    told = b""
    for node in nodes:
        of = name(node)
        told += entry(node) + abi.DIRENT.pack(99 - node, node, len(of), 8) + of.ljust(len(of) + 7 & ~7, b"\0")
    return told


def guessed(orders: Orders) -> list[int]:
    return [node for node, _ in orders.next(64, 1 << 20)]


def told_alone(nodes: list[int]) -> Orders:
    orders = Orders()
    for node in nodes:
        orders.named(TOP, name(node), entry(node))
    return orders


def test_names_that_were_told_alone_are_followed_as_they_were_told() -> None:
    orders = told_alone(NODES)
    orders.named(TOP, b"gone", bytes(abi.ENTRY.size + abi.ATTR.size))
    for node in NODES[:3]:
        orders.opened(node, False)
    assert guessed(orders) == NODES[3:4], "the window is one"
    orders.opened(NODES[3], False)
    assert guessed(orders) == NODES[4:]


def test_who_has_what_he_opens_has_no_names_looked_into() -> None:
    orders = told_alone(NODES)
    for node in NODES:
        orders.opened(node, True)
    assert not orders._where and guessed(orders) == []


def test_a_listing_takes_the_place_of_names_that_were_told_alone() -> None:
    orders, listed = told_alone(NODES[:4]), [*reversed(NODES)]
    orders.opened(NODES[0], False)
    orders.listed(TOP, listing(listed))
    orders.named(TOP, b"later", entry(40))
    for node in listed[:4]:
        orders.opened(node, False)
    assert guessed(orders) == listed[4:] and 40 not in orders._where


def test_a_directory_that_is_read_once_more_is_guessed_once_more() -> None:
    orders = Orders()
    orders.listed(TOP, listing(NODES))
    for _ in range(2):
        for node in NODES[:3]:
            orders.opened(node, False)
        assert guessed(orders)[:1] == NODES[3:4]
        for node in NODES[3:]:
            orders.opened(node, True)
        assert guessed(orders) == []


def test_of_names_no_more_are_kept_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ORDER_NAMED", 4)
    assert len(told_alone(NODES)._named) == 4
    monkeypatch.setattr(module, "ORDER_KNOWN", 3)
    orders = told_alone(NODES[:2])
    for node in (30, 31):
        orders.named(2, name(node), entry(node))
    orders.opened(31, False)
    assert set(orders._where) == {30, 31}
