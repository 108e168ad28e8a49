"""Chunks are cut by address, hash the same wherever they lie in the file, and add up to the file."""

import io
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint.execute.chunker import ChunkerError, Known, by_address, chunk_hash, cuts, hashed, pagemap, sources
from checkpoint.execute.sender import Sender
from checkpoint.execute.spool import Spool
from checkpoint.wire.image_wire import ANSWER, END, OFFER, SEND, STORED, batch_message, parse_batch, parse_entries
from checkpoint.wire.manifest import PAGE, WINDOW, ZERO
from tests.images import pagemap_bytes, write_process
from tests.spools import spool, spooled


def chunks(directory: Path) -> dict[str, list[tuple[int, int, bytes]]]:
    with spooled(directory) as at:
        return {source.name: list(hashed(at, at.file(source.name), cuts(at, source))) for source in sources(at)}


def test_a_pagemap_gives_the_runs_that_are_in_the_image() -> None:
    data = pagemap_bytes(3, [(0x1000, 2, 4), (0x9000, 5, 1), (0x7FFF00000000, 300, 6)])
    assert list(pagemap(io.BytesIO(data))) == [(0, 3), (0x1000, 2), (0x7FFF00000000, 300)]


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda b: pagemap_bytes(1, []) + b))
def test_garbage_is_a_chunker_error(data: bytes) -> None:
    try:
        for address, pages in pagemap(io.BytesIO(data)):
            assert address >= 0 and pages >= 0
    except ChunkerError as error:
        assert str(error)


@given(st.lists(st.tuples(st.integers(0, 100).map(lambda p: p * PAGE), st.integers(1, 40)), max_size=20))
def test_chunks_by_address_add_up_and_never_cross_a_window(runs: list[tuple[int, int]]) -> None:
    cut = list(by_address(runs))
    assert sum(length for _, length in cut) == sum(pages for _, pages in runs) * PAGE
    assert all(0 < length <= WINDOW for _, length in cut)


def test_an_inserted_page_changes_one_chunk(tmp_path: Path) -> None:
    pages = {page: os.urandom(PAGE) for page in range(100, 400) if page != 201}
    write_process(tmp_path / "a", pages)
    write_process(tmp_path / "b", {**pages, 201: os.urandom(PAGE)})
    before, after = chunks(tmp_path / "a")["pages-1.img"], chunks(tmp_path / "b")["pages-1.img"]
    assert [key for key, _, digest in after if digest not in {row[2] for row in before}] == [201 * PAGE // WINDOW]


def test_the_chunks_are_the_file(tmp_path: Path) -> None:
    pages = {page: os.urandom(PAGE) for page in range(5, 3000, 1) if page % 37}
    pages.update({page: bytes(PAGE) for page in range(1600, 1648)})
    write_process(tmp_path / "a", pages)
    data = (tmp_path / "a" / "pages-1.img").read_bytes()
    at = 0
    zeros = 0
    for _, length, digest in chunks(tmp_path / "a")["pages-1.img"]:
        part = data[at : at + length]
        assert digest == (ZERO if not part.strip(b"\0") else chunk_hash(part))
        zeros += digest == ZERO
        at += length
    assert at == len(data)
    assert zeros == 3


def test_pages_that_are_in_no_file_and_belong_to_none_are_an_error(tmp_path: Path) -> None:
    write_process(tmp_path / "a", {1: os.urandom(PAGE)})
    (tmp_path / "a" / "pages-1.img").unlink()
    with spooled(tmp_path / "a") as at, pytest.raises(ChunkerError, match=r"no page image for pagemap-7\.img"):
        sources(at, {"pagemap-7.img": Known({}, [(0, PAGE)], 0)})


def test_a_pagemap_that_does_not_fit_leaves_the_file_cut_by_offset(tmp_path: Path) -> None:
    write_process(tmp_path / "a", {page: os.urandom(PAGE) for page in range(40)})
    with open(tmp_path / "a" / "pages-1.img", "ab") as file:
        file.write(b"x")
    assert [key for key, _, _ in chunks(tmp_path / "a")["pages-1.img"]] == [0, 1, 2]


def test_shared_memory_keeps_its_origin_when_its_number_changes(tmp_path: Path) -> None:
    origins = []
    for number in (1068, 77):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / f"pagemap-shmem-{number}.img").write_bytes(pagemap_bytes(1, [(0, 1, 4)]))
        (directory / "pages-1.img").write_bytes(bytes(PAGE))
        with spooled(directory) as at:
            origins.append([source.origin for source in sources(at) if source.pagemap])
    assert origins[0] == origins[1] == ["pagemap-shmem-rank-0"]


def test_a_file_that_ends_too_soon_is_said() -> None:
    with spool({"f": b"x" * 10}) as at, pytest.raises(ChunkerError, match="ends at 10 bytes"):
        list(hashed(at, at.file("f"), [(0, 11)]))


def test_sending_takes_little_memory_whatever_the_size() -> None:
    with spool() as at:
        file = at.make("f")
        for number in range(64):
            at.put(file, memoryview(bytearray(os.urandom(1 << 20))), number << 20)
        _send_all(at)


def _send_all(at: Spool) -> None:
    tracemalloc.start()
    sender = Sender(at)
    while not sender.stored:
        parts = sender.next_message()
        assert parts is not None
        message = parts[0]
        if message[:1] == OFFER:
            number, entries = parse_batch(bytes(message))
            sender.receive(batch_message(ANSWER, number, bytes([SEND]) * len(parse_entries(entries))))
        elif message[:1] == END:
            sender.receive(STORED)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sender.sent > 64 << 20
    assert peak < 16 << 20
