"""Chunks on their way into packs: checked, compressed and written by a few threads, in the order in which they came.

What is given is made into records by the pool (the hash compared, zstd), at most _AHEAD groups at a time, so that
memory is bounded and the writer never waits for one slow group alone. The records are appended by whoever gives the
chunks; only fsync(2), of a pack that is full, is the pool's again. The order is kept because of patches: one may refer
to stored bytes of an earlier record, and salvage keeps a dead writer's records only up to the first that is not whole.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass

import zstandard

from checkpoint.submit.job_images import Point, StoreError
from checkpoint.submit.packs import (
    MAX_SOURCES,
    PACK_SIZE,
    PATCH_RAW,
    PATCH_ZSTD,
    RAW,
    ZSTD,
    PackReader,
    PackWriter,
    Record,
    make_patch,
    pack_numbers,
    patch_payload,
)
from checkpoint.wire.chunks import chunk_hash
from checkpoint.wire.manifest import PAGE

LEVEL = -1  # of zstd; docs/decisions/image-store.md has the figures
THREADS = 2
_AHEAD = 4  # groups of chunks being hashed and compressed
_PROBE = 16  # of chunks that do not compress, one in so many is still tried


@dataclass(frozen=True, slots=True)
class Patch:
    """A chunk that shares pages with one already stored.

    hash     of the whole chunk
    length   its bytes
    base     hash of the stored chunk
    pages    for each page the base's page that it is, or None: it is the next one of `new`, or zeros
    zeros    bit i: page i, which has no page of the base, is zeros
    new      the pages that came
    """

    hash: bytes
    length: int
    base: bytes
    pages: tuple[int | None, ...]
    zeros: int
    new: bytes


class _Compressor:
    """zstd for one group of chunks at a time; soon stops trying what does not compress."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdCompressor(level=LEVEL, write_checksum=False, write_content_size=True)
        self._failures = 0

    def __call__(self, data: bytes | memoryview) -> bytes | None:
        """Compress; None: store the bytes as they are."""
        if self._failures >= _PROBE and self._failures % _PROBE:
            self._failures += 1
            return None
        small = self._zstd.compress(data)
        if len(small) > len(data) * 15 // 16:
            self._failures += 1
            return None
        self._failures = 0
        return small


class PackQueue:
    """The packs that one transaction writes into a job's directory, open as `directory`.

    Every method raises OSError for what the disk refuses and StoreError for a chunk that is not what it should be, of
    this call's chunks or of some given before.

    Threads: all methods are called by the transaction's own thread; those of `pool` run `_make_records` and
    PackWriter.seal only. `_make_records` reads what was set by __init__ and takes a compressor of its own out of a
    list, whose pop and append are atomic (the GIL): there is one more than groups can be under way.
    """

    def __init__(self, directory: int, job: str, reader: PackReader, pool: ThreadPoolExecutor) -> None:
        """`reader`: the packs there are already, which patches refer to. `job`: its name, for sentences."""
        self.added = 0  # bytes written
        self._directory, self._job, self._reader, self._pool = directory, job, reader, pool
        self._groups: deque[Future[list[Record]]] = deque()
        self._seals: list[Future[None]] = []
        self._compressors = [_Compressor() for _ in range(_AHEAD + 1)]
        self._pack: PackWriter | None = None
        self._first = self._next = max(pack_numbers(directory), default=0) + 1

    def put(self, chunks: list[tuple[bytes, bytes | memoryview]], patches: list[tuple[Patch, bool]]) -> None:
        """Take (hash, bytes) of whole chunks, and patches, each with whether it must be stored whole all the same."""
        while len(self._groups) >= _AHEAD:
            self._write_next()
        self._groups.append(self._pool.submit(self._make_records, chunks, patches))

    def write_all(self) -> None:
        """Append all that was given to its pack; it may not be on the disk yet."""
        while self._groups:
            self._write_next()

    def seal_all(self, at: Point) -> None:
        """Have all that was given durable, and every pack under its own name."""
        self.write_all()
        if self._pack is not None:
            at("pack written")
            self._pack.seal()
            self._pack = None
            at("pack synced")
        for future in self._seals:
            future.result()
        self._seals.clear()
        os.fsync(self._directory)

    def check(self) -> None:
        """Assert what holds whenever no method is running."""
        assert self._first <= self._next, "a number was given back"
        assert len(self._groups) <= _AHEAD, "more chunks are held than memory is meant for"
        assert self._pack is None or self._pack.number == self._next - 1, "two packs are being written"
        assert self.added == 0 or self._next > self._first, "bytes were written into no pack"

    @property
    def sealed(self) -> bool:
        """Whether nothing is on its way any more."""
        return not self._groups and self._pack is None and not self._seals

    def close(self) -> None:
        """Leave the pack being written as it is: the next writer takes in what is whole of it."""
        if self._pack is not None:
            self._pack.close()

    def remove(self) -> None:
        """Unlink every pack that was written: nothing may refer to them, and nothing be given any more."""
        wait(self._seals)
        there = set(os.listdir(self._directory))
        for number in range(self._first, self._next):
            for name in (f"{number:08d}.part", f"{number:08d}.pack"):
                if name in there:
                    os.unlink(name, dir_fd=self._directory)

    def _write_next(self) -> None:
        records = self._groups.popleft().result()
        for future in self._seals:
            if future.done():
                future.result()
        if self._pack is None:
            # Counted before it is made: a pack that could not be made whole is removed too.
            self._next += 1
            self._pack = PackWriter(self._directory, self._next - 1)
        self._pack.append(records)
        self.added += sum(record.size for record in records)
        if self._pack.size >= PACK_SIZE:
            self._seals.append(self._pool.submit(self._pack.seal))
            self._pack = None

    # in the pool's threads

    @contextmanager
    def _compressor(self) -> Iterator[_Compressor]:
        compressor = self._compressors.pop()
        try:
            yield compressor
        finally:
            self._compressors.append(compressor)

    def _make_records(
        self, chunks: list[tuple[bytes, bytes | memoryview]], patches: list[tuple[Patch, bool]]
    ) -> list[Record]:
        with self._compressor() as compressor:
            records = [self._whole(digest, data, compressor) for digest, data in chunks]
            return records + [self._patch(patch, whole, compressor) for patch, whole in patches]

    def _whole(self, digest: bytes, data: bytes | memoryview, compressor: _Compressor) -> Record:
        self._compare(digest, data)
        small = compressor(data)
        return Record.make(RAW if small is None else ZSTD, len(data), digest, data if small is None else small)

    def _patch(self, patch: Patch, whole: bool, compressor: _Compressor) -> Record:
        base = self._reader.chunk(patch.base)
        base_refs = self._reader.page_refs(patch.base)
        data = _put_together(patch, base)
        refs = [None if place is None else base_refs[place] for place in patch.pages]
        sources, places, own = make_patch(data, patch.hash, refs)
        if len(sources) > MAX_SOURCES or 2 * len(own) > len(data) or whole:
            return self._whole(patch.hash, data, compressor)
        self._compare(patch.hash, data)
        small = compressor(own) if own else None
        payload = patch_payload(sources, places, own, own if small is None else small)
        return Record.make(PATCH_RAW if small is None else PATCH_ZSTD, patch.length, patch.hash, payload)

    def _compare(self, digest: bytes, data: bytes | memoryview) -> None:
        if chunk_hash(data) != digest:
            raise StoreError(
                f"the image of job {self._job} was not saved, because a chunk that arrived does not match its hash: "
                "try again"
            )


def _put_together(patch: Patch, base: bytes) -> bytes:
    """The chunk's bytes: pages of the base, zeros, and those that came, in their order."""
    pages = []
    at = 0
    for number, place in enumerate(patch.pages):
        size = min(PAGE, patch.length - number * PAGE)
        if place is not None:
            pages.append(base[place * PAGE : (place + 1) * PAGE])
        elif patch.zeros >> number & 1:
            pages.append(bytes(size))
        else:
            pages.append(patch.new[at : at + size])
            at += size
    return b"".join(pages)
