"""Which extended attributes files are known to lack, and of which others is asked then."""

from __future__ import annotations

import errno

import pytest

from remoteio.execute.lacking import CAPABILITY, Lacking
from remoteio.execute.leases import Leases
from remoteio.wire import fuse_abi as abi
from remoteio.wire.coherence import KNOWN_BARE, TTL

ACL, LABEL = b"system.posix_acl_access\0", b"security.selinux\0"


def directory(*nodes: int) -> Leases:
    """A directory with these files, the attributes of which hold."""
    leases = Leases()
    for nodeid in nodes:
        leases.name(abi.ROOT_ID, b"%d" % nodeid, nodeid)
        leases.attributes(nodeid, bytes(abi.ATTR.size))
    return leases


def unlisted(nodeid: int, most: int) -> list[int]:
    return []


def knows(lacking: Lacking, nodeid: int, name: bytes, leased: bool, now: float) -> bool:
    raw = abi.request(abi.GETXATTR, nodeid, abi.GETXATTR_IN.pack(9, 0) + name, 7)
    answer = lacking.answer(abi.GETXATTR, 7, nodeid, memoryview(raw), leased, now)
    assert answer in (None, abi.failure(7, errno.ENODATA))
    return answer is not None


def listed(lacking: Lacking, nodeid: int, size: int, now: float = 10.0) -> bytes | None:
    raw = abi.request(abi.LISTXATTR, nodeid, abi.GETXATTR_IN.pack(size, 0), 7)
    return lacking.answer(abi.LISTXATTR, 7, nodeid, memoryview(raw), True, now)


def told(lacking: Lacking, nodeid: int, size: int, body: bytes) -> None:
    raw = abi.request(abi.LISTXATTR, nodeid, abi.GETXATTR_IN.pack(size, 0), 7)
    lacking.replied(abi.LISTXATTR, nodeid, raw, 0, abi.reply(7, body), 10.0)


def test_one_is_no_other_and_holds_for_the_ttl_or_as_long_as_the_attributes() -> None:
    leases = directory(5)
    lacking = Lacking(leases, unlisted)
    for nodeid in (5, 6):
        lacking.learn(nodeid, ACL, 10.0)
    lacking.learn(5, b"user.mine\0", 10.0)
    assert knows(lacking, 5, ACL, False, 10.0 + TTL) and knows(lacking, 6, ACL, True, 10.0 + TTL)
    assert not any(knows(lacking, 5, name, True, 10.0) for name in (LABEL, CAPABILITY, b"user.mine\0"))
    assert listed(lacking, 5, 100) is None
    assert knows(lacking, 5, ACL, True, 99.0) and not knows(lacking, 5, ACL, False, 99.0)
    assert not knows(lacking, 6, ACL, True, 99.0), "its attributes are not leased"
    leases.broken(5, b"")
    assert not knows(lacking, 5, ACL, True, 99.0)


@pytest.mark.parametrize(("size", "none"), [(0, abi.GETXATTR_OUT.pack(0, 0)), (100, b"")])
def test_a_list_tells_what_there_is_not(size: int, none: bytes) -> None:
    lacking = Lacking(directory(5, 6), unlisted)
    told(lacking, 5, size, none)
    for asked, answer in ((0, abi.GETXATTR_OUT.pack(0, 0)), (100, b"")):
        assert listed(lacking, 5, asked, 99.0) == abi.reply(7, answer)
    assert all(knows(lacking, 5, name, True, 99.0) for name in (ACL, LABEL, CAPABILITY))
    told(lacking, 6, size, b"user.mine\0" + LABEL if size else abi.GETXATTR_OUT.pack(27, 0))
    assert listed(lacking, 6, 0) is None and not knows(lacking, 6, LABEL, True, 10.0)
    assert knows(lacking, 6, ACL, True, 10.0) is bool(size), "the size of a list says nothing of what is in it"


def test_what_is_asked_of_two_files_is_asked_of_all_more_each_time_and_once() -> None:
    nodes = list(range(10, 1000))
    lacking = Lacking(directory(*nodes), unlisted)
    asked, sizes = [], []
    for nodeid in nodes:
        if not knows(lacking, nodeid, ACL, True, 10.0):
            lacking.learn(nodeid, ACL, 10.0)
            ahead = lacking.next()
            sizes.append(len(ahead))
            asked += [nodeid, *(each for _, each, _ in ahead[:-1])]
            for op, each, args in ahead:
                assert op == abi.LISTXATTR and (each == nodeid) == (each is ahead[-1][1])
                told(lacking, each, abi.GETXATTR_IN.unpack(args)[0], b"")
    assert sizes[:4] == [0, 9, 17, 33] and max(sizes) == 257
    assert asked == nodes and not lacking.wants


def test_one_that_comes_to_files_in_another_order_soon_has_asked_of_all() -> None:
    lacking, misses = Lacking(directory(*range(10, 110)), unlisted), 0
    for nodeid in sorted(range(10, 110), key=lambda each: (each * 37) % 101):
        if listed(lacking, nodeid, 0) is None:
            misses += 1
            for each in (nodeid, *(each for _, each, _ in lacking.next())):
                told(lacking, each, 1024, b"")
    assert misses <= 6


def test_files_that_were_listed_are_asked_of_though_no_lease_names_them() -> None:
    """Also as the listing goes on, and each once but for one that the job came to first."""
    listed = list(range(10, 100))
    lacking = Lacking(Leases(), lambda nodeid, most: listed[listed.index(nodeid) :] if nodeid in listed else [])
    asked: list[int] = []
    for nodeid in [10, 11, 20, 60, *range(100, 190)]:
        if nodeid == 100:
            listed += range(100, 190)
        assert not knows(lacking, nodeid, ACL, True, 10.0)
        asked += [each for _, each, _ in lacking.next() if each != nodeid]
    assert asked == sorted(set(asked)) and asked[0] == 12 and asked[-1] == 189


def test_what_was_known_too_long_ago_is_asked_again_from_there_on() -> None:
    listed = list(range(10, 100))
    lacking = Lacking(Leases(), lambda nodeid, most: listed[listed.index(nodeid) :])
    for nodeid in (10, 11, 20):
        knows(lacking, nodeid, ACL, False, 10.0)
    for _, nodeid, _ in lacking.next():
        told(lacking, nodeid, 1024, b"")
    assert knows(lacking, 30, ACL, False, 10.0 + TTL)
    assert not knows(lacking, 31, ACL, False, 10.1 + TTL)
    assert [each for _, each, _ in lacking.next()] == [*range(32, 64), 31]


def test_nothing_is_asked_for_who_writes_nor_of_files_of_which_it_is_not_known_where_they_are() -> None:
    lacking = Lacking(directory(*range(10, 100)), unlisted)
    for nodeid in range(10, 20):
        assert not knows(lacking, nodeid, CAPABILITY, True, 10.0)
    for nodeid in range(200, 210):
        assert not knows(lacking, nodeid, ACL, True, 10.0)
    assert not lacking.wants


def test_what_is_remembered_is_bounded() -> None:
    lacking = Lacking(Leases(), unlisted)
    for nodeid in range(KNOWN_BARE + 10):
        lacking.learn(nodeid, ACL, 10.0)
    assert len(lacking._known) == KNOWN_BARE
