"""Adding one image to a job's store: chunks as they arrive, then the commit."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

import zstandard

from checkpoint.submit.job_images import JobDirectory, Point, StoreError, disk_error
from checkpoint.submit.packs import (
    MAX_SOURCES,
    PACK_SIZE,
    PATCH_RAW,
    PATCH_ZSTD,
    RAW,
    ZSTD,
    PackError,
    PackReader,
    PackWriter,
    Record,
    make_patch,
    pack_numbers,
    patch_payload,
)
from checkpoint.submit.read_back import damaged, sound_chunk
from checkpoint.wire.chunks import chunk_hash, page_hashes
from checkpoint.wire.manifest import ENTRY, PAGE, ZERO, ImageFile, Manifest

LEVEL = -1  # of zstd; docs/decisions/image-store.md has the figures
THREADS = 2
_AHEAD = 4  # groups of chunks being hashed and compressed
_PROBE = 16  # of chunks that do not compress, one in so many is still tried


@dataclass(frozen=True, slots=True)
class Patch:
    """A chunk that shares pages with one already stored. `pages[i]`: the base's page that is page i, or None: it is
    the next one of `new`, or zeros if `zeros` has its bit."""

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
        """The compressed bytes, or None: store them as they are."""
        if self._failures >= _PROBE and self._failures % _PROBE:
            self._failures += 1
            return None
        small = self._zstd.compress(data)
        if len(small) > len(data) * 15 // 16:
            self._failures += 1
            return None
        self._failures = 0
        return small


class Transaction:
    """One image being added; alone among writers. Use `with`: unless committed, no image is added, but the chunks
    that arrived are kept for the next attempt until `prune`.

    Every method raises StoreError: the disk is full or broken (then what was written is removed), or a chunk did not
    match its hash.
    """

    def __init__(self, directory: JobDirectory, at: Point) -> None:
        self.directory = directory
        self.added = 0  # bytes written to packs
        self._at = at
        # One thread more than work for hashing: it waits in fsync while packs are sealed.
        self._pool = ThreadPoolExecutor(THREADS + 1, thread_name_prefix="rexec-store")
        self._cleanup = ExitStack()
        self._jobs: deque[Future[list[Record]]] = deque()
        self._seals: list[Future[None]] = []
        self._compressors = [_Compressor() for _ in range(_AHEAD + 1)]
        self._pack: PackWriter | None = None
        self._numbers: list[int] = []  # packs of this transaction
        self._accepted: set[bytes] = set()
        self._forgotten: set[bytes] = set()
        self._bases: dict[str, dict[int, bytes]] = {}
        self._needed: set[bytes] = set()  # of what is stored: by the previous image, or read back
        self._reader: PackReader

    def __enter__(self) -> Self:
        try:
            self._cleanup.callback(self.directory.close)
            self._cleanup.enter_context(self.directory.writing())
            self._cleanup.callback(self._pool.shutdown)
            self._reader = PackReader(self.directory.fd)
            self._cleanup.callback(self._reader.close)
            self._next_pack = max(pack_numbers(self.directory.fd), default=0) + 1
            self.number = max(self.directory.numbers(), default=0) + 1
            self.previous = self._load_previous()
        except OSError as error:
            self._cleanup.close()
            raise self._failed(error) from error
        except StoreError:
            self._cleanup.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, StoreError):
            # What has arrived need not come again. The image is lost anyway: a disk that refuses adds nothing to that.
            with suppress(StoreError):
                self._write_all()
        self._pool.shutdown(cancel_futures=True)
        if self._pack is not None:
            self._pack.close()
        self._cleanup.close()

    def _load_previous(self) -> Manifest | None:
        if self.number == 1:
            return None
        try:
            previous = self.directory.manifest(self.number - 1)
        except StoreError:
            return None  # damaged: nothing to compare with, so the new image is stored whole, which mends it
        for file in previous.files:
            self._bases[file.origin] = {key: digest for key, _, digest in file.chunks()}
            self._needed.update(self._bases[file.origin].values())
        return previous

    def _failed(self, error: OSError) -> StoreError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            self._discard()
        return StoreError(
            f"the image of job {self.directory.job} was not saved, because {disk_error(self.directory.path, error)}"
        )

    def _discard(self) -> None:
        """Gives back the space, unless the image was committed: nothing else refers to what was written."""
        wait(self._seals)
        if self.number in self.directory.numbers():
            return
        for name in os.listdir(self.directory.fd):
            if name.endswith(".tmp"):
                os.unlink(name, dir_fd=self.directory.fd)
        for number in self._numbers:
            for suffix in ("part", "pack"):
                name = f"{number:08d}.{suffix}"
                if name in os.listdir(self.directory.fd):
                    os.unlink(name, dir_fd=self.directory.fd)
        self._numbers.clear()

    def forget(self, digests: Sequence[bytes]) -> None:
        """Takes damaged chunks as lacking, so that they are asked for, and stored whole, again."""
        for digest in digests:
            self._reader.forget(digest)
            self._accepted.discard(digest)
            self._forgotten.add(digest)

    def damaged(self, files: Sequence[ImageFile]) -> list[bytes]:
        """The chunks that an image about to be committed has from earlier ones and that cannot be read back: `forget`
        them and let the sender offer all again. (Those that came with it were checked as they came, and would only
        be read from the kernel's memory.)"""
        chunks = (chunk for file in files for chunk in file.chunks())
        earlier = {digest: length for _, length, digest in chunks if digest in self._reader}
        try:
            return damaged(self._reader, self._pool, earlier, partial(sound_chunk, unpack=False))
        except OSError as error:
            raise self._failed(error) from error

    def has(self, digest: bytes) -> bool:
        """Whether the chunk is stored, or has been put.

        A prune keeps what the images kept need. What lies beside that in a pack may be a patch of chunks that are
        gone, or were stored anew: such a chunk counts only if it can be read back.
        """
        if digest == ZERO or digest in self._accepted:
            return True
        if digest not in self._reader:
            return False
        if digest not in self._needed:
            if not self._sound(digest):
                self._reader.forget(digest)
                return False
            self._needed.add(digest)
        return True

    def _sound(self, digest: bytes) -> bool:
        try:
            return chunk_hash(self._reader.chunk(digest)) == digest
        except PackError:
            return False
        except OSError as error:
            raise self._failed(error) from error

    def base(self, origin: str, key: int) -> bytes | None:
        """The hash of what the previous image has at this place, if it can be compared with."""
        digest = self._bases.get(origin, {}).get(key, ZERO)
        return digest if digest in self._reader else None

    def base_pages(self, digests: list[bytes]) -> list[list[bytes]]:
        """The hashes of the pages of stored chunks; none for a chunk that cannot be read."""
        try:
            return list(self._pool.map(self._hash_pages, digests))
        except OSError as error:
            raise self._failed(error) from error

    def _hash_pages(self, digest: bytes) -> list[bytes]:
        try:
            return page_hashes(self._reader.chunk(digest))
        except PackError:
            return []  # damaged: the new chunk will come whole

    def put(self, chunks: list[tuple[bytes, bytes | memoryview]]) -> None:
        """Stores (hash, bytes) of whole chunks. They are checked and written a little later."""
        self._accepted.update(digest for digest, _ in chunks)
        self._submit(chunks, [])

    def put_patches(self, patches: list[Patch]) -> None:
        """Stores chunks of which only some pages came."""
        self._accepted.update(patch.hash for patch in patches)
        self._submit([], patches)

    def _submit(self, chunks: list[tuple[bytes, bytes | memoryview]], patches: list[Patch]) -> None:
        while len(self._jobs) > _AHEAD - 1:
            self._write_next()
        self._jobs.append(self._pool.submit(self._make_records, chunks, patches))

    def _make_records(self, chunks: list[tuple[bytes, bytes | memoryview]], patches: list[Patch]) -> list[Record]:
        compressor = self._compressors.pop()
        try:
            records = [self._make_whole(digest, data, compressor) for digest, data in chunks]
            return records + [self._make_patch(patch, compressor) for patch in patches]
        finally:
            self._compressors.append(compressor)

    def _check(self, digest: bytes, data: bytes | memoryview) -> None:
        if chunk_hash(data) != digest:
            raise StoreError(
                f"the image of job {self.directory.job} was not saved, because a chunk that arrived does not match "
                "its hash: try again"
            )

    def _make_whole(self, digest: bytes, data: bytes | memoryview, compressor: _Compressor) -> Record:
        self._check(digest, data)
        small = compressor(data)
        return Record.make(RAW if small is None else ZSTD, len(data), digest, data if small is None else small)

    def _make_patch(self, patch: Patch, compressor: _Compressor) -> Record:
        try:
            base = self._reader.chunk(patch.base)
            base_refs = self._reader.page_refs(patch.base)
        except PackError as error:
            raise StoreError(f"image {self.number - 1} of job {self.directory.job} is damaged: {error}") from error
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
        data = b"".join(pages)
        refs = [None if place is None else base_refs[place] for place in patch.pages]
        sources, places, own = make_patch(data, patch.hash, refs)
        if len(sources) > MAX_SOURCES or 2 * len(own) > len(data) or patch.hash in self._forgotten:
            return self._make_whole(patch.hash, data, compressor)
        self._check(patch.hash, data)
        small = compressor(own) if own else None
        payload = patch_payload(sources, places, own, own if small is None else small)
        return Record.make(PATCH_RAW if small is None else PATCH_ZSTD, patch.length, patch.hash, payload)

    def _write_next(self) -> None:
        try:
            records = self._jobs.popleft().result()
            for future in self._seals:
                if future.done():
                    future.result()
            if self._pack is None:
                self._numbers.append(self._next_pack)
                self._pack = PackWriter(self.directory.fd, self._next_pack)
                self._next_pack += 1
            self._pack.append(records)
            self.added += sum(record.size for record in records)
            if self._pack.size >= PACK_SIZE:
                self._seals.append(self._pool.submit(self._pack.seal))
                self._pack = None
        except OSError as error:
            raise self._failed(error) from error

    def _write_all(self) -> None:
        while self._jobs:
            self._write_next()

    def finish(self) -> None:
        """All chunks are on disk, durably."""
        self._write_all()
        try:
            if self._pack is not None:
                self._at("pack written")
                self._pack.seal()
                self._pack = None
                self._at("pack synced")
            for future in self._seals:
                future.result()
            self._seals.clear()
            os.fsync(self.directory.fd)
        except OSError as error:
            raise self._failed(error) from error

    def commit(self, manifest: Manifest) -> None:
        """Makes `manifest` the job's latest image, durably. Its number must be `number` of this transaction."""
        job = self.directory.job
        if (manifest.job, manifest.number) != (job, self.number):
            raise StoreError(f"image {manifest.number} of job {manifest.job} is not image {self.number} of job {job}")
        if self.previous is not None and manifest.generation < self.previous.generation:
            raise StoreError(
                f"the image of job {job} was refused, because generation {manifest.generation} of the job is over: "
                f"generation {self.previous.generation} runs now"
            )
        self.finish()
        for file in manifest.files:
            if not all(self.has(digest) for _, _, digest in ENTRY.iter_unpack(file.table)):
                raise StoreError(f"the image of job {job} was not saved, because chunks of {file.name} are missing")
        self._at("packs durable")
        try:
            self.directory.write_manifest(manifest, self._at)
        except OSError as error:
            raise self._failed(error) from error
        self._numbers.clear()
