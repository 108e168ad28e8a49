"""A file that both the job and others have changed: what each has changed is told apart by its bytes."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remoteio.submit.undo import sums
from remoteio.submit.undo.cover import BLOCK, Cover
from remoteio.submit.undo.sums import UNKNOWN, Sum
from remoteio.wire import fuse_abi as abi
from shim.submit.job.undo_files import Undoing
from tests.undo_play import Job, Play

SIZE = 5 * BLOCK + 100
SEEN = bytes(65 + at // 64 % 26 for at in range(SIZE))  # as the image saw it


class Both:
    """A file that the job changes, and others; `others` is what it would be without the job."""

    def __init__(self, top: Path) -> None:
        self.play = Play(top)
        self.path = self.play.top / "both"
        self.path.write_bytes(SEEN)
        self.image = self.play.moment()
        self.others = bytearray(SEEN)

    def job(self, at: int, data: bytes) -> None:
        self.play.job.write("both", data, at)

    def cut(self, size: int) -> None:
        self.play.job.setattr("both", abi.FATTR_SIZE, size)

    def other(self, at: int, data: bytes) -> None:
        self.others[at : at + len(data)] = data
        with self.path.open("r+b") as file:
            file.seek(at)
            file.write(data)
        now = self.path.stat()
        os.utime(self.path, ns=(now.st_atime_ns, now.st_mtime_ns + 50_000_000))  # not in one step of the clock

    def undo(self) -> bytes:
        self.said = self.play.undo(self.image).said
        self.play.journal.close()
        return self.path.read_bytes()

    @property
    def beside(self) -> list[bytes]:
        """What is kept beside it."""
        return [each.read_bytes() for each in self.path.parent.glob("both.job1-*")]


@pytest.fixture
def both(tmp_path: Path) -> Both:
    return Both(tmp_path)


def test_what_each_has_written_in_one_block_is_told_apart(both: Both) -> None:
    both.job(10, b"job")
    both.other(100, b"others")
    both.job(200, b"job")  # what is between the two of the job is not its own
    both.other(1000, b"others")
    assert both.undo() == both.others
    assert not both.beside
    assert any("each in places of its own" in each for each in both.said)


def test_what_both_have_written_is_a_conflict_and_both_are_kept(both: Both) -> None:
    both.job(10, b"the job's bytes")
    both.job(2 * BLOCK, b"job")
    both.other(14, b"OTHERS")
    both.other(3 * BLOCK, b"others")
    there = both.path.read_bytes()
    expected = bytearray(both.others)
    expected[10:25] = SEEN[10:25]
    assert both.undo() == expected
    assert both.beside == [there]


def test_what_others_wrote_before_the_job_wrote_over_it_is_theirs_again(both: Both) -> None:
    both.job(10, b"job")
    both.other(2000, b"others")
    both.job(1990, b"the job's, over what others had written")
    assert both.undo() == both.others
    assert not both.beside


def test_what_the_job_has_cut_off_is_there_again_though_others_have_written_elsewhere(both: Both) -> None:
    both.cut(2 * BLOCK + 5)
    both.other(100, b"others")
    assert both.undo() == both.others


def test_what_others_have_added_stays_behind_what_the_job_has_overwritten(both: Both) -> None:
    for at in range(0, SIZE - 700, 700):
        both.job(at, b"job " * 175)
    both.other(SIZE, b"others")
    assert both.undo() == both.others
    assert not both.beside


def test_what_the_job_has_punched_is_never_taken_for_what_it_had_written_there_before(both: Both) -> None:
    """A checksum of zeros is right for a hole, too, of which more than those was something."""
    both.job(10, bytes(20))
    both.play.job.punch("both", 0, BLOCK)
    both.other(3 * BLOCK, b"others")
    assert both.undo() == both.others


def test_without_checksums_to_be_believed_both_are_kept(both: Both) -> None:
    """As after a power cut: they may be older than what they tell of."""
    both.job(10, b"job")
    both.other(3 * BLOCK, b"others")
    there = both.path.read_bytes()
    path = Path(both.play.journal.directory, "00000001.sums")
    with path.open("r+b") as file:
        file.write(b"another boot".ljust(36))
    assert both.undo() == both.others
    assert both.beside == [there]


@pytest.mark.parametrize("steps", range(1, 6))
def test_the_power_is_cut_in_the_middle_of_undoing(both: Both, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done once more, where more had been done by then, takes nothing of others'."""
    both.job(10, b"job")
    both.other(100, b"others")
    both.job(200, b"job")
    both.other(300, b"others")
    both.job(20, b"job")
    undo, left = Undoing._undo, [steps]

    def once(self: Undoing, entry: object) -> None:
        left[0] -= 1
        if not left[0]:
            raise OSError
        undo(self, entry)  # type: ignore[arg-type]

    monkeypatch.setattr(Undoing, "_undo", once)
    try:
        both.play.undo(both.image)
    except OSError:
        noted = Path(both.play.journal.directory, "undoing")
        noted.write_text(json.dumps({**json.loads(noted.read_bytes()), "boot": "another"}))
        monkeypatch.setattr(sums, "_boot", lambda: b"another")
        both.play.job = Job(both.play.top, both.play.journal)
    assert both.undo() == both.others
    assert not both.beside


write = st.tuples(st.booleans(), st.integers(0, SIZE - 1), st.integers(1, 2 * BLOCK))


@settings(deadline=None, max_examples=25)
@given(writes=st.lists(write, max_size=8))
def test_what_others_have_written_elsewhere_stays_and_nothing_is_lost(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[bool, int, int]]
) -> None:
    both = Both(tmp_path_factory.mktemp("both"))
    touched = {True: set[int](), False: set[int]()}
    for number, (job, at, length) in enumerate(writes):
        end = min(at + length, SIZE)
        (both.job if job else both.other)(at, bytes([number + 1]) * (end - at))
        touched[job].update(range(at // BLOCK, -(-end // BLOCK)))
    there = both.path.read_bytes()
    found = both.undo()
    if both.beside:
        assert both.beside == [there] and touched[True] & touched[False]
    else:
        assert found == both.others
    for block in touched[False] - touched[True]:
        where = slice(block * BLOCK, (block + 1) * BLOCK)
        assert found[where] == both.others[where]
    for block in touched[True] - touched[False]:
        where = slice(block * BLOCK, (block + 1) * BLOCK)
        assert found[where] == SEEN[where]


@given(st.lists(st.tuples(st.integers(0, BLOCK - 1), st.integers(1, 600)), min_size=1, max_size=12))
def test_a_sum_is_that_of_all_that_was_written_to_its_block(writes: list[tuple[int, int]]) -> None:
    block, found = bytearray(SEEN[:BLOCK]), UNKNOWN
    for number, (at, length) in enumerate(writes):
        data = memoryview(bytes([number]) * min(length, BLOCK - at))
        found = (
            sums.and_written(found, at, data, lambda start, end: bytes(block[start:end]))
            if number
            else sums.written(at, data)
        )
        block[at : at + len(data)] = data
    low, high = min(at for at, _ in writes), max(min(at + length, BLOCK) for at, length in writes)
    assert found[:2] == (low, high) and found.is_of(block)
    block[low] ^= 1
    assert not found.is_of(block)
    assert sums.and_written(UNKNOWN, 3, memoryview(b"abc"), lambda start, end: b"") == UNKNOWN
    assert not Sum(0, 3, 0).is_of(b"ab")


@given(st.binary(min_size=0, max_size=64), st.integers(0, 3 * BLOCK + 1))
def test_the_sums_of_whole_blocks_are_those_of_each(seed: bytes, length: int) -> None:
    data = memoryview(bytes(seed[at % len(seed)] if seed else 0 for at in range(length)))
    each = [sums.written(0, data[at : at + BLOCK]).packed() for at in range(0, length, BLOCK)]
    assert sums.whole(data) == b"".join(each)


def slice_of(block: bytes, start: int, end: int) -> bytes:
    return block[start:end]


@settings(deadline=None, max_examples=12)
@given(st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE)), min_size=1, max_size=4))
def test_each_block_has_the_sum_of_what_the_job_has_left_in_it(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, int]]
) -> None:
    both = Both(tmp_path_factory.mktemp("both"))
    model = dict[int, Sum]()
    for number, (at, length) in enumerate(writes):
        data = bytes([number]) * (min(at + length, SIZE) - at)
        there = both.path.read_bytes()
        both.job(at, data)
        for block in range(at // BLOCK * BLOCK, at + len(data), BLOCK):
            start, end = max(block, at), min(block + BLOCK, at + len(data))
            own = memoryview(data)[start - at : end - at]
            if block in model:
                read = partial(slice_of, there[block : block + BLOCK])
                model[block] = sums.and_written(model[block], start - block, own, read)
            else:
                model[block] = sums.written(start - block, own)
    known = sums.KnownSums(f"{both.play.journal.directory}/00000001.sums")
    watch = both.play.job.watch.file((both.path.stat().st_dev, both.path.stat().st_ino))
    assert watch._cover is not None
    found = {
        block: known.of(number + (block - start) // BLOCK)
        for start, end, number in watch._cover.sums(0, SIZE)
        for block in range(start, end, BLOCK)
    }
    assert found == model
    both.play.journal.close()


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 40)), max_size=20), st.integers(0, 400))
def test_each_saved_block_has_a_sum_of_its_own(writes: list[tuple[int, int]], last: int) -> None:
    """Whatever is saved in which order."""
    size = 401 * BLOCK
    cover, taken, model = Cover(size, (size, 0)), 0, dict[int, int]()
    for at, count in writes:
        for start, end in cover.needs(at * BLOCK, (at + count) * BLOCK):
            cover.summed(start, end, taken)
            for block in range(start, end, BLOCK):
                model[block] = taken
                taken += 1
    shown = {
        block: number + (block - start) // BLOCK
        for start, end, number in cover.sums(last * BLOCK, size)
        for block in range(start, end, BLOCK)
    }
    assert shown == {block: number for block, number in model.items() if block >= last * BLOCK}
