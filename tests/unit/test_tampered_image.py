"""An image that was changed in the store, or on its way, is refused before criu has any of it to read."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import zstandard

from checkpoint.errors import CheckpointError
from checkpoint.execute.collector import Collector
from checkpoint.submit.delivery import deliver
from checkpoint.submit.packs import RAW, ZSTD, Record
from checkpoint.submit.store import Store
from checkpoint.wire.manifest import PAGE
from tests.images import contents, save, write_process
from tests.spools import spool, unspool

TRIES = 60  # of each file; and all of its ends


@pytest.fixture
def saved(tmp_path: Path) -> Store:
    """A store with one image, some chunks of which are packed as they are and some as zstd frames."""
    text = b" ".join(b"%x" % (n * 7919) for n in range(PAGE))[:PAGE]
    write_process(tmp_path / "a", {0: os.urandom(PAGE), 40: text})
    store = Store(tmp_path / "store")
    save(store, "job", tmp_path / "a")
    return store


def arrives(messages: Iterator[bytes], at: Path) -> bool:
    """Whether the host takes these for an image, whose files are in the new directory `at` then."""
    at.mkdir()
    with spool() as into:
        collector = Collector(into)
        try:
            for message in messages:
                collector.receive(message)
        except (CheckpointError, OSError) as error:
            assert str(error)
            return False
        if collector.complete:
            unspool(into, at)
        return collector.complete


def delivered(store: Store) -> Iterator[bytes]:
    with store.open("job") as image:
        for message in deliver(image):
            yield b"".join(message)


def places(size: int) -> list[int]:
    return sorted({*range(min(size, 40)), *range(0, size, max(1, size // TRIES)), *range(max(0, size - 40), size)})


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("kind", ["*.image", "*.pack"])
def test_a_file_of_the_store_flipped_by_one_bit(saved: Store, tmp_path: Path, kind: str) -> None:
    (file,) = (saved.root / "job").glob(kind)
    whole, refused = file.read_bytes(), 0
    for at in places(len(whole)):
        file.write_bytes(flipped(whole, at))
        if arrives(delivered(saved), tmp_path / str(at)):
            assert contents(tmp_path / str(at)) == contents(tmp_path / "a"), f"byte {at} of {file.name}"
        else:
            refused += 1
    assert refused > len(places(len(whole))) // (1 if kind == "*.image" else 2) - 1
    file.write_bytes(whole)
    assert arrives(delivered(saved), tmp_path / "again")


def another(payload: bytes, length: int, kind: int) -> bytes:
    """A payload as large, of a chunk as large, which is not the same."""
    if kind == RAW:
        return flipped(payload, 7)
    chunk = zstandard.decompress(payload, length)
    for at in range(len(payload)):
        with suppress(zstandard.ZstdError):
            found = zstandard.decompress(flipped(payload, at), length)
            if len(found) == length and found != chunk:
                return flipped(payload, at)
    raise AssertionError("zstd noticed each")


@pytest.mark.parametrize("kind", [RAW, ZSTD])
def test_a_chunk_in_another_s_place_with_its_sum_made_right(saved: Store, tmp_path: Path, kind: int) -> None:
    """By somebody who knows what a pack is: the CRC is right, and it unpacks to as many bytes."""
    (file,) = (saved.root / "job").glob("*.pack")
    whole, at = file.read_bytes(), 16
    while whole[at + 4] != kind:
        at += 52 + int.from_bytes(whole[at + 12 : at + 16], "little")
    length, size = struct.unpack_from("<II", whole, at + 8)
    digest, payload = whole[at + 20 : at + 52], whole[at + 52 : at + 52 + size]
    record = Record.make(kind, length, digest, another(payload, length, kind))
    file.write_bytes(whole[:at] + record.head + bytes(record.payload) + whole[at + record.size :])
    assert not arrives(delivered(saved), tmp_path / "again")


def test_a_message_flipped_by_one_bit_on_its_way(saved: Store, tmp_path: Path) -> None:
    messages = list(delivered(saved))
    assert [message[:1] for message in messages] == [b"F", b"K", b"E"]
    for number, message in enumerate(messages):
        for at in places(len(message)):
            spoilt = [*messages[:number], flipped(message, at), *messages[number + 1 :]]
            assert not arrives(iter(spoilt), tmp_path / f"{number}-{at}"), f"byte {at} of {message[:1]!r}"
