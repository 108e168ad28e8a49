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
from io import BytesIO
from queue import SimpleQueue

from checkpoint.errors import CheckpointError
from checkpoint.execute.page_ranges import Ranges, shared
from checkpoint.execute.spool import Spool, SpooledFile
from checkpoint.value import Value
from checkpoint.wire.chunks import chunk_hash
from checkpoint.wire.manifest import PAGE, WINDOW, ZERO, check_name
from checkpoint.wire.protobuf import ProtobufError, decode, encode, integer

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


class Known:
    """The chunks of a page image that are not in its file: the store has them, as the last image's.

    chunks   by their keys: lengths and hashes
    pages    their pages: ranges of addresses
    size     bytes in all
    """

    __slots__ = ("_pid", "chunks", "pages", "size")

    def __init__(self, chunks: dict[int, tuple[int, bytes]], pages: Ranges, pid: int) -> None:
        """`pid`: the process whose pages they are, if it stands still; else 0."""
        self.chunks, self.pages, self._pid = chunks, pages, pid
        self.size = sum(end - start for start, end in pages)

    def read(self, key: int, length: int) -> bytes:
        """Read a chunk's bytes from the process. Raises OSError, ChunkerError."""
        if not self._pid:
            raise ChunkerError("the store has lost a part of the last image; the next image will be made of all memory")
        window = [(key * WINDOW, (key + 1) * WINDOW)]
        with open(f"/proc/{self._pid}/mem", "rb", 0) as memory:
            data = b"".join(os.pread(memory.fileno(), end - at, at) for at, end in shared(window, self.pages))
        if len(data) != length:
            raise ChunkerError("a part of the job's memory cannot be read")
        return data


class Source(Value):
    """A file to be saved.

    name      in the spool
    origin    see manifest.ImageFile
    size      bytes
    pagemap   the file by whose addresses it is cut; None: it is cut by offset
    known     those of its chunks that are not in the file; None: there are none
    """

    __slots__ = ("known", "name", "origin", "pagemap", "size")
    name: str
    origin: str
    size: int
    pagemap: str | None
    known: Known | None

    def __init__(self, name: str, origin: str, size: int, pagemap: str | None, known: Known | None = None) -> None:
        self._set(name=name, origin=origin, size=size, pagemap=pagemap, known=known)


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


def with_pages(image: bytes, ranges: Ranges) -> bytes:
    """Add pages to a pagemap of CRIU, in the order of their addresses.

    Raises ChunkerError if it is none, or has them already.
    """
    head: list[bytes] = []
    entries: list[tuple[int, bytes]] = []
    at = 8
    while at < len(image):
        end = at + 4 + int.from_bytes(image[at : at + 4], "little")
        try:
            first = integer(decode(image[at + 4 : end]), 1)
        except ProtobufError as error:
            raise ChunkerError(f"an entry of a pagemap {error}") from error
        if first is None or end > len(image):
            raise ChunkerError("an entry of a pagemap is cut short")
        if head:
            entries.append((first, image[at:end]))
        else:
            head.append(image[:end])
        at = end
    for start, stop in ranges:
        pages = (stop - start) // PAGE
        message = encode([(1, start), (2, pages & 0xFFFFFFFF), (4, _PE_PRESENT), (5, pages)])
        entries.append((start, struct.pack("<I", len(message)) + message))
    entries.sort(key=lambda entry: entry[0])
    whole = b"".join([*head, *(raw for _, raw in entries)])
    runs = pagemap(BytesIO(whole))
    next(runs)
    last = 0
    for address, count in runs:
        if address < last:
            raise ChunkerError("criu saved pages that it was not told of")
        last = address + count * PAGE
    return whole


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


def _page_images(spool: Spool, names: list[str]) -> dict[str, tuple[str, str, int]]:
    """Page image → (its pagemap, origin, its size by that pagemap), for each pagemap that can be understood."""
    found = {}
    shared = [name for name in names if name.startswith("pagemap-shmem-")]
    # A shared mapping's number is a new one after each restore; its rank among them is not.
    shared.sort(key=lambda name: (len(name), name))
    for name in names:
        if name.startswith("pagemap-") and name.endswith(".img"):
            origin = f"pagemap-shmem-rank-{shared.index(name)}" if name in shared else name
            try:
                runs = pagemap(BytesIO(spool.read(name)))
                _, pages_id = next(runs)
                found[f"pages-{pages_id}.img"] = (name, origin, sum(pages for _, pages in runs) * PAGE)
            except ChunkerError:
                continue  # its page image is cut by offset: right, only worse deduplicated
    return found


def sources(spool: Spool, known: dict[str, Known] | None = None) -> list[Source]:
    """List the files of the spool, sorted by name, and how each is cut.

    `known`: by the names of their pagemaps, of page images that have not all of their chunks.

    Raises OSError; ChunkerError if what is known does not go with the files; ManifestError for a file name that no
    image may hold.
    """
    names = spool.names()
    maps = _page_images(spool, names)
    plan = []
    known = dict(known or {})
    for name in names:
        size = spool.file(name).size
        map_name, origin, mapped = maps.get(name, (None, name, size))
        absent = known.pop(map_name or "", None)
        if absent is not None:
            size += absent.size
            if mapped != size:
                raise ChunkerError(f"{name} has {size} bytes with what is known of it, and {mapped} by its pagemap")
        plan.append(Source(check_name(name), origin, size, map_name if mapped == size else None, absent))
    if known:
        raise ChunkerError(f"there is no page image for {', '.join(sorted(known))}")
    return plan


def cuts(spool: Spool, source: Source) -> Iterator[tuple[int, int]]:
    """Yield (key, length) of each chunk of `source`, in order. Raises OSError, ChunkerError."""
    if source.pagemap is None:
        yield from by_offset(source.size)
        return
    runs = pagemap(BytesIO(spool.read(source.pagemap)))
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


def _hash_block(
    spool: Spool, file: SpooledFile, offset: int, parts: list[tuple[int, int]], buffer: bytearray
) -> list[tuple[int, int, bytes]]:
    size = sum(length for _, length in parts)
    with memoryview(buffer) as view:
        filled = spool.fill(file, view[:size], offset)
        if filled < size:
            raise ChunkerError(f"an image file ends at {offset + filled} bytes, before its last chunk")
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

    def __init__(self, spool: Spool, file: SpooledFile) -> None:
        self.todo: SimpleQueue[tuple[int, list[tuple[int, int]]] | None] = SimpleQueue()
        self.done: SimpleQueue[list[tuple[int, int, bytes]] | OSError | ChunkerError | None] = SimpleQueue()
        threading.Thread(target=self._run, args=(spool, file), daemon=True).start()

    def _run(self, spool: Spool, file: SpooledFile) -> None:
        buffer = bytearray(_BLOCK)
        try:
            while (block := self.todo.get()) is not None:
                self.done.put(_hash_block(spool, file, *block, buffer))
        except (OSError, ChunkerError) as error:
            self.done.put(error)
        finally:
            self.done.put(None)


def hashed(
    spool: Spool, file: SpooledFile, parts: Iterable[tuple[int, int]], threads: int = 2
) -> Generator[tuple[int, int, bytes]]:
    """Yield (key, length, hash) of each chunk of a file of the spool, hashed by `threads` threads.

    hashlib lets them run at once. Memory: 1 MiB a thread. Raises OSError, ChunkerError. Close the generator before
    the spool.
    """
    workers = [_Worker(spool, file) for _ in range(threads)]
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
