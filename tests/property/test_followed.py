"""Images of what changed are those of all memory, however criu asks, whatever is known, and whichever are committed."""

import ctypes
import mmap
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from checkpoint.execute.chunker import ChunkerError, Known, pagemap, with_pages
from checkpoint.execute.followed import Process
from checkpoint.execute.page_ranges import Ranges, joined
from checkpoint.execute.sender import Sender
from checkpoint.execute.spool import Spool
from checkpoint.submit.receiver import Receiver
from checkpoint.submit.store import Store
from checkpoint.wire.manifest import PAGE
from tests.images import contents, converse, manifest, pagemap_bytes, restore, write_process
from tests.spools import spool, spooled

PAGEMAP = "pagemap-7.img"

Memory = dict[int, bytes]
Draw = Callable[..., Any]
END = 240
page_bytes = st.integers(0, 5).map(lambda n: bytes([n]) * PAGE)


def spans(numbers: set[int]) -> Ranges:
    return joined((number * PAGE, (number + 1) * PAGE) for number in numbers)


def pages(ranges: Ranges) -> set[int]:
    return {number for start, end in ranges for number in range(start // PAGE, end // PAGE)}


def ask_as_criu(draw: Draw, process: Process, memory: Memory) -> Memory:
    """What criu dumps: mapping after mapping, by the last answer if that reaches so far, else by another."""
    bounds = sorted({0, END, *draw(st.sets(st.integers(1, END - 1), max_size=5))})
    asked, told = (0, 0), set()
    dumped = {}
    for start, end in zip(bounds, bounds[1:]):
        if not asked[0] <= start < end <= asked[1]:
            asked = (start, draw(st.integers(end, END)))
            there = {page for page in memory if asked[0] <= page < asked[1]}
            left_out = process.leave_out(spans(there), asked[0] * PAGE, asked[1] * PAGE)
            told = there - pages(left_out)
        dumped.update({page: memory[page] for page in told if start <= page < end})
    return dumped


@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.data())
def test_every_image_comes_back_as_it_was(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        root = Path(directory)
        store, process = Store(root / "store"), Process()
        absent = data.draw(st.sets(st.integers(0, END - 1), max_size=5))
        memory = {page: bytes([page % 5]) * PAGE for page in range(END) if page not in absent}
        written = set(range(END))
        for number in range(1, data.draw(st.integers(2, 5)) + 1):
            process.begin()
            into = stack.enter_context(spool())
            process.ahead.read(into, reading(memory), process.beside(spans(set(range(END)) - written)))
            memory = change(data, memory, written)
            process.ask()
            doubtful = data.draw(st.sets(st.integers(0, END - 1), max_size=2))
            if data.draw(st.integers(0, 5)):  # else it failed in the middle: protected, and not known what was written
                clean = spans(set(range(END)) - written - doubtful)
                process.still.read(into, reading(memory), process.alone([(0, END * PAGE)], clean))
                process.not_written(clean)
            write_process(root / str(number), ask_as_criu(data.draw, process, memory), pages_id=number)
            committed = data.draw(st.booleans())
            for name, content in contents(root / str(number)).items():
                into.write(name, content)
            known = process.whole(into, PAGEMAP, 0)
            if committed:
                process.committed(into, PAGEMAP, send(store, into, known))
                write_process(root / f"whole-{number}", memory, pages_id=number)
                restore(store, "job", None, root / f"again-{number}")
                assert image(root / f"again-{number}", number) == image(root / f"whole-{number}", number)
            written = set()
            memory = change(data, memory, written)


def change(data: st.DataObject, memory: Memory, written: set[int]) -> Memory:
    """The memory with some pages written or gone, which are added to `written`."""
    changes = data.draw(st.dictionaries(st.integers(0, END - 1), st.none() | page_bytes, max_size=5))
    written |= set(changes)
    return {page: kept for page, kept in {**memory, **changes}.items() if kept is not None}


def reading(memory: Memory) -> Callable[[memoryview, int], bool]:
    """As ahead.of, from that memory."""

    def read(room: memoryview, at: int) -> bool:
        wanted = [memory.get(page) for page in range(at // PAGE, (at + len(room)) // PAGE)]
        if None in wanted:
            return False
        room[:] = b"".join(page for page in wanted if page is not None)
        return True

    return read


def test_what_is_unchanged_is_not_in_the_spool(tmp_path: Path) -> None:
    store, process = Store(tmp_path / "store"), Process()
    memory = {page: bytes([page]) * PAGE for page in range(64)}
    for number, expected in ((1, 64), (2, 16)):
        process.begin()
        process.ask()
        process.not_written(spans({*range(64)} - {20}))
        told = {*range(64)} - pages(process.leave_out(spans({*range(64)}), 0, 64 * PAGE))
        assert len(told) == expected
        write_process(tmp_path / str(number), {page: memory[page] for page in told}, pages_id=number)
        with spooled(tmp_path / str(number)) as into:
            process.committed(into, PAGEMAP, send(store, into, process.whole(into, PAGEMAP, 0)))
    assert store.verify("job") == []


def test_an_image_that_was_not_committed_costs_the_next_no_more_than_what_was_written(tmp_path: Path) -> None:
    """Unless what the store has turned out to be less than was thought."""
    store, process = Store(tmp_path / "store"), Process()
    memory = {page: bytes([page]) * PAGE for page in range(80)}
    steps = [(True, set(), 80), (False, {20}, 16), (True, {40}, 32), (False, {60}, 16), (False, set(), 16)]
    for number, (committed, written, expected) in enumerate([*steps, (False, set(), 80)], 1):
        if number > len(steps):
            process.forget()
        process.begin()
        process.ask()
        process.not_written(spans({*range(80)} - written))
        told = {*range(80)} - pages(process.leave_out(spans({*range(80)}), 0, 80 * PAGE))
        assert len(told) == expected, number
        write_process(tmp_path / str(number), {page: memory[page] for page in told}, pages_id=number)
        with spooled(tmp_path / str(number)) as into:
            known = process.whole(into, PAGEMAP, 0)
            if committed:
                process.committed(into, PAGEMAP, send(store, into, known))


@pytest.mark.parametrize("stands_still", [True, False])
def test_what_the_store_has_lost_is_no_page_of_another_moment(tmp_path: Path, stands_still: bool) -> None:
    """A store that has none of the last image: it is read from the process if that stands still, or is an error."""
    size = 128 * PAGE
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area[:] = b"".join(bytes([page]) * PAGE for page in range(128))
        first = ctypes.addressof(ctypes.c_char.from_buffer(area)) // PAGE
        memory = {first + page: bytes([page]) * PAGE for page in range(128)}
        process, where = Process(), (first * PAGE, first * PAGE + size)
        for number in (1, 2):
            process.begin()
            process.ask()
            process.not_written([where])
            told = set(memory) - pages(process.leave_out([where], *where))
            store = Store(tmp_path / f"store-{number}")
            write_process(tmp_path / str(number), {page: memory[page] for page in told}, pages_id=number)
            with spooled(tmp_path / str(number)) as into:
                known = process.whole(into, PAGEMAP, os.getpid() if stands_still else 0)
                if number == 1:
                    process.committed(into, PAGEMAP, send(store, into, known))
                elif stands_still:
                    assert known is not None and known.size
                    send(store, into, known)
                    restore(store, "job", None, tmp_path / "again")
                    write_process(tmp_path / "whole", memory, pages_id=2)
                    assert image(tmp_path / "again", 2) == image(tmp_path / "whole", 2)
                else:
                    with pytest.raises(ChunkerError, match="the store has lost a part of the last image"):
                        send(store, into, known)


def test_a_page_that_criu_saved_without_being_told_of_it_is_an_error() -> None:
    with pytest.raises(ChunkerError, match="criu saved pages that it was not told of"):
        with_pages(pagemap_bytes(1, [(0x10000, 16, 4)]), [(0x18000, 0x20000)])


def send(store: Store, into: Spool, known: Known | None) -> bytes:
    """Save that spool, committed; the table of its page image."""
    with closing(Sender(into, known=None if known is None else {PAGEMAP: known})) as sender:
        with store.begin("job") as transaction:
            receiver = Receiver(transaction)
            converse(sender, receiver)
            transaction.commit(manifest("job", transaction.number, receiver.files()))
        return sender.tables()[PAGEMAP]


def image(directory: Path, number: int) -> tuple[Ranges, bytes]:
    files = contents(directory)
    return runs(files), files[f"pages-{number}.img"]


def runs(files: dict[str, bytes]) -> Ranges:
    found = pagemap(BytesIO(files["pagemap-7.img"]))
    next(found)
    return joined((address, address + pages * PAGE) for address, pages in found)
