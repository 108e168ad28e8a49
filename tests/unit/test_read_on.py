"""Large files that are read from one end to the other: remoteio/execute/read_on.py."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from remoteio.execute.kept_reads import FAR
from remoteio.execute.known_ahead import anew
from remoteio.execute.known_reads import KnownReads
from remoteio.execute.read_on import AFTER, EACH, MOST, PIECE
from remoteio.wire import fuse_abi as abi
from remoteio.wire.coherence import TTL

NODE, FH, NOW, TRIP = 5, 9, 1000.0, 0.02
SIZE = 128 << 10  # of what the kernel asks for
STAMPED = 8  # bytes, by which contents tell when they were read


class Job:
    """A kernel that reads a file, the relay's tables, and a home that answers when it is told to.

    Each byte that home gives tells how often the file had been changed.
    """

    def __init__(self) -> None:
        self.facts = KnownReads()
        self.reads = self.facts.opened.reads
        self.now, self.unique, self.changes = NOW, 100, 0
        self.asked: dict[int, tuple[int, int, int, int, float, bytes | memoryview]] = {}
        self.home: list[int] = []  # the kernel's READs that went there
        self.answers: dict[int, bytes] = {}
        self.locked: set[int] = set()

    def read(self, offset: int, flags: int = 0, fh: int = FH, node: int = NODE) -> int:
        """Have the kernel ask for that; the number of the READ."""
        self.unique += 1
        raw = abi.request(abi.READ, node, abi.READ_IN.pack(fh, offset, SIZE, 0, 0, flags, 0), self.unique)
        self.asked[self.unique] = abi.READ, node, 0, self.facts.asked(abi.READ, node), self.now, raw
        if not self.facts.waits(abi.READ, node, (self.unique, raw), self.now):
            self.home.append(self.unique)
        self.goes_on()
        return self.unique

    def goes_on(self) -> None:
        """Do what the relay does when something has moved."""
        for unique, parts in self.reads.ready():
            del self.asked[unique]
            self.answers[unique] = b"".join(parts)
        for each in self.reads.next(TRIP, self.locked):
            self.facts.reads(*each, self.now, self.asked)
        self.home += [unique for unique, _ in self.reads.released]
        self.reads.released.clear()

    @property
    def ahead(self) -> list[int]:
        """What was asked for by the relay and not answered."""
        return [unique for unique in self.asked if unique >= abi.OWN]

    def ranges(self) -> list[tuple[int, int]]:
        return [abi.READ_IN.unpack_from(self.asked[unique][5], abi.ARGS)[1:3] for unique in self.ahead]

    def contents(self, size: int) -> bytes:
        return self.changes.to_bytes(STAMPED, "little") * (size // STAMPED)

    def answer(self, unique: int, data: bytes | None = None) -> bytes | None:
        """Have home answer that, with what the file holds unless something is given; the RELEASE that it lets go."""
        _, node, _, stamp, at, raw = self.asked.pop(unique)
        if unique < abi.OWN:
            self.home.remove(unique)
            self.answers[unique] = self.contents(SIZE)
            self.reads.arrived(SIZE, at, self.now)
            return None
        size = abi.READ_IN.unpack_from(raw, abi.ARGS)[2]
        data = self.contents(size) if data is None else data
        release = self.reads.came(unique, memoryview(data), self.facts.holds(node, stamp), self.now)
        self.goes_on()
        return release

    def write(self) -> None:
        """Have the job change the file; home has answered when it returns."""
        stamp = self.facts.asked(abi.WRITE, NODE)
        self.changes += 1
        self.facts.answered(abi.WRITE, NODE, stamp)
        self.goes_on()

    def run(self, size: int, offset: int = 0) -> int:
        """Read so many bytes, two READs at a time, each answered after a round trip; where the next begins."""
        end = offset + size
        flying: list[int] = []
        while offset < end:
            while len(flying) < 2 and offset < end:
                if self.read(offset) not in self.answers:
                    flying.append(self.unique)
                offset += SIZE
            if not flying:
                break
            self.now += TRIP
            for unique in [*self.home, *self.ahead]:
                self.answer(unique)
            flying = [unique for unique in flying if unique not in self.answers]
        return offset


@pytest.fixture
def job() -> Job:
    return Job()


def test_who_goes_on_reading_is_read_on_for(job: Job) -> None:
    at = job.run(64 << 20)
    assert job.reads.guesses.right > 0
    trips = (job.now - NOW) / TRIP
    assert trips < (at // SIZE) / 2 / 4, "four times as fast as two READs in a round trip are"
    assert not job.home and all(data == job.contents(SIZE) for data in job.answers.values())


def test_reads_that_are_turned_round_are_in_order(job: Job) -> None:
    at = job.run(2 * EACH)
    for _ in range(16):
        for unique in job.ahead:
            job.answer(unique)
        job.read(at + SIZE)
        job.read(at)
        at += 2 * SIZE
        job.now += TRIP / 10
    assert not job.home and job.ahead, "all of them were asked for ahead, and the next are"


def test_no_more_is_under_way_than_the_link_carries(job: Job) -> None:
    rate, at = 1.25e6, 0
    while at < 4 * AFTER:
        unique = job.read(at)
        at += SIZE
        job.now += TRIP + SIZE / rate
        job.answer(unique)
        assert not job.ahead, "two of the kernel's are more than enough"


def test_no_more_is_kept_than_there_is_room_for(job: Job) -> None:
    job.run(8 * EACH)
    assert sum(size for _, size in job.ranges()) <= EACH
    for node in range(20, 32):
        for at in range(0, 2 * AFTER, SIZE):
            unique = job.read(at, fh=node, node=node)
            if unique in job.home:
                job.now += TRIP / 20
                job.answer(unique)
    assert sum(size for _, size in job.ranges()) <= MOST and job.reads._bytes <= MOST


@pytest.mark.parametrize("flags", [1, 2, 0o40000])
def test_who_writes_or_reads_the_disk_is_left_alone(job: Job, flags: int) -> None:
    for at in range(0, 4 * AFTER, SIZE):
        job.read(at, flags)
        job.now += TRIP / 20
        job.answer(job.unique)
    assert not job.ahead


def test_who_reads_here_and_there_is_left_alone(job: Job) -> None:
    for at in range(0, 4 * AFTER, SIZE):
        job.read(at * 5)
        job.now += TRIP / 20
        job.answer(job.unique)
    assert not job.ahead


def test_a_locked_file_is_left_alone(job: Job) -> None:
    job.locked.add(NODE)
    job.run(4 * AFTER)
    assert not job.reads.guesses.came and not job.ahead


def reading(job: Job) -> int:
    """Have a job read on; where that begins of which nothing is here yet, and all is under way."""
    at = job.run(4 * AFTER)
    while (begin := min((offset for offset, _ in job.ranges()), default=at + 1)) > at:
        assert job.read(at) in job.answers
        at += SIZE
    assert begin == at
    return at


def test_who_asks_for_what_is_under_way_waits_for_it(job: Job) -> None:
    at = reading(job)
    unique = job.read(at)
    assert unique not in job.home and unique not in job.answers
    for each in job.ahead:
        job.answer(each)
    assert job.answers[unique] == job.contents(SIZE)


def test_what_does_not_come_is_asked_for(job: Job) -> None:
    at = reading(job)
    unique = job.read(at)
    assert unique not in job.home
    job.answer(job.ahead[0], b"")
    assert unique in job.home


def test_who_waits_for_what_comes_late_is_not_forgotten_as_others_read_on(job: Job) -> None:
    at = reading(job)
    waits, first = job.read(at), job.ahead[0]
    assert waits not in job.home
    for k in range(1, 20):  # another, who has come further; what was asked for behind that comes sooner
        job.read(at + k * SIZE)
        for each in [*job.home, *(each for each in job.ahead if each != first)]:
            job.answer(each)
    job.answer(first)
    assert job.answers.get(waits) == job.contents(SIZE) or waits in job.home


def test_the_end_of_a_file_is_asked_for(job: Job) -> None:
    at = reading(job)
    unique = job.read(at)
    job.answer(job.ahead[0], job.contents(4096))
    assert unique in job.home and unique not in job.answers


def test_what_was_changed_meanwhile_is_asked_for(job: Job) -> None:
    at = reading(job)
    waits, before, under_way = job.read(at), job.contents(PIECE), job.ahead
    job.write()
    assert waits in job.home
    for each in under_way:
        job.answer(each, before)
    unique = job.read(at + SIZE)
    for each in [*job.home, *job.ahead]:
        job.answer(each)
    assert job.answers[unique] == job.contents(SIZE) != before[:SIZE]


@pytest.mark.parametrize("how", ["opened", "broken", "old", "swept", "anew"])
def test_what_has_come_is_not_used_then(job: Job, how: str) -> None:
    at = reading(job)
    for each in job.ahead:
        job.answer(each)
    if how == "opened":
        job.facts.asked(abi.OPEN, NODE)
    elif how == "broken":
        job.facts.broken([(NODE, b"")])
    elif how == "old":
        job.now += TTL + 0.1
    elif how == "swept":
        job.facts.answered(abi.SETLK, 77, job.facts.asked(abi.SETLK, 77))
    else:
        anew(job.facts)
    assert job.read(at) in job.home


def test_what_nobody_asks_for_is_forgotten(job: Job) -> None:
    reading(job)
    for each in job.ahead:
        job.answer(each)
    assert job.reads._bytes
    job.reads.expire(job.now + TTL + 1)
    assert not job.reads._bytes


def test_a_handle_is_closed_when_nothing_names_it_any_more(job: Job) -> None:
    assert not job.reads.closes(FH, b"release")
    reading(job)
    assert job.reads.closes(FH, b"release")
    under_way = job.ahead
    assert [job.answer(each) for each in under_way] == [None] * (len(under_way) - 1) + [b"release"]
    assert not job.ahead and not job.reads._bytes and not job.reads._closing


def some(seed: int) -> Iterator[float]:
    chance = random.Random(seed)
    while True:
        yield chance.random()


@pytest.mark.parametrize("seed", range(40))
def test_what_is_read_is_as_new_as_the_last_change(seed: int) -> None:
    """The job's own changes, and those of others that home tells by a break, are seen by each READ from then on; what
    others do and nobody tells, within TTL."""
    job, chance, at = Job(), some(seed), 0
    least: dict[int, int] = {}
    untold: list[tuple[float, int]] = [(NOW, 0)]
    seen = 0
    job.run(AFTER)
    for _ in range(400):
        step = next(chance)
        job.now += TRIP / 4
        if step < 0.5:
            unique = job.read(at)
            at += SIZE
            known = max(number for when, number in untold if when < job.now - TTL or number <= seen)
            least[unique] = max(known, seen)
        elif step < 0.52:
            job.write()
            seen = job.changes
        elif step < 0.54:
            job.changes += 1
            job.facts.broken([(NODE, b"")])
            job.goes_on()
            seen = job.changes
        elif step < 0.56:
            job.changes += 1
            untold.append((job.now, job.changes))
        elif job.home or job.ahead:
            flying = [*job.home, *job.ahead]
            job.answer(flying[int(next(chance) * len(flying))])
    assert FAR <= TRIP
    for unique, data in job.answers.items():
        got = {int.from_bytes(data[i : i + STAMPED], "little") for i in range(0, SIZE, PIECE // 8)}
        assert min(got) >= least.get(unique, 0)
