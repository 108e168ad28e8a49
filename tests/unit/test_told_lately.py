"""What the kernel was told of names, which it is to ask for again for the next job."""

from __future__ import annotations

import os
import struct
from unittest.mock import patch

import pytest

from remoteio.execute import told_lately
from remoteio.execute.relay import Relay
from remoteio.execute.told_lately import SLOW, ToldLately
from remoteio.wire import fuse_abi as abi
from remoteio.wire.coherence import TTL
from remoteio.wire.link import Link


def asked(op: int, body: bytes, nodeid: int = 5) -> bytes:
    return abi.IN_HEADER.pack(abi.IN_HEADER.size + len(body), op, 2, nodeid, 0, 0, 1, 0, 0) + body


def entry(nodeid: int, name: bytes) -> bytes:
    told = abi.ENTRY.pack(nodeid, 0, 1, 1, 0, 0) + bytes(abi.ATTR.size) + abi.DIRENT.pack(9, 1, len(name), 8) + name
    return told.ljust(len(told) + 7 & ~7, b"\0")


@pytest.mark.parametrize(
    ("op", "body", "names"),
    [
        (abi.LOOKUP, b"name\0", [(5, b"name")]),
        (abi.CREATE, bytes(16) + b"name\0", [(5, b"name")]),
        (abi.MKDIR, bytes(8) + b"name\0", [(5, b"name")]),
        (abi.MKNOD, bytes(16) + b"name\0", [(5, b"name")]),
        (abi.SYMLINK, b"name\0target\0", [(5, b"name")]),
        (abi.LINK, bytes(8) + b"name\0", [(5, b"name")]),
        (abi.RENAME, struct.pack("=Q", 7) + b"old\0new\0", [(5, b"old"), (7, b"new")]),
        (abi.RENAME2, struct.pack("=QII", 7, 0, 0) + b"old\0new\0", [(5, b"old"), (7, b"new")]),
    ],
)
def test_each_way_to_learn_of_a_name(op: int, body: bytes, names: list[tuple[int, bytes]]) -> None:
    lately = ToldLately()
    lately.note(op, 5, asked(op, body), 10.0)
    assert lately.names(10.5) == names and lately.names(10.6) == []


def test_of_a_listing_it_is_told_what_has_a_node() -> None:
    lately = ToldLately()
    listing = abi.reply(2, entry(5, b".") + entry(1, b"..") + entry(6, b"one") + entry(0, b"bare") + entry(7, b"two"))
    lately.answered(abi.READDIRPLUS, 5, listing, 0.0, 10.0)
    assert lately.names(10.0) == [(5, b"one"), (5, b"two")]


def test_what_was_asked_long_ago_is_held_no_more() -> None:
    lately = ToldLately()
    for k in range(4):
        lately.note(abi.LOOKUP, 5, asked(abi.LOOKUP, b"%d\0" % k), float(k))
    assert lately.names(SLOW + TTL + 1) == [(5, b"2"), (5, b"3")]


def test_where_not_all_is_known_it_says_so_until_nothing_of_it_is_held() -> None:
    for most in ("MOST", "MOST_BYTES"):
        lately = ToldLately()
        with patch.object(told_lately, most, 1):
            for k in range(3):
                lately.note(abi.LOOKUP, 5, asked(abi.LOOKUP, b"%d\0" % k), 10.0)
        assert lately.names(10.0 + SLOW + TTL) is None
        assert lately.names(10.1 + SLOW + TTL) == []
    lately = ToldLately()
    lately.note(abi.LOOKUP, 5, asked(abi.LOOKUP, b"slow\0"), 10.0)
    lately.answered(abi.LOOKUP, 5, b"", 20.0, 30.0)
    assert lately.names(30.0 + TTL) is None
    assert lately.names(30.1 + TTL) == []
    lately.answered(abi.READ, 5, b"", 20.0, 50.0)
    assert lately.names(50.0) == []


def test_the_relay_has_the_kernel_expire_them_and_its_own_time_go_on() -> None:
    kernel, to_kernel = os.pipe()
    relay = Relay(to_kernel, Link(kernel, to_kernel), lambda error: None)
    assert not relay.rests()  # no other job comes
    relay.lately = ToldLately()
    before = relay.now()
    relay.lately.note(abi.LOOKUP, 5, asked(abi.LOOKUP, b"name\0"), before)
    relay._known.making.saw(abi.ATTR.pack(*[0] * 5, 1000, *[0] * 10), before)  # at home it is 1000 s
    assert relay.rests() and relay.now() >= before + TTL
    assert 1000 <= relay._known.making.time(relay.now()) / 1e9 < 1000 + TTL / 2, "no clock has leapt there"
    assert os.read(kernel, 4096) == abi.inval_inode(abi.ROOT_ID, -1) + abi.inval_entry(5, b"name", abi.EXPIRE_ONLY)
    relay.lately.answered(abi.LOOKUP, 5, b"", 2 * SLOW, relay.now())
    assert not relay.rests()
    for fd in (kernel, to_kernel):
        os.close(fd)


@pytest.mark.parametrize(("flags", "kept"), [(0, False), (abi.HAS_EXPIRE_ONLY >> 32, True)])
def test_a_kernel_that_knows_no_expiry_is_left_to_forget_by_itself(flags: int, kept: bool) -> None:
    read, write = os.pipe()
    relay = Relay(-1, Link(read, write), lambda error: None)
    relay.lately = ToldLately()
    relay._special(abi.INIT, 2, 0, asked(abi.INIT, abi.INIT_IN.pack(7, 38, 0, 0, flags), 0))
    assert (relay.lately is not None) == kept
    for fd in (read, write):
        os.close(fd)
