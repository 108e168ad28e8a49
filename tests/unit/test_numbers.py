"""The inode numbers that a job sees: no two files share one, 32 bits are enough, and git finds what it has noted."""

from __future__ import annotations

import random

from remoteio.submit.export.numbers import KEPT, Numbers

HOME, OTHERS = 2049, (1, 22, 40, 64768, 64769)


def test_files_of_different_filesystems_share_no_number() -> None:
    """cp, tar, rsync and the dynamic linker know a file by its number, where all have one device."""
    numbers, seen = Numbers(HOME), {}
    wild = random.Random(3)
    inodes = [*range(1, 200), *(wild.randrange(1 << bits) for bits in (17, 24, 31, 32, 40, 47, 47) for _ in range(300))]
    for dev in (HOME, *OTHERS):
        for ino in inodes:
            assert seen.setdefault(numbers.shown(dev, ino), (dev, ino)) == (dev, ino)


def test_32_bits_are_enough_where_they_are_here() -> None:
    """stat(2) of a 32-bit program says EOVERFLOW for a number that has more."""
    numbers = Numbers(HOME)
    inodes = [2, 12, 200_000, 30_000_000, KEPT - 1]
    assert max(numbers.shown(dev, ino) for dev in (HOME, *OTHERS) for ino in inodes) < 1 << 32
    assert all(numbers.shown(dev, ino) < 1 << 32 for dev in OTHERS for ino in (KEPT, (1 << 32) - 1))


def test_where_the_job_works_numbers_are_those_here() -> None:
    """git's index has the lower 32 bits of each file's number."""
    numbers = Numbers(HOME)
    for ino in (1, 500, KEPT - 1, KEPT, KEPT + 5, (1 << 32) + 5):
        assert numbers.shown(HOME, ino) & 0xFFFFFFFF == ino & 0xFFFFFFFF
    assert numbers.shown(HOME, KEPT - 1) == KEPT - 1


def test_a_number_stays_and_is_the_same_in_the_next_session() -> None:
    """`tail -F` takes a file that has another number for another file: also where the job goes on."""
    first, second = Numbers(HOME), Numbers(HOME)
    files = [(dev, ino) for dev in OTHERS for ino in (2, 70_000, 900_000)]
    shown = [first.shown(*file) for file in files]
    assert [first.shown(*file) for file in files] == shown == [second.shown(*file) for file in files[::-1]][::-1]


def test_when_there_is_no_room_left_devices_are_told_apart_all_the_same() -> None:
    numbers, seen = Numbers(HOME), set()
    for dev in OTHERS[:2]:
        for block in range(20_000):
            seen.add(numbers.shown(dev, block << 16 | 7))
    assert len(seen) == 40_000
    assert max(seen) >> 48
