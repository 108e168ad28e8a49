"""Directories listed ahead: what a job is told of them is never older than its own last change, nor than the TTL, and
every lookup that a listing counted is given out or given back."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from remoteio.errors import ProtocolError
from remoteio.execute.known_ahead import KnownAhead
from remoteio.wire import fuse_abi as abi
from remoteio.wire import leases as wire
from remoteio.wire.coherence import BARE_ASKED, TTL
from remoteio.wire.known import Listing, Piggyback
from remoteio.wire.listed import pack, parse, walk

WIDE = 3
TOP = 1
ALL = sum(WIDE**k for k in range(6))


def children(nodeid: int) -> list[int]:
    """The directories in one: a tree of ALL, WIDE wide."""
    return [nodeid * WIDE - 1 + k for k in range(WIDE)] if nodeid * WIDE <= ALL else []


class Home:
    """Answers as the submit side does; the size of each file is how often the job has changed it."""

    def __init__(self) -> None:
        self.counted: Counter[int] = Counter()
        self.sizes: Counter[int] = Counter()

    def listing(self, nodeid: int) -> bytes:
        """The directories in it, and one file, whose node is minus its directory's (as an unsigned number)."""
        out = b""
        for k, each in enumerate([*children(nodeid), file_in(nodeid)], 1):
            kind, name = (8 if each >= 1 << 40 else 4), b"%x" % each
            attr = abi.ATTR.pack(each, self.sizes[each], *[0] * 14)
            entry = abi.ENTRY.pack(each, 0, 1, 1, 0, 0) + attr + abi.DIRENT.pack(each, k, len(name), kind) + name
            out += entry.ljust(len(entry) + 7 & ~7, b"\0")
            self.counted[each] += 1
        return out


def file_in(nodeid: int) -> int:
    return (1 << 40) + nodeid


class Job:
    """A job's kernel before `facts`, the relay's own requests under way, and the submit side behind."""

    def __init__(self, leased: bool = False) -> None:
        """`leased`: home leases what it lists."""
        self.facts, self.home, self.now, self.leased = KnownAhead(), Home(), 100.0, leased
        self.facts.leases.heard = 1e9
        self.asked: dict[int, tuple[int, int, int, int, float, bytes | memoryview]] = {}
        self.replies: list[tuple[int, int, bytes]] = []  # (nodeid, stamp, body) that are under way
        self.handles: list[int] = []
        self.of: dict[int, int] = {}  # handle -> directory
        self.looked: Counter[int] = Counter()  # at home, by directory
        self.fh = 1
        self.thread = 0

    def request(self, op: int, nodeid: int, args: bytes, unique: int) -> bytes:
        """Make a request of that thread's."""
        return abi.IN_HEADER.pack(abi.ARGS + len(args), op, unique, nodeid, 0, 0, self.thread, 0, 0) + args

    def ahead(self) -> None:
        for raw in self.facts.ask_ahead(self.now, self.asked):
            request = abi.Request(raw)
            op, nodeid, _, stamp, *_ = self.asked.pop(request.unique)
            assert op == abi.LIST and nodeid == request.nodeid
            most, out, left = abi.LIST_IN.unpack_from(raw, abi.ARGS)[0], [], [nodeid]
            while left and len(out) < most:
                each = left.pop()
                out.append(pack(each, bytes(abi.ATTR.size), self.home.listing(each), self.leased))
                left += reversed(children(each))
            self.replies.append((nodeid, stamp, b"".join(out)))

    def open(self, nodeid: int) -> bool:
        """Whether it was answered here."""
        raw = self.request(abi.OPENDIR, nodeid, bytes(abi.OPEN_IN.size), 2)
        answer = self.facts.answer(abi.OPENDIR, 2, nodeid, memoryview(raw), self.now)
        if answer is not None:
            self.opened(abi.OPEN_OUT.unpack_from(answer, 16)[0], nodeid)
        elif not self.facts.waits(abi.OPENDIR, nodeid, (2, raw), self.now):
            stamp, self.fh = self.facts.asked(abi.OPENDIR, nodeid), self.fh + 1
            listing = Listing(self.home.listing(nodeid), True)
            told = (nodeid, bytes(abi.ATTR.size), Piggyback(bytes(abi.ATTR.size), listing=listing), False)
            if self.leased:
                self.facts.lease(nodeid, stamp, wire.ATTR | wire.LISTED, b"", told)
            self.facts.learn_listing(abi.OPENDIR, nodeid, self.fh, stamp, listing, self.now)
            self.opened(self.fh, nodeid)
        self.ahead()
        return answer is not None

    def opened(self, fh: int, nodeid: int) -> None:
        self.handles.append(fh)
        self.of[fh] = nodeid

    def look(self, nodeid: int, name: bytes) -> str:
        """Look a name up: who answered, "here", "home", or "waits": a listing that is under way will."""
        raw = self.request(abi.LOOKUP, nodeid, name + b"\0", 2)
        answer = self.facts.answer(abi.LOOKUP, 2, nodeid, memoryview(raw), self.now)
        who = "here"
        if answer is not None:
            self.given(answer)
        elif self.facts.waits(abi.LOOKUP, nodeid, (2, raw), self.now):
            who = "waits"
        else:
            who = "home"
            stamp = self.facts.asked(abi.LOOKUP, nodeid)
            self.looked[nodeid] += 1
            if self.looked[nodeid] % 3 == 0:
                listing = Listing(self.home.listing(nodeid), True)
                self.facts.learn_listing(abi.LOOKUP, nodeid, 0, stamp, listing, self.now)
        self.ahead()
        return who

    def given(self, answer: bytes) -> None:
        """Take the reply to a LOOKUP: the kernel has what it counts; it is not older than the last change."""
        nodeid = abi.ENTRY.unpack_from(answer, 16)[0]
        self.home.counted[nodeid] -= bool(nodeid)
        size = abi.ATTR.unpack_from(answer, 16 + abi.ENTRY.size)[1]
        assert not nodeid or size == self.home.sizes[nodeid], "older than the job's own change"

    def come(self) -> int:
        nodeid, stamp, body = self.replies.pop(0)
        waiting = self.facts.listed_ahead(nodeid, stamp, body, self.now)
        for unique, raw in waiting:
            answer = self.facts.open_waiting(abi.LIST, unique, nodeid, raw, self.now)
            if answer is not None and abi.IN_HEADER.unpack_from(raw)[1] == abi.LOOKUP:
                self.given(answer)
            elif answer is not None:
                self.opened(abi.OPEN_OUT.unpack_from(answer, 16)[0], nodeid)
        self.ahead()
        return len(waiting)

    def read(self, fh: int, offset: int = 0) -> list[tuple[int, int]]:
        """(node, size) of each entry; the nodes count as given out."""
        raw = memoryview(self.request(abi.READDIRPLUS, self.of[fh], abi.READ_IN.pack(fh, offset, 4096, 0, 0, 0, 0), 4))
        answer = self.facts.answer(abi.READDIRPLUS, 4, self.of[fh], raw, self.now)
        self.ahead()
        found = []
        for start, _, nodeid, _, _, _ in walk(answer[16:]) if answer is not None else []:
            assert answer is not None
            found.append((nodeid, abi.ATTR.unpack_from(answer, 16 + start + abi.ENTRY.size)[1]))
            self.home.counted[nodeid] -= bool(nodeid)
        return found

    def close(self, fh: int) -> None:
        self.facts.ahead.closed(self.of[fh], fh)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["open", "look", "look all"]), st.integers(0, 3)),
        st.tuples(st.sampled_from(["come", "read", "close", "write", "unlink", "up"]), st.just(0)),
        st.tuples(st.just("wait"), st.integers(1, 12)),
    ),
    max_size=40,
)


@given(STEPS)
@settings(max_examples=200)
@example([("open", 0), ("write", 0), ("read", 0)])
@example([("open", 0), ("unlink", 0), ("read", 0)])
@example([("open", 0), ("open", 0), ("come", 0), ("open", 0), ("write", 0), ("read", 0)])
@example([*[("look all", 3), ("open", 0)] * 3, ("look all", 3), ("come", 0), ("write", 0), ("look", 3)])
@example([*[("look all", 3), ("open", 0)] * 3, ("look all", 3), ("come", 0), ("open", 0), ("unlink", 0), ("look", 3)])
def test_a_listing_ahead_is_never_older_than_a_change_and_every_lookup_is_given_out_or_back(
    steps: list[tuple[str, int]],
) -> None:
    job = Job()
    path = [TOP]
    for what, how in steps:
        if what == "open":
            nodeid = [*children(path[-1]), *[path[-1]] * (WIDE + 1)][how]
            path.append(nodeid)
            job.open(nodeid)
        elif what in ("look", "look all"):
            names = [b"%x" % each for each in (*children(path[-1]), file_in(path[-1]))]
            for name in names if what == "look all" else [*names, b"none"][how : how + 1]:
                job.look(path[-1], name)
        elif what == "up" and len(path) > 1:
            path.pop()
        elif what == "come" and job.replies:
            job.come()
        elif what == "read" and job.handles:
            for nodeid, size in job.read(job.handles[-1]):
                assert not nodeid or size == job.home.sizes[nodeid], "older than the job's own change"
        elif what == "close" and job.handles:
            job.close(job.handles.pop())
        elif what == "write":
            file = file_in(path[-1])
            stamp = job.facts.asked(abi.WRITE, file)
            job.home.sizes[file] += 1
            job.facts.answered(abi.WRITE, file, stamp)
        elif what == "unlink":
            stamp = job.facts.asked(abi.UNLINK, path[-1])
            job.home.sizes[file_in(path[-1])] += 1
            job.facts.answered(abi.UNLINK, path[-1], stamp)
        elif what == "wait":
            job.now += how * TTL / 10
    while job.replies:
        job.come()
    for fh in job.handles:
        job.close(fh)
    job.facts.asked(abi.UNLINK, TOP)
    job.home.counted.subtract(job.facts.listings.unused)
    assert not +job.home.counted and not -job.home.counted


def walk_down(job: Job, nodeid: int) -> tuple[int, int]:
    """Open all directories as `find` does: how many there are, and for how many home was waited for."""
    here = job.open(nodeid)
    waited = 0 if here else 1
    while job.replies:
        job.come()
    found = job.read(job.handles[-1])
    job.close(job.handles.pop())
    opened = 1
    for each in [each for each, _ in found if each and each < 1 << 40]:
        more, waits = walk_down(job, each)
        opened, waited = opened + more, waited + waits
    return opened, waited


def test_who_walks_a_tree_waits_for_few_of_its_directories() -> None:
    opened, waited = walk_down(Job(), TOP)
    assert opened == ALL == 364
    assert waited < 12


def test_who_opens_directories_here_and_there_walks_no_tree() -> None:
    """A python lists those of its modules: none is beside another, in the listing or in the alphabet."""
    wide = [b"%02d" % (37 * k % 60) for k in range(60)]

    def listing(nodeid: int) -> bytes:
        out = b""
        for k, name in enumerate(wide if nodeid == TOP else [], 1):
            attr = abi.ATTR.pack(1000 + k, *[0] * 15)
            entry = abi.ENTRY.pack(1000 + k, 0, 1, 1, 0, 0) + attr + abi.DIRENT.pack(1000 + k, k, len(name), 4) + name
            out += entry.ljust(len(entry) + 7 & ~7, b"\0")
        return out

    for order, walks in (
        ((10, 30, 21, 50, 40), False),
        (range(1, 61), True),
        (sorted(range(1, 61), key=lambda k: wide[k - 1]), True),
        ((10, 30, 21, 50, 40, *range(1, 9)), True),
    ):
        job = Job()
        job.home.listing = listing  # type: ignore[method-assign]
        for nodeid in (TOP, *(1000 + k for k in order)):
            job.open(nodeid)
        assert bool(job.replies) == walks


def test_who_walks_a_tree_again_waits_for_few_of_its_directories() -> None:
    job = Job()
    walk_down(job, TOP)
    job.now += 5 * TTL
    opened, waited = walk_down(job, TOP)
    assert opened == ALL
    assert waited < 12


def test_who_walks_a_tree_again_that_is_leased_asks_nothing() -> None:
    job = Job(leased=True)
    walk_down(job, TOP)
    for _ in range(2):
        job.now += 5 * TTL
        assert walk_down(job, TOP) == (ALL, 0)


def test_who_wants_attributes_of_files_is_told_them_with_the_listing() -> None:
    """Those of a lease have none."""
    job = Job(leased=True)
    walk_down(job, TOP)
    job.now += 5 * TTL
    assert job.open(TOP) and (file_in(TOP), 0) not in job.read(job.handles[-1])
    assert job.look(TOP, b"%x" % children(TOP)[0]) == "here", "of a directory there are some"
    assert job.open(children(TOP)[0])
    for count, each in enumerate((TOP, *children(TOP)[: BARE_ASKED - 1]), 1):
        assert job.open(each)
        job.read(job.handles[-1])
        assert job.look(each, b"%x" % file_in(each)) == "home"
        job.now += 5 * TTL
        last = children(children(TOP)[0])[count % WIDE]
        assert job.open(last) == (count < BARE_ASKED), "one may be of what has changed"


def flat(job: Job, count: int) -> list[bytes]:
    """Have TOP be a directory of so many files, listed in no order, and open it so that it is leased: their names."""
    names = [b"%02d" % (7 * k % count) for k in range(count)]

    def listing(nodeid: int) -> bytes:
        out = b""
        for k, name in enumerate(names, 1):
            attr = abi.ATTR.pack(1000 + k, *[0] * 15)
            entry = abi.ENTRY.pack(1000 + k, 0, 1, 1, 0, 0) + attr
            entry += abi.DIRENT.pack(3 * (1000 + k) % 97, k, len(name), 8) + name
            out += entry.ljust(len(entry) + 7 & ~7, b"\0")
        return out

    job.home.listing = listing  # type: ignore[method-assign]
    job.open(TOP)
    job.now += 5 * TTL
    return names


@pytest.mark.parametrize("order", ["listed", "names", "inodes"])
def test_who_asks_for_files_in_a_row_is_told_their_attributes_and_nobody_else_is_hindered(order: str) -> None:
    job = Job(leased=True)
    names = flat(job, 40)
    by = {"listed": names, "names": sorted(names)}
    ranked = by.get(order) or sorted(names, key=lambda name: 3 * (1001 + names.index(name)) % 97)
    job.thread = 7
    assert job.open(TOP) and job.read(job.handles[-1])
    for name in ranked[5 : 5 + BARE_ASKED]:
        assert job.facts.ahead.bare.do(TOP + 1), "not yet"
        job.look(TOP, name)
    assert not job.open(TOP) and not job.facts.ahead.bare.do(TOP + 1)
    job.thread = 8
    assert not job.open(TOP), "he would want the same"
    assert job.facts.ahead.bare.do(TOP + 1), "but who knows of another directory"


def test_who_asks_for_a_few_files_here_and_there_opens_the_directory_again() -> None:
    """A python looks at its modules."""
    job = Job(leased=True)
    names = flat(job, 40)
    for k in range(0, 40, 4):
        assert job.open(TOP)
        job.read(job.handles[-1])
        for name in (names[k], names[k + 1], names[(k + 20) % 40]):
            job.look(TOP, name)
        job.look(TOP, b"none")
        job.now += 5 * TTL
    assert job.open(TOP)


def test_who_opens_a_file_after_each_that_he_asks_for_opens_the_directory_again() -> None:
    """Be they in a row: those that are told alone may be few."""
    job = Job(leased=True)
    names = flat(job, 40)
    for k in range(0, 40, 10):
        assert job.open(TOP)
        job.read(job.handles[-1])
        for name in names[k : k + 10]:
            job.look(TOP, name)
            raw = job.request(abi.OPEN, 5000, bytes(abi.OPEN_IN.size), 8)
            assert job.facts.answer(abi.OPEN, 8, 5000, memoryview(raw), job.now) is None
        job.now += 5 * TTL
    assert job.open(TOP)


def test_who_reads_nothing_of_a_directory_opens_it_again_though_he_wants_attributes() -> None:
    """Each program does so that looks for its messages in one."""
    job = Job(leased=True)
    walk_down(job, TOP)
    for each in (TOP, *children(TOP)[: BARE_ASKED - 1]):
        assert job.open(each)
        job.read(job.handles[-1])
        job.look(each, b"%x" % file_in(each))
    read, unread, again = (children(each)[0] for each in children(TOP))
    for each in (read, unread, again):
        assert not job.open(each)
    for each, fh in zip((read, unread, again), job.handles[-3:]):
        if each == read:
            job.read(fh)
        job.close(fh)
    assert not job.open(read) and job.open(unread) and job.open(unread) and job.open(again)
    assert job.read(job.handles[-1]), "he may read it all the same"
    job.close(job.handles[-1])
    assert not job.open(again), "but once"


def look_down(job: Job, nodeid: int) -> tuple[int, int]:
    """Look all names up as `git status` does: how many there are, and for how many home was waited for."""
    looked = waited = 0
    for name in [b"%x" % file_in(nodeid), *sorted(b"%x" % each for each in children(nodeid))]:
        looked += 1
        waited += job.look(nodeid, name) != "here"
        while job.replies:
            job.come()
    for each in sorted(children(nodeid), key=lambda child: b"%x" % child):
        more, waits = look_down(job, each)
        looked, waited = looked + more, waited + waits
    return looked, waited


def test_who_looks_up_all_names_of_a_tree_waits_for_few() -> None:
    job = Job()
    for _ in range(2):
        looked, waited = look_down(job, TOP)
        assert looked > 3 * ALL // 2
        assert waited < looked // 20
        job.now += 5 * TTL


def test_who_looks_names_up_in_directories_that_are_not_side_by_side_is_told_nothing_ahead() -> None:
    """As who searches a path of directories does, or goes down into one."""
    down = [TOP]
    while children(down[-1]):
        down.append(children(down[-1])[0])
    job = Job()
    for nodeid in down:
        for each in (*children(nodeid), file_in(nodeid)):
            job.look(nodeid, b"%x" % each)
        assert not job.replies
    job = Job()
    for nodeid in (TOP, *children(TOP)[2:0:-1], *children(children(TOP)[0])[::2]):
        for each in (*children(nodeid), file_in(nodeid)):
            job.look(nodeid, b"%x" % each)
        assert not job.replies


def test_who_opens_directories_in_no_tree_is_told_nothing_ahead() -> None:
    job = Job()
    for nodeid in range(ALL, ALL + 40):
        job.open(nodeid)
        assert not job.replies


def test_who_walks_and_changes_names_is_told_nothing_ahead() -> None:
    """As `rm -r` and `tar x` do: what was told would not hold."""
    job = Job()
    for nodeid in (TOP, *children(TOP), *children(children(TOP)[0])):
        job.open(nodeid)
        job.facts.answered(abi.UNLINK, nodeid, job.facts.asked(abi.UNLINK, nodeid))
        assert not job.replies


def test_what_was_listed_ahead_in_vain_is_guessed_less() -> None:
    job = Job()
    for nodeid in (TOP, children(TOP)[0], children(children(TOP)[0])[0]):
        job.open(nodeid)
    before = job.facts.ahead.walks.window
    assert job.replies and before
    while job.replies:
        job.come()
    job.now += 1.1 * TTL
    job.ahead()
    assert job.facts.ahead.walks.window < before


def test_a_directory_that_is_gone_back_to_is_opened_here_and_read_at_home() -> None:
    job, inner = Job(), children(children(TOP)[0])[0]
    for nodeid in (TOP, children(TOP)[0], inner):
        job.open(nodeid)
    assert job.open(TOP), "it was opened just now"
    assert job.handles[-1] >= abi.OWN and job.read(job.handles[-1]) == []
    job.now += 1.1 * TTL
    assert not job.open(TOP)


def test_entries_that_are_told_late_are_names_alone() -> None:
    """Their attributes, and what has the name, may be others by then."""
    job = Job()
    for nodeid in (TOP, children(TOP)[0], children(children(TOP)[0])[0]):
        job.open(nodeid)
        while job.replies:
            job.come()
    inner = children(children(children(TOP)[0])[0])[0]
    assert job.open(inner)
    job.now += 1.1 * TTL
    found = job.read(job.handles[-1])
    assert [nodeid for nodeid, _ in found] == [0] * (WIDE + 1)


@pytest.mark.parametrize("cut", [1, 17, 90, 104, 105, 200])
def test_a_reply_that_is_cut_short_is_refused(cut: int) -> None:
    body = pack(2, bytes(abi.ATTR.size), Home().listing(2))
    with pytest.raises(ProtocolError):
        parse(body[:cut])
    assert parse(body) == [(2, bytes(abi.ATTR.size), body[16 + abi.ATTR.size :], False)]
    with pytest.raises(ProtocolError):
        parse(body[:12] + b"\2" + body[13:])


def test_a_refused_list_asks_again_for_who_waits() -> None:
    job = Job()
    for nodeid in (TOP, children(TOP)[0], children(children(TOP)[0])[0]):
        job.open(nodeid)
    nodeid = job.replies[0][0]
    waits = job.facts.ahead.waits(nodeid, (6, b"raw"))
    assert waits and job.facts.listed_ahead(nodeid, job.replies[0][1], b"", job.now) == [(6, b"raw")]
    assert job.facts.ahead.open(6, nodeid, job.now, None) is None
