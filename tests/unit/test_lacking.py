"""Which extended attributes files are known to lack, and of which others is asked then."""

from __future__ import annotations

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


def test_one_is_no_other_and_holds_for_the_ttl_or_as_long_as_the_attributes() -> None:
    leases = directory(5)
    lacking = Lacking(leases)
    for nodeid in (5, 6):
        lacking.learn(nodeid, ACL, 10.0)
    lacking.learn(5, b"user.mine\0", 10.0)
    assert lacking.knows(5, ACL, False, 10.0 + TTL) and lacking.knows(6, ACL, True, 10.0 + TTL)
    assert not any(lacking.knows(5, name, True, 10.0) for name in (LABEL, CAPABILITY, b"user.mine\0"))
    assert lacking.knows(5, ACL, True, 99.0) and not lacking.knows(5, ACL, False, 99.0)
    assert not lacking.knows(6, ACL, True, 99.0), "its attributes are not leased"
    leases.broken(5, b"")
    assert not lacking.knows(5, ACL, True, 99.0)


def test_what_is_asked_of_two_files_is_asked_of_all_more_each_time_and_once() -> None:
    nodes = list(range(10, 1000))
    lacking = Lacking(directory(*nodes))
    asked: list[int] = []
    sizes = []
    for nodeid in nodes:
        if not lacking.knows(nodeid, ACL, True, 10.0):
            lacking.learn(nodeid, ACL, 10.0)
            ahead = lacking.next()
            assert {name for _, name in ahead} <= {ACL}
            sizes.append(len(ahead))
            for each, name in ahead:
                lacking.learn(each, name, 10.0)
            asked += [nodeid, *(each for each, _ in ahead)]
    assert sizes[:4] == [0, 8, 16, 32] and max(sizes) == 256
    assert asked == nodes and not lacking.wants


def test_nothing_is_asked_for_who_writes_nor_of_files_of_which_it_is_not_known_where_they_are() -> None:
    lacking = Lacking(directory(*range(10, 100)))
    for nodeid in range(10, 20):
        assert not lacking.knows(nodeid, CAPABILITY, True, 10.0)
    for nodeid in range(200, 210):
        assert not lacking.knows(nodeid, ACL, True, 10.0)
    assert not lacking.wants


def test_what_is_remembered_is_bounded() -> None:
    lacking = Lacking(Leases())
    for nodeid in range(KNOWN_BARE + 10):
        lacking.learn(nodeid, ACL, 10.0)
    assert len(lacking._known) == KNOWN_BARE
