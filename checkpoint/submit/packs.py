"""Packs: files of records, each a chunk of the job's memory, found by its hash. docs/images.md has the layout.

A record holds a whole chunk, or a *patch*: the pages that changed, and for each other page of the chunk which
record's stored bytes hold it. A patch refers to stored bytes only, never through another patch, so that reading a
chunk takes at most MAX_SOURCES records beside its own.
"""

from __future__ import annotations

import os
import re
import struct
import threading
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Self

import zstandard

from checkpoint.errors import CheckpointError
from checkpoint.wire.chunks import chunk_hash
from checkpoint.wire.manifest import PAGE, WINDOW

RAW, ZSTD, PATCH_RAW, PATCH_ZSTD = 0, 1, 2, 3
MAX_SOURCES = 4
OWN, ZEROS = 255, 254  # sources of a page that are no other record
PACK_SIZE = 256 << 20  # a pack is sealed once it is longer

_PACK_HEAD = b"rexec pack 2\n\0\0\0"
_RECORD = struct.Struct("<4sB3xIII32s")  # magic, kind, bytes of the chunk, bytes stored, CRC-32, hash of the chunk
_RECORD_MAGIC = b"rxCh"
_LARGEST = _RECORD.size + WINDOW + 4096  # bytes of a record
_INDEX = struct.Struct("<32sII")  # hash, offset, bytes stored
_TRAILER = struct.Struct("<8sII32s")  # magic, records, offset of the index, hash of the index
_TRAILER_MAGIC = b"rxPackE\n"
_NAME = re.compile(r"(\d{8})\.pack")

_IOV_MAX = 1024  # buffers of one writev, by <limits.h>

PageRef = tuple[bytes, int]  # a record's hash and a page of its stored bytes


class PackError(CheckpointError):
    """A record or a pack is damaged; the text says what and where."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it lies in a pack."""

    kind: int
    length: int
    hash: bytes
    payload: bytes | memoryview
    head: bytes

    @classmethod
    def make(cls, kind: int, length: int, digest: bytes, payload: bytes | memoryview) -> Self:
        """Make a record with its head, whose CRC covers the head, and the payload unless the hash does (RAW)."""

        def with_crc(crc: int) -> bytes:
            return _RECORD.pack(_RECORD_MAGIC, kind, length, len(payload), crc, digest)

        crc = zlib.crc32(with_crc(0))
        if kind != RAW:
            crc = zlib.crc32(payload, crc)
        return cls(kind, length, digest, payload, with_crc(crc))

    @property
    def size(self) -> int:
        """Bytes in the pack."""
        return _RECORD.size + len(self.payload)

    @property
    def is_patch(self) -> bool:
        """Whether it holds some of its chunk's pages only."""
        return self.kind in (PATCH_RAW, PATCH_ZSTD)

    def patch(self) -> tuple[list[bytes], list[tuple[int, int]], bytes]:
        """Read (sources, (source, page) of each page, the stored bytes) of a patch. Raises PackError."""
        if len(self.payload) < 2:
            raise PackError("a patch is cut short")
        payload = bytes(self.payload)
        sources, own = payload[0], payload[1]
        pages = -(-self.length // PAGE)
        start = 2 + 32 * sources + 2 * pages
        if len(payload) < start or own > pages:
            raise PackError("a patch is cut short")
        hashes = [payload[2 + 32 * i : 34 + 32 * i] for i in range(sources)]
        refs = [(payload[at], payload[at + 1]) for at in range(start - 2 * pages, start, 2)]
        if any(source >= sources and source not in (OWN, ZEROS) for source, _ in refs):
            raise PackError("a patch refers to a source that it does not have")
        stored = payload[start:]
        return hashes, refs, decompress(stored, own * PAGE) if self.kind == PATCH_ZSTD else stored

    def stored(self) -> bytes:
        """Read the bytes of pages that this record itself holds. Raises PackError."""
        if self.is_patch:
            return self.patch()[2]
        return decompress(self.payload, self.length) if self.kind == ZSTD else bytes(self.payload)


def make_patch(
    chunk: bytes, digest: bytes, refs: Sequence[PageRef | None]
) -> tuple[list[bytes], list[tuple[int, int]], bytes]:
    """Make (sources, page references, own bytes) of a patch for `chunk`; None in `refs`: its own page, or zeros."""
    sources = list(dict.fromkeys(ref[0] for ref in refs if ref is not None))
    places: list[tuple[int, int]] = []
    own: list[bytes] = []
    for number, ref in enumerate(refs):
        page = chunk[number * PAGE : (number + 1) * PAGE]
        if ref is not None:
            places.append((sources.index(ref[0]), ref[1]))
        elif not page.strip(b"\0"):
            places.append((ZEROS, 0))
        else:
            places.append((OWN, len(own)))
            own.append(page)
    return sources, places, b"".join(own)


def patch_payload(sources: list[bytes], places: list[tuple[int, int]], own: bytes, stored: bytes) -> bytes:
    """Write the payload of a patch whose own bytes are stored as `stored`."""
    head = bytes([len(sources), -(-len(own) // PAGE)])
    return b"".join([head, *sources, *(bytes(place) for place in places), stored])


_local = threading.local()


def decompress(data: bytes | memoryview, size: int) -> bytes:
    """Decompress at most `size` bytes from one zstd frame. Raises PackError."""
    decompressor: zstandard.ZstdDecompressor | None = getattr(_local, "decompressor", None)
    if decompressor is None:
        decompressor = _local.decompressor = zstandard.ZstdDecompressor()
    try:
        # What the frame itself says goes before max_output_size, and is taken at its word: room for it is made at once.
        if zstandard.frame_content_size(data) > size:
            raise PackError("its compressed bytes say that they are more than the chunk has")
        return decompressor.decompress(data, max_output_size=size)
    except zstandard.ZstdError as error:
        raise PackError(f"its compressed bytes are damaged ({error})") from None


def parse_record(data: bytes) -> Record:
    """Read the record whose bytes are `data`, and check all that the CRC covers. Raises PackError."""
    if len(data) < _RECORD.size:
        raise PackError("a record is cut short")
    magic, kind, length, stored, _, digest = _RECORD.unpack_from(data)
    if magic != _RECORD_MAGIC or kind > PATCH_ZSTD or not 0 < length <= WINDOW or stored != len(data) - _RECORD.size:
        raise PackError("a record's header is damaged")
    record = Record.make(kind, length, digest, memoryview(data)[_RECORD.size :])
    if record.head != data[: _RECORD.size]:
        raise PackError("a record is damaged: its checksum does not match")
    return record


def _read(fd: int, offset: int, size: int, most: int = _LARGEST) -> bytes:
    if size > most:
        raise PackError("the pack says that a record is larger than any")  # pread would make room for it first
    data = os.pread(fd, size, offset)
    if len(data) != size:
        raise PackError("the pack is cut short")
    return data


def scan(fd: int, end: int) -> Iterator[tuple[int, Record]]:
    """Yield each record from the pack's head up to `end`, with its offset. Raises PackError at the first damage."""
    if _read(fd, 0, len(_PACK_HEAD)) != _PACK_HEAD:
        raise PackError("the pack's head is damaged")
    offset = len(_PACK_HEAD)
    while offset < end:
        stored = _RECORD.unpack(_read(fd, offset, _RECORD.size))[3]
        if stored > _LARGEST - _RECORD.size:
            raise PackError(f"a record's header is damaged at {offset}")
        record = parse_record(_read(fd, offset, _RECORD.size + stored))
        if record.kind == RAW and chunk_hash(record.payload) != record.hash:
            raise PackError(f"a chunk does not match its hash at {offset}")
        yield offset, record
        offset += _RECORD.size + stored
    if offset != end:
        raise PackError("the pack's last record is cut short")


def read_index(fd: int) -> list[tuple[bytes, int, int]]:
    """Read (hash, offset, bytes stored) of each record of a sealed pack. Raises PackError."""
    size = os.fstat(fd).st_size
    if size < len(_PACK_HEAD) + _TRAILER.size:
        raise PackError("the pack is cut short")
    magic, count, start, digest = _TRAILER.unpack(_read(fd, size - _TRAILER.size, _TRAILER.size))
    if magic != _TRAILER_MAGIC or start + count * _INDEX.size + _TRAILER.size != size:
        raise PackError("the pack's trailer is damaged")
    index = _read(fd, start, count * _INDEX.size, size)
    if chunk_hash(index) != digest:
        raise PackError("the pack's index is damaged")
    return list(_INDEX.iter_unpack(index))


def check_pack(fd: int) -> list[str]:
    """Say what is damaged in a sealed pack: every bit of the file is looked at."""
    try:
        index = read_index(fd)
    except PackError as error:
        return [str(error)]
    damage = []
    offset = len(_PACK_HEAD)
    if os.pread(fd, offset, 0) != _PACK_HEAD:
        damage.append("the pack's head is damaged")
    for digest, start, stored in index:
        try:
            record = parse_record(_read(fd, start, _RECORD.size + stored))
            wrong = record.kind == RAW and chunk_hash(record.payload) != digest
            if start != offset or record.hash != digest or wrong:
                damage.append(f"the chunk at {start} does not match its hash")
        except PackError as error:
            damage.append(f"{error} (at {start})")
        offset = start + _RECORD.size + stored
    if offset != os.fstat(fd).st_size - len(index) * _INDEX.size - _TRAILER.size:
        damage.append("the pack has bytes that its index does not name")
    return damage


class PackWriter:
    """A pack being written as `N.part`; sealed, it is `N.pack` and never written again. Raises OSError."""

    def __init__(self, directory: int, number: int) -> None:
        self.number = number
        self.size = len(_PACK_HEAD)
        self._directory = directory
        self._index = bytearray()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._fd = os.open(f"{number:08d}.part", flags, 0o600, dir_fd=directory)
        self._write(_PACK_HEAD)

    def _write(self, *parts: bytes | memoryview) -> None:
        """Write all of `parts`, as writev(2) takes them: it may write less than it was given."""
        left = deque(memoryview(part) for part in parts)
        while left:
            written = os.writev(self._fd, list(islice(left, _IOV_MAX)))
            while left and written >= len(left[0]):
                written -= len(left.popleft())
            if written:
                left[0] = left[0][written:]

    def append(self, records: list[Record]) -> None:
        """Write records behind those that are there."""
        self._write(*(part for record in records for part in (record.head, record.payload)))
        for record in records:
            self._index += _INDEX.pack(record.hash, self.size, len(record.payload))
            self.size += record.size

    def seal(self) -> None:
        """Write the index, make the file durable and give it its name."""
        index = bytes(self._index)
        self._write(index + _TRAILER.pack(_TRAILER_MAGIC, len(index) // _INDEX.size, self.size, chunk_hash(index)))
        os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1
        name = f"{self.number:08d}"
        os.rename(f"{name}.part", f"{name}.pack", src_dir_fd=self._directory, dst_dir_fd=self._directory)

    def close(self) -> None:
        """Leave an unsealed pack as it is."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def salvage(directory: int, number: int) -> None:
    """Seal what is whole in the pack that a dead writer left as `N.part`, so that it need not be sent again."""
    name = f"{number:08d}.part"
    fd = os.open(name, os.O_RDWR | os.O_CLOEXEC, dir_fd=directory)
    try:
        index = bytearray()
        end = 0
        try:
            for offset, record in scan(fd, os.fstat(fd).st_size):
                index += _INDEX.pack(record.hash, offset, len(record.payload))
                end = offset + record.size
        except PackError:
            pass  # here the writer died: what lies before is whole
        if not index:
            os.unlink(name, dir_fd=directory)
            return
        os.ftruncate(fd, end)
        trailer = _TRAILER.pack(_TRAILER_MAGIC, len(index) // _INDEX.size, end, chunk_hash(index))
        os.pwrite(fd, bytes(index) + trailer, end)
        os.fsync(fd)
        os.rename(name, f"{number:08d}.pack", src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        os.close(fd)


def pack_numbers(directory: int) -> list[int]:
    """List the sealed packs in the directory, oldest first."""
    return sorted(int(match[1]) for name in os.listdir(directory) if (match := _NAME.fullmatch(name)))


class PackReader:
    """All sealed packs of a directory, held open: what is deleted later can still be read. Close it.

    Of two records of the same chunk the newer counts, so that a damaged one can be superseded.
    """

    def __init__(self, directory: int) -> None:
        self._fds: dict[int, int] = {}
        self._places: dict[bytes, int] = {}  # hash → pack << 64 | offset << 32 | bytes stored
        self.damaged: dict[int, str] = {}
        for number in pack_numbers(directory):
            self.add(directory, number)

    def add(self, directory: int, number: int) -> None:
        """Take in one more sealed pack."""
        fd = os.open(f"{number:08d}.pack", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
        self._fds[number] = fd
        try:
            for digest, offset, stored in read_index(fd):
                self._places[digest] = number << 64 | offset << 32 | stored
        except PackError as error:
            self.damaged[number] = str(error)
            self._add_by_scan(number, fd)

    def _add_by_scan(self, number: int, fd: int) -> None:
        try:
            for offset, record in scan(fd, os.fstat(fd).st_size):
                self._places[record.hash] = number << 64 | offset << 32 | len(record.payload)
        except PackError:
            return  # at the index, if only that is damaged; `damaged` already tells

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._places

    def forget(self, digest: bytes) -> None:
        """Act as if the chunk were not here, so that it is stored anew."""
        self._places.pop(digest, None)

    def place(self, digest: bytes) -> tuple[int, int, int]:
        """Find (pack, offset, bytes of the whole record). Raises PackError."""
        place = self._places.get(digest)
        if place is None:
            raise PackError("its chunk is in no pack")
        return place >> 64, place >> 32 & 0xFFFFFFFF, (place & 0xFFFFFFFF) + _RECORD.size

    def packed(self, digest: bytes) -> bytes:
        """Read the record's bytes as they lie in the pack. Raises PackError, OSError."""
        pack, offset, size = self.place(digest)
        return _read(self._fds[pack], offset, size)

    def record(self, digest: bytes) -> Record:
        """Read the record of a chunk. Raises PackError, OSError."""
        record = parse_record(self.packed(digest))
        if record.hash != digest:
            raise PackError("another chunk lies where the index says")
        return record

    def chunk(self, digest: bytes) -> bytes:
        """Read the chunk's bytes; the caller checks their hash. Raises PackError, OSError."""
        record = self.record(digest)
        if not record.is_patch:
            return record.stored()
        sources, refs, own = record.patch()
        stored = [self.record(source).stored() for source in sources]
        pages = []
        for source, page in refs:
            data = own if source == OWN else bytes(PAGE * (page + 1)) if source == ZEROS else stored[source]
            pages.append(data[page * PAGE : (page + 1) * PAGE])
        return b"".join(pages)[: record.length]

    def page_refs(self, digest: bytes) -> list[PageRef | None]:
        """Find for each page of a chunk the stored bytes that hold it; None: it is zeros. Raises PackError, OSError."""
        record = self.record(digest)
        if not record.is_patch:
            return [(digest, page) for page in range(-(-record.length // PAGE))]
        sources, refs, _ = record.patch()
        found: list[PageRef | None] = []
        for source, page in refs:
            found.append(None if source == ZEROS else (digest if source == OWN else sources[source], page))
        return found

    def sizes(self) -> dict[int, int]:
        """Count the bytes of each pack's file."""
        return {number: os.fstat(fd).st_size for number, fd in self._fds.items()}

    def check(self, number: int) -> list[str]:
        """Say what is damaged in one pack."""
        return check_pack(self._fds[number])

    def close(self) -> None:
        """Close the packs; no thread may be reading."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
