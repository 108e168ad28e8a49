"""A directory that is read on through another export, as when its job has gone on elsewhere, is read whole and once."""

from __future__ import annotations

import os
import random
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from remoteio.submit.export import positions
from remoteio.wire import fuse_abi as abi
from tests.hostile import Host

END = (1 << 63) - 1


@pytest.fixture
def directory() -> Iterator[Path]:
    """On a disk: positions in a tmpfs older than Linux 6.6 are numbers of entries."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
        yield Path(made)


def opened(host: Host) -> int:
    return int(struct.unpack_from("=Q", host.ask(abi.OPENDIR, abi.ROOT_ID, abi.OPEN_IN.pack(0, 0)))[0])


def read(host: Host, handle: int, position: int, size: int, op: int) -> list[tuple[str, int]]:
    """(name, position after it) of the entries in one answer."""
    data = host.ask(op, abi.ROOT_ID, abi.READ_IN.pack(handle, position, size, 0, 0, 0, 0))
    skip = abi.ENTRY.size + abi.ATTR.size if op == abi.READDIRPLUS else 0
    found, at = [], 0
    while at < len(data):
        _, after, length, _ = abi.DIRENT.unpack_from(data, at + skip)
        name = data[at + skip + abi.DIRENT.size :][:length]
        found.append((name.decode(), after))
        at += (skip + abi.DIRENT.size + length + 7) & ~7
    return found


def rest(host: Host, position: int, op: int = abi.READDIR) -> list[str]:
    handle, names = opened(host), []
    while entries := read(host, handle, position, 4096, op):
        names += [name for name, _ in entries]
        position = entries[-1][1]
    return names


@pytest.mark.parametrize("op", [abi.READDIR, abi.READDIRPLUS])
def test_what_was_removed_before_a_move_hides_nothing_after_it(directory: Path, op: int) -> None:
    for k in range(2000):
        (directory / f"file{k}").touch()
    before, seen, position = Host.of(directory), [], 0
    handle = opened(before)
    while len(seen) < 700:
        entries = read(before, handle, position, 4096, op)
        seen += [name for name, _ in entries]
        position = entries[-1][1]
    for name in seen:
        if name not in (".", ".."):
            (directory / name).unlink()
    assert sorted(rest(Host.of(directory), position, op)) == sorted(os.listdir(directory))


def test_every_position_leads_to_what_comes_after_it(directory: Path) -> None:
    """As telldir(3) and seekdir(3) have it, in the same directory stream and in one that was opened later."""
    for k in range(300):
        (directory / f"file{k}").touch()
    host, stream = Host.of(directory), []
    handle = opened(host)
    while entries := read(host, handle, stream[-1][1] if stream else 0, 512, abi.READDIR):
        stream += entries
    names = [name for name, _ in stream]
    assert sorted(names) == sorted([".", "..", *os.listdir(directory)])
    assert names[2:] == os.listdir(directory), "in the order of home"
    for k in random.Random(5).sample(range(len(stream)), 40):
        assert read(host, handle, stream[k][1], 1 << 16, abi.READDIR) == stream[k + 1 :]
        later = rest(Host.of(directory), stream[k][1])
        assert later == names[k + 1 :]


def test_positions_are_as_small_as_a_32_bit_program_needs(directory: Path) -> None:
    """Without them readdir(3) of such a program says EOVERFLOW at the first entry."""
    for k in range(500):
        (directory / f"file{k}").touch()
    host = Host.of(directory)
    assert max(after for _, after in read(host, opened(host), 0, 1 << 16, abi.READDIR)) < 1 << 31


def test_ext4_s_positions_are_shortened_where_that_is_exact() -> None:
    upper = [5, 9, 9, 9, 12, 1 << 29]
    raw = [u << 33 | k for k, u in enumerate(upper)]
    given = positions.given([*raw, END], 0, ext4=True)
    assert [position < 1 << 31 for position in given] == [True, True, False, False, True, True, True]
    assert len(set(given)) == len(given)
    for position, was, short in zip(given, raw, [True, True, False, False, True, True], strict=False):
        assert positions.meant(position, ext4=True) == (was >> 33 << 33 if short else was)
    assert positions.meant(given[-1], ext4=True) >> 33 == END >> 33
    # read on from the middle: what has the same upper bits as the start is not shortened
    assert positions.given(raw[2:4], raw[1], ext4=True) == [raw[2] + positions.OWN, raw[3] + positions.OWN]


@pytest.mark.parametrize("raw", [1, 24, (1 << 30) + 5, (1 << 31) - 1, 1 << 40, END - 100])
def test_other_positions_are_the_filesystem_s(raw: int) -> None:
    (given,) = positions.given([raw], 0, ext4=False)
    assert positions.OWN < given <= END
    assert positions.meant(given, ext4=False) == raw


def test_the_last_position_of_all_stays_in_range() -> None:
    assert positions.given([END], 0, ext4=False) == [END]
    assert positions.meant(END, ext4=False) == END
