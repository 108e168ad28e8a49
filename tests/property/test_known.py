"""What is answered ahead is never what a change made old, and every counted lookup is given out or given back."""

from __future__ import annotations

import errno
from collections import Counter
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from remoteio.execute.known import Known
from remoteio.execute.known_listings import KnownListings
from remoteio.wire import fuse_abi as abi
from remoteio.wire.coherence import KNOWN_CHANGES, TTL
from remoteio.wire.listed import walk

NODES = st.integers(2, 6)
NAME = st.sampled_from([b"a", b"bb", b"a-longer-name", b"\xff"])


def attr(size: int) -> bytes:
    return abi.ATTR.pack(0, size, *[0] * 14)


def direntplus(nodeid: int, name: bytes, offset: int) -> bytes:
    entry = abi.ENTRY.pack(nodeid, 0, 1, 1, 0, 0) + attr(nodeid) + abi.DIRENT.pack(nodeid, offset, len(name), 8) + name
    return entry.ljust(len(entry) + 7 & ~7, b"\0")


def listing(entries: dict[bytes, int]) -> bytes:
    return b"".join(direntplus(nodeid, name, k) for k, (name, nodeid) in enumerate(entries.items(), 1))


def getattr_size(facts: Known, nodeid: int, now: float) -> int | None:
    known = facts.answer(abi.GETATTR, 1, nodeid, memoryview(b""), now)
    return None if known is None else abi.ATTR.unpack_from(known, 16 + abi.ATTR_OUT.size)[1]


@given(st.lists(st.sampled_from(["ask", "answer", "replace", "replaced", "read", "wait"]), max_size=60))
def test_a_link_that_is_read_points_where_it_did_when_it_was_looked_up(steps: list[str]) -> None:
    """Or it is asked for: after the job has replaced one, and after a while. Once read, it is the kernel's to know."""
    facts, now, truth = Known(), 0.0, 0
    lookups: list[tuple[int, int]] = []
    renames: list[int] = []
    told, until = -1, 0.0
    for what in steps:
        if what == "ask":
            lookups.append((facts.asked(abi.LOOKUP, 2), truth))
        elif what == "answer" and lookups:
            stamp, target = lookups.pop()
            facts.learn_link(5, stamp, b"%d" % target, now)
            if target == truth:  # else it is of before a change, and comes too late
                told, until = target, now + TTL
        elif what == "replace":
            renames.append(facts.asked(abi.RENAME, 2))
            truth += 1
        elif what == "replaced" and renames:
            facts.answered(abi.RENAME, 2, renames.pop())
        elif what == "wait":
            now += TTL * 0.6
        elif what == "read":
            reply = facts.answer(abi.READLINK, 1, 5, memoryview(b""), now)
            assert reply is None or (reply[16:] == b"%d" % truth and told == truth and now <= until)
            assert facts.answer(abi.READLINK, 1, 5, memoryview(b""), now) is None


@given(
    st.lists(st.tuples(st.sampled_from(["ask", "answer", "change", "changed"]), NODES), max_size=60),
    st.sampled_from([1, 3, KNOWN_CHANGES]),
)
def test_attributes_are_never_older_than_the_last_change(steps: list[tuple[str, int]], most: int) -> None:
    """Opens and writes under way at once, answered in any order: what is known is what the last write left."""
    with patch("remoteio.execute.known.KNOWN_CHANGES", most):
        _attributes_are_as_the_last_write_left_them(Known(), steps)


def _attributes_are_as_the_last_write_left_them(facts: Known, steps: list[tuple[str, int]]) -> None:
    truth: Counter[int] = Counter()
    opens: list[tuple[int, int, int]] = []  # nodeid, stamp, size as the submit side saw it
    writes: list[tuple[int, int, int]] = []
    for what, nodeid in steps:
        if what == "ask":
            opens.append((nodeid, facts.asked(abi.OPEN, nodeid), truth[nodeid]))
        elif what == "change":
            stamp = facts.asked(abi.WRITE, nodeid)
            truth[nodeid] += 1
            writes.append((nodeid, stamp, truth[nodeid]))
        elif what == "answer" and opens:
            node, stamp, size = opens.pop(nodeid % len(opens))
            if facts.holds(node, stamp):
                facts.learn(node, attr(size), b"", 0.0)
            facts.answered(abi.OPEN, node, stamp)
        elif what == "changed" and writes:
            node, stamp, size = writes.pop(nodeid % len(writes))
            if facts.holds(node, stamp):
                facts.learn(node, attr(size), b"", 0.0)
            facts.answered(abi.WRITE, node, stamp)
        for node in range(2, 7):
            assert getattr_size(facts, node, 0.5) in (None, truth[node])


def test_of_more_changes_than_are_kept_only_the_oldest_make_unsure_what_was_told() -> None:
    """Else a job that changes that many files asks for all again that it has written, at each so many."""
    facts = Known()
    early = facts.asked(abi.GETATTR, 2)
    for node in range(10, 10 + KNOWN_CHANGES):
        facts.asked(abi.WRITE, node)
    late = facts.asked(abi.GETATTR, 2)
    for node in range(10 + KNOWN_CHANGES, 20 + KNOWN_CHANGES):
        facts.asked(abi.WRITE, node)
    assert facts.holds(2, late) and not facts.holds(15 + KNOWN_CHANGES, late)
    assert not facts.holds(2, early) and not facts.holds(10, early)


def test_nothing_is_known_longer_than_its_time() -> None:
    facts = Known()
    facts.learn(5, attr(3), b"abc", 10.0)
    read = abi.READ_IN.pack(1, 1, 100, 0, 0, 0, 0)
    raw = memoryview(abi.request(abi.READ, 5, read))
    assert facts.answer(abi.READ, 9, 5, raw, 10.5) == abi.reply(9, b"bc")
    assert facts.answer(abi.READ, 9, 5, raw, 10.0 + TTL + 0.01) is None
    assert getattr_size(facts, 5, 10.0 + TTL + 0.01) is None


def test_a_direct_read_is_never_answered_here() -> None:
    facts = Known()
    facts.learn(5, attr(3), b"abc", 0.0)
    raw = memoryview(abi.request(abi.READ, 5, abi.READ_IN.pack(1, 0, 100, 0, 0, 0o40000, 0)))
    assert facts.answer(abi.READ, 9, 5, raw, 0.1) is None


def test_no_capability_is_remembered_until_an_attribute_is_set() -> None:
    facts = Known()
    facts.lacking.learn(5, b"security.capability\0", 0.0)
    raw = memoryview(abi.request(abi.GETXATTR, 5, abi.GETXATTR_IN.pack(0, 0) + b"security.capability\0"))
    other = memoryview(abi.request(abi.GETXATTR, 5, abi.GETXATTR_IN.pack(0, 0) + b"user.x\0"))
    assert facts.answer(abi.GETXATTR, 1, 5, raw, 0.1) == abi.failure(1, errno.ENODATA)
    assert facts.answer(abi.GETXATTR, 1, 5, other, 0.1) is None
    facts.asked(abi.SETXATTR, 5)
    assert facts.answer(abi.GETXATTR, 1, 5, raw, 0.1) is None


STEP = st.one_of(
    st.tuples(st.just("learn"), NODES, st.dictionaries(NAME, st.integers(0, 9), max_size=4)),
    st.tuples(st.just("opened"), NODES, st.dictionaries(NAME, st.integers(0, 9), max_size=4)),
    st.tuples(st.just("lookup"), NODES, NAME),
    st.tuples(st.just("read"), NODES, st.integers(100, 600)),
    st.tuples(st.just("closed"), NODES, st.none()),
    st.tuples(st.just("changed"), st.integers(2, 9), st.none()),
    st.tuples(st.just("sweep"), NODES, st.none()),
)


@given(st.lists(STEP, max_size=40))
def test_every_counted_lookup_is_given_out_or_given_back_once(steps: list[tuple[str, int, object]]) -> None:
    names = KnownListings()
    counted: Counter[int] = Counter()
    given_out: Counter[int] = Counter()
    offsets: dict[int, int] = {}
    now = 0.0
    for what, number, value in steps:
        now += 0.01
        if what in ("learn", "opened"):
            assert isinstance(value, dict)
            told = listing(value)
            counted.update(nodeid for nodeid in value.values() if nodeid)
            if what == "learn":
                names.learn(number, told, walk(told), now + TTL)
            else:
                names.closed(number)
                names.opened(number, told, True, now)
                offsets[number] = 0
        elif what == "lookup":
            assert isinstance(value, bytes)
            known = names.lookup(1, number, value, now)
            if known is not None:
                given_out.update([n] if (n := abi.ENTRY.unpack_from(known, 16)[0]) else [])
        elif what == "read":
            assert isinstance(value, int)
            known = names.read(1, number, offsets.get(number, 0), value, now)
            for _, _, nodeid, _, offset, _ in walk(known[16:]) if known else []:
                given_out.update([nodeid] if nodeid else [])
                offsets[number] = offset
        elif what == "closed":
            names.closed(number)
        elif what == "changed":
            names.changed(number)
        else:
            names.sweep()
    names.sweep()
    for fh in range(2, 7):
        names.closed(fh)
    assert given_out + Counter(names.unused) == counted


def test_a_name_that_is_not_there_is_known_not_to_be() -> None:
    names = KnownListings()
    told = listing({b"a": 3})
    names.learn(2, told, walk(told), TTL)
    known = names.lookup(1, 2, b"b", 0.1)
    assert known is not None and abi.ENTRY.unpack_from(known, 16)[0] == 0
    assert names.lookup(1, 2, b"a", 0.1) is not None
    assert names.lookup(1, 2, b"a", 0.1) is None  # given out once; then the submit side is asked
    assert names.lookup(1, 2, b"b", 1.1) is None
