"""CRIU's image files cut into chunks that keep their hash from one checkpoint to the next. Shipped.

A page image (`pages-N.img`) is the pages present, in the order of a pagemap (`pagemap-PID.img` or
`pagemap-shmem-ID.img`): after an inserted page everything behind it lies elsewhere in the file. So it is cut where the
*address* crosses a multiple of WINDOW. Every file is the plain concatenation of its chunks, whatever their keys.
Format of the images: criu/include/magic.h and images/pagemap.proto of CRIU; criu.org/Images.
"""

from __future__ import annotations

import os
import struct
import threading
from collections import deque
from queue import SimpleQueue

from checkpoint.errors import CheckpointError
from checkpoint.value import Value
from checkpoint.wire.chunks import chunk_hash
from checkpoint.wire.manifest import PAGE, WINDOW, ZERO, check_name
from checkpoint.wire.protobuf import ProtobufError, decode, integer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from io import BufferedIOBase

_COMMON_MAGIC = 0x54564319
_PAGEMAP_MAGIC = 0x56084025
_PE_PRESENT = 4
_BLOCK = 16 * WINDOW  # bytes that one thread reads and hashes at a time
_ZEROS = bytes(WINDOW)


class ChunkerError(CheckpointError):
    """An image file cannot be read as it was planned; the text says which and why."""


class Source(Value):
    """A file to be saved.

    name      in the directory
    origin    see manifest.ImageFile
    size      bytes
    pagemap   the file by whose addresses it is cut; None: it is cut by offset
    """

    __slots__ = ("name", "origin", "pagemap", "size")
    name: str
    origin: str
    size: int
    pagemap: str | None

    def __init__(self, name: str, origin: str, size: int, pagemap: str | None) -> None:
        self._set(name=name, origin=origin, size=size, pagemap=pagemap)


def pagemap(file: BufferedIOBase) -> Iterator[tuple[int, int]]:
    """Yield (0, pages_id), then (address, pages) of each run of pages that is in the page image, in its order.

    Raises ChunkerError if the file is not a pagemap of CRIU.
    """
    if file.read(8) != struct.pack("<II", _COMMON_MAGIC, _PAGEMAP_MAGIC):
        raise ChunkerError("this is no pagemap of CRIU")
    head = True
    while True:
        prefix = file.read(4)
        if not prefix:
            break
        size = int.from_bytes(prefix, "little")
        message = file.read(size) if len(prefix) == 4 and size <= PAGE else b""
        if len(message) != size:
            raise ChunkerError("a pagemap is cut short")
        try:
            fields = decode(message)
        except ProtobufError as error:
            raise ChunkerError(f"an entry of a pagemap {error}") from error
        first = integer(fields, 1)
        if head:
            if first is None:
                raise ChunkerError("a pagemap does not name its page image")
            yield 0, first
            head = False
            continue
        pages = integer(fields, 5 if 5 in fields else 2)  # a count of 64 bits came with criu 4.2
        if first is None or pages is None:
            raise ChunkerError("a pagemap's entry has no address or no count of pages")
        flags = integer(fields, 4)
        # Before flags were invented, a page was in the image unless it was in the parent's.
        present = not integer(fields, 3) if flags is None else flags & _PE_PRESENT
        if present and pages:
            yield first, pages
    if head:
        raise ChunkerError("a pagemap is empty")


def by_address(runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield (key, length) of the chunks of a page image whose pages are `runs` of (address, pages)."""
    key = -1
    length = 0
    for address, pages in runs:
        end = address + pages * PAGE
        while address < end:
            window = address // WINDOW
            step = min(end, (window + 1) * WINDOW) - address
            # A pagemap out of order could come back to a window that is full: a chunk is never longer than WINDOW.
            if window != key or length + step > WINDOW:
                if length:
                    yield key, length
                key, length = window, 0
            length += step
            address += step
    if length:
        yield key, length


def by_offset(size: int) -> Iterator[tuple[int, int]]:
    """Yield (key, length) of the chunks of any other file of `size` bytes."""
    for offset in range(0, size, WINDOW):
        yield offset // WINDOW, min(WINDOW, size - offset)


def _page_images(directory: int, names: list[str]) -> dict[str, tuple[str, str, int]]:
    """Page image → (its pagemap, origin, its size by that pagemap), for each pagemap that can be understood."""
    found = {}
    shared = [name for name in names if name.startswith("pagemap-shmem-")]
    # A shared mapping's number is a new one after each restore; its rank among them is not.
    shared.sort(key=lambda name: (len(name), name))
    for name in names:
        if name.startswith("pagemap-") and name.endswith(".img"):
            origin = f"pagemap-shmem-rank-{shared.index(name)}" if name in shared else name
            try:
                with _opened(directory, name) as file:
                    runs = pagemap(file)
                    _, pages_id = next(runs)
                    found[f"pages-{pages_id}.img"] = (name, origin, sum(pages for _, pages in runs) * PAGE)
            except ChunkerError:
                continue  # its page image is cut by offset: right, only worse deduplicated
    return found


def _opened(directory: int, name: str) -> BufferedIOBase:
    return open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory), "rb")


def sources(directory: int) -> list[Source]:
    """List the regular files of the directory open as `directory`, sorted by name, and how each is cut.

    Raises OSError; ManifestError for a file name that no image may hold.
    """
    names = sorted(entry.name for entry in os.scandir(directory) if entry.is_file(follow_symlinks=False))
    maps = _page_images(directory, names)
    plan = []
    for name in names:
        size = os.stat(name, dir_fd=directory, follow_symlinks=False).st_size
        map_name, origin, mapped = maps.get(name, (None, name, size))
        plan.append(Source(check_name(name), origin, size, map_name if mapped == size else None))
    return plan


def cuts(directory: int, source: Source) -> Iterator[tuple[int, int]]:
    """Yield (key, length) of each chunk of `source`, in order. Raises OSError, ChunkerError."""
    if source.pagemap is None:
        yield from by_offset(source.size)
        return
    with _opened(directory, source.pagemap) as file:
        runs = pagemap(file)
        next(runs)
        yield from by_address(runs)


def _blocks(parts: Iterable[tuple[int, int]]) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Consecutive chunks gathered to blocks: (offset in the file, [(key, length)])."""
    offset = size = 0
    block: list[tuple[int, int]] = []
    for part in parts:
        if size + part[1] > _BLOCK:
            yield offset, block
            offset, size, block = offset + size, 0, []
        block.append(part)
        size += part[1]
    if block:
        yield offset, block


def _hash_block(fd: int, offset: int, parts: list[tuple[int, int]], buffer: bytearray) -> list[tuple[int, int, bytes]]:
    size = sum(length for _, length in parts)
    filled = 0
    with memoryview(buffer) as view:
        while filled < size:
            count = os.preadv(fd, [view[filled:size]], offset + filled)
            if not count:
                raise ChunkerError(f"an image file ends at {offset + filled} bytes, before its last chunk")
            filled += count
        hashed = []
        at = 0
        for key, length in parts:
            zeros = _ZEROS if length == WINDOW else _ZEROS[:length]
            zero = buffer.startswith(zeros, at)  # compares in place, without a copy
            hashed.append((key, length, ZERO if zero else chunk_hash(view[at : at + length])))
            at += length
    return hashed


class _Worker:
    """One thread that hashes blocks with a buffer of its own, in the order given."""

    __slots__ = ("done", "todo")

    def __init__(self, fd: int) -> None:
        self.todo: SimpleQueue[tuple[int, list[tuple[int, int]]] | None] = SimpleQueue()
        self.done: SimpleQueue[list[tuple[int, int, bytes]] | OSError | ChunkerError | None] = SimpleQueue()
        threading.Thread(target=self._run, args=(fd,), daemon=True).start()

    def _run(self, fd: int) -> None:
        buffer = bytearray(_BLOCK)
        try:
            while (block := self.todo.get()) is not None:
                self.done.put(_hash_block(fd, *block, buffer))
        except (OSError, ChunkerError) as error:
            self.done.put(error)
        finally:
            self.done.put(None)


def hashed(fd: int, parts: Iterable[tuple[int, int]], threads: int = 2) -> Generator[tuple[int, int, bytes]]:
    """Yield (key, length, hash) of each chunk of the file open as `fd`, hashed by `threads` threads.

    hashlib lets them run at once. Memory: 1 MiB a thread. Raises OSError, ChunkerError. Close the generator before
    `fd`.
    """
    workers = [_Worker(fd) for _ in range(threads)]
    waiting: deque[_Worker] = deque()
    turn = 0

    def collect() -> list[tuple[int, int, bytes]]:
        worker = waiting.popleft()
        result = worker.done.get()
        if isinstance(result, list):
            return result
        worker.done.put(None)  # for the wait at the end, whichever of the two this was
        raise result if result is not None else ChunkerError("a hashing thread has died")

    try:
        for block in _blocks(parts):
            if len(waiting) == 2 * threads:
                yield from collect()
            worker = workers[turn % threads]
            turn += 1
            worker.todo.put(block)
            waiting.append(worker)
        while waiting:
            yield from collect()
    finally:
        for worker in workers:
            worker.todo.put(None)
        for worker in workers:
            while worker.done.get() is not None:
                pass
