"""Files fetched ahead: what a job reads of them is never older than a change that is known here, none stays open at
home that nobody uses, and who opens files in an order waits for few, on a narrow link too."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remoteio.errors import ProtocolError
from remoteio.execute.known_ahead import KnownAhead
from remoteio.wire import fuse_abi as abi
from remoteio.wire.coherence import FETCHED, FETCHED_FIRST, FETCHED_LEAST, ORDER_WINDOW, TTL
from remoteio.wire.fetched import pack, parse
from remoteio.wire.known import Listing

TOP = 1
FIRST = 100  # node of the first file


def attr(size: int, ino: int = 0) -> bytes:
    return abi.ATTR.pack(ino, size, *[0] * 14)


class Job:
    """A job's kernel before `facts`, and home behind it: a directory of files, each as long as it says.

    A file's contents are how often it was changed. `open` counts the handles of each that are open at home.
    """

    def __init__(self, count: int, size: int = 10, listed: bool = True) -> None:
        self.facts, self.now, self.size = KnownAhead(), 100.0, size
        self.facts.leases.heard = self.now
        self.asked: dict[int, tuple[int, int, int, int, float, bytes | memoryview]] = {}
        self.replies: list[tuple[int, int, float, int, bytes]] = []  # node, stamp, asked, handle, contents
        self.waiting: set[int] = set()  # files
        self.changes: Counter[int] = Counter()
        self.open: set[int] = set()  # at home
        self.mine: dict[int, int] = {}  # handle that the kernel has -> file
        self.handle = self.waited = self.unique = 0
        shuffled = random.Random(7)
        self.files = [(FIRST + k, b"%08x" % shuffled.getrandbits(32), shuffled.getrandbits(30)) for k in range(count)]
        if listed:
            self.facts.files.orders.listed(TOP, b"".join(map(self.entry, self.files)))

    def entry(self, file: tuple[int, bytes, int]) -> bytes:
        node, name, ino = file
        entry = abi.ENTRY.pack(node, 0, 1, 1, 0, 0) + attr(self.size, ino) + abi.DIRENT.pack(ino, node, len(name), 8)
        return (entry + name).ljust(len(entry) + len(name) + 7 & ~7, b"\0")

    def contents(self, node: int) -> bytes:
        return b"%d" % self.changes[node] + bytes(self.size - len(b"%d" % self.changes[node]))

    def ahead(self) -> None:
        for raw in self.facts.ask_ahead(self.now, self.asked):
            request = abi.Request(raw)
            _, node, _, stamp, at, _ = self.asked.pop(request.unique)
            self.handle += 1
            self.open.add(self.handle)
            self.replies.append((node, stamp, at, self.handle, self.contents(node)))

    def ask_open(self, node: int, flags: int = 0) -> bool:
        """Open a file. Whether it was answered here."""
        self.unique += 1
        raw = abi.request(abi.OPEN, node, abi.OPEN_IN.pack(flags, 0), self.unique)
        answer = self.facts.answer(abi.OPEN, self.unique, node, memoryview(raw), self.now)
        if answer is not None:
            self.given(answer, node)
        elif not self.facts.waits(abi.OPEN, node, (self.unique, raw), self.now):
            self.opened_at_home(node)
        else:
            self.waiting.add(node)
            self.waited += 1
        self.give_back()
        self.ahead()
        return answer is not None

    def opened_at_home(self, node: int) -> None:
        stamp = self.facts.asked(abi.OPEN, node)
        self.waited += 1
        self.handle += 1
        self.open.add(self.handle)
        self.mine[self.handle] = node
        self.facts.answered(abi.OPEN, node, stamp)

    def given(self, answer: bytes, node: int) -> None:
        handle = abi.OPEN_OUT.unpack_from(answer, 16)[0]
        assert handle in self.open and handle not in self.mine
        self.mine[handle] = node
        raw = memoryview(bytes(abi.ARGS) + abi.READ_IN.pack(handle, 0, 1 << 16, 0, 0, 0, 0))
        told = self.facts.answer(abi.READ, 9, node, raw, self.now)
        assert told is None or told[16:] == self.contents(node), "older than a change that was known here"

    def come(self) -> None:
        node, stamp, at, handle, contents = self.replies.pop(0)
        body = pack(handle, attr(len(contents)), TOP, self.files[node - FIRST][1], contents)
        for unique, raw in self.facts.fetched(node, stamp, body, at, self.now):
            answer = self.facts.open_waiting(abi.FETCH, unique, node, raw, at)
            if answer is None:
                self.opened_at_home(node)
            else:
                self.given(answer, node)
            self.waiting.discard(node)
        self.give_back()
        self.ahead()

    def give_back(self) -> None:
        unused, self.facts.files.unused = self.facts.files.unused, []
        for handle in unused:
            assert handle not in self.mine
            self.open.remove(handle)

    def change(self, node: int, how: str) -> None:
        self.changes[node] += 1
        if how == "break":
            self.facts.broken([(node, b"")])
        else:
            op = abi.UNLINK if how == "sweep" else abi.WRITE
            self.facts.answered(op, node, self.facts.asked(op, node))
        self.give_back()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.integers(1, 3)),
        st.tuples(st.just("come"), st.integers(1, 6)),
        st.tuples(st.sampled_from(["write", "break", "sweep"]), st.integers(0, 5)),
        st.tuples(st.just("for writing"), st.integers(0, 4)),
        st.tuples(st.just("wait"), st.integers(1, 12)),
    ),
    max_size=60,
)


@given(STEPS)
@settings(max_examples=200)
def test_nothing_is_read_that_is_older_than_a_change_and_nothing_stays_open(steps: list[tuple[str, int]]) -> None:
    job, at = Job(40), 0
    for what, how in steps:
        node = FIRST + min(at + how, 39)
        if what == "open":
            for _ in range(how):
                if FIRST + at not in job.waiting:
                    job.ask_open(FIRST + at)
                at = min(at + 1, 39)
        elif what == "come":
            for _ in range(min(how, len(job.replies))):
                job.come()
        elif what == "for writing":
            job.ask_open(node, flags=2)
        elif what == "wait":
            job.now += how * TTL / 10
            job.facts.leases.heard = job.now
        else:
            job.change(node, what)
    while job.replies:
        job.come()
    job.now += 2 * TTL
    job.facts.files.expire(job.now)
    job.give_back()
    assert job.open == set(job.mine)
    assert not job.waiting, "nobody answers who waits"


@pytest.mark.parametrize("flags", [2, 0x20])
def test_who_waits_is_answered_though_another_opens_the_file_otherwise(flags: int) -> None:
    job = Job(40)
    for node in range(FIRST, FIRST + 8):  # the next are being fetched by now
        job.ask_open(node)
    waits = FIRST + 8
    assert [each for each, *_ in job.replies].count(waits) == 1 and not job.ask_open(waits) and waits in job.waiting
    before = len(job.mine)
    job.ask_open(waits, flags)
    assert len(job.mine) == before + 1, "it does not wait itself"
    job.ask_open(waits)
    assert len(job.mine) == before + 2, "nor does who comes now: what is under way is not to be used"
    while job.replies:
        job.come()
    assert not job.waiting and len(job.mine) == 8 + 3, "each is told once"
    job.now += 2 * TTL
    job.facts.files.expire(job.now)
    job.give_back()
    assert job.open == set(job.mine) and job.facts.files._flying == 0


def read_all(job: Job, order: list[int]) -> int:
    """Open all of these files, one after the other; how many home was waited for."""
    for node in order:
        job.ask_open(node)
        while node in job.waiting:
            job.come()
        if len(job.replies) >= ORDER_WINDOW // 2:
            while job.replies:
                job.come()
    return job.waited


@pytest.mark.parametrize("by", ["listed", "name", "inode"])
def test_who_opens_files_in_an_order_waits_for_few(by: str) -> None:
    job = Job(1000)
    found = sorted(job.files, key={"listed": lambda f: f[0], "name": lambda f: f[1], "inode": lambda f: f[2]}[by])
    assert read_all(job, [node for node, _, _ in found]) < 50


def test_who_was_told_of_a_directory_as_names_were_looked_up_waits_for_few() -> None:
    """As git is, which never lists what it has in its index."""
    job = Job(300, listed=False)
    stamp = job.facts.asked(abi.LOOKUP, TOP)
    entries = b"".join(map(job.entry, job.files))
    job.facts.learn_listing(abi.LOOKUP, TOP, 0, stamp, Listing(entries, True), job.now)
    by_name = sorted(job.files, key=lambda f: f[1])
    assert read_all(job, [node for node, _, _ in by_name]) < 30


def test_who_passes_over_some_waits_for_few() -> None:
    job = Job(1000)
    first, rest = [FIRST, FIRST + 1, FIRST + 2], [FIRST + k for k in range(3, 1000, 4)]
    assert read_all(job, first + rest) < 50


def test_who_looks_each_name_up_before_waits_for_few() -> None:
    """As the job's kernel does once it has had the names for a second: in the time that takes, one file comes."""
    job, asked = Job(1000), 0
    for node, name, _ in job.files:
        raw = memoryview(bytes(abi.ARGS) + name + b"\0")
        if job.facts.answer(abi.LOOKUP, 8, TOP, raw, job.now) is None:
            asked += 1
            job.ahead()
            if len(job.replies) < ORDER_WINDOW or asked % 8 == 0:
                while job.replies:
                    job.come()
        read_all(job, [node])
    assert asked < 100


def test_a_directory_that_is_opened_next_is_read_in_the_same_order() -> None:
    job = Job(200)
    read_all(job, [node for node, _, _ in job.files])
    more = [(FIRST + 1000 + k, b"%03d" % k, k) for k in range(20)]
    job.facts.files.orders.listed(TOP + 1, b"".join(map(job.entry, more)))
    raw = memoryview(bytes(abi.ARGS))
    job.facts.answer(abi.OPENDIR, 3, TOP + 1, raw, job.now)
    job.ahead()
    assert {node for node, *_ in job.replies} == {node for node, _, _ in more}


def test_who_opens_files_in_no_order_is_sent_few_in_vain() -> None:
    job = Job(1000)
    order = [node for node, _, _ in job.files]
    random.Random(3).shuffle(order)
    for node in order:
        job.ask_open(node)
        while job.replies:
            job.come()
        job.now += TTL / 20
        job.facts.leases.heard = job.now
    job.facts.files.expire(job.now + 2 * TTL)
    assert job.handle < 1050


def test_who_changes_names_meanwhile_is_sent_nothing() -> None:
    job = Job(100)
    for node, _, _ in job.files:
        job.ask_open(node)
        job.change(node, "sweep")
        assert not job.replies


def test_nothing_is_asked_for_once_home_says_that_it_fetches_nothing() -> None:
    job = Job(100)
    for node, _, _ in job.files[:3]:
        job.ask_open(node)
    assert job.replies
    job.facts.files.refused()
    node, stamp, at, handle, _ = job.replies.pop()
    job.open.discard(handle)
    assert job.facts.fetched(node, stamp, b"", at, job.now) == []
    job.ahead()
    assert not job.replies


def test_on_a_narrow_link_little_is_under_way() -> None:
    """A link on which a file takes a tenth of a round trip: there are never many before what is asked for."""
    job, flying = Job(1000, size=8 << 10), []
    free = 0.0  # when the link is free
    for k, (node, _, _) in enumerate(job.files):
        job.ask_open(node)
        while node in job.waiting or (job.replies and len(job.replies) > 40):
            free = max(free, job.replies[0][2]) + 0.008
            job.now = max(job.now, free + 0.02)
            job.facts.leases.heard = job.now
            job.come()
        if k > 500:
            flying.append(sum(len(each[4]) for each in job.replies))
    assert FETCHED_LEAST <= max(flying) <= FETCHED_FIRST < FETCHED


@pytest.mark.parametrize("cut", [0, 15, 16, 103, 104, 119, 121, 130])
def test_a_reply_that_is_cut_short_is_refused(cut: int) -> None:
    body = pack(5, attr(9), 2, b"name", b"contents.")
    assert parse(body) == (5, attr(9), 2, b"name", b"contents.")
    with pytest.raises(ProtocolError):
        parse(body[:cut])
    with pytest.raises(ProtocolError):
        parse(body + b"x")


def test_files_are_listed_from_one_on_and_those_of_directories_that_were_listed_later() -> None:
    facts, kinds = KnownAhead(), {3: 4, 5: 10}
    orders = facts.files.orders

    def listing(nodes: range) -> bytes:
        told = (abi.ENTRY.pack(k, 0, 1, 1, 0, 0) + attr(1) + abi.DIRENT.pack(k, k, 8, kinds.get(k, 8)) for k in nodes)
        return b"".join(each + bytes(8) for each in told)

    for directory, nodes in ((90, range(2, 7)), (91, range(10, 13)), (92, range(20, 24))):
        orders.listed(directory, listing(nodes))
    assert orders.onward(4, 99) == [4, 6, 2, 3, 10, 11, 12, 20, 21, 22, 23], "with directories, without links"
    assert orders.onward(3, 5) == [3, 4, 6, 2, 10] and orders.onward(11, 99) == [11, 12, 10, 20, 21, 22, 23]
    assert orders.onward(5, 99) == orders.onward(99, 99) == []
