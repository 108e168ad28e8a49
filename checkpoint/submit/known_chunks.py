"""What a job's store has already, as a new image asks: which chunks need not come, which can be compared with."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial

from checkpoint.submit.packs import PackError, PackReader
from checkpoint.submit.read_back import damaged, sound_chunk
from checkpoint.wire.chunks import chunk_hash, page_hashes
from checkpoint.wire.manifest import ZERO, ImageFile, Manifest


class KnownChunks:
    """The chunks of a job's packs, and those put since. Every method raises OSError where the disk refuses.

    A chunk in a pack counts if the previous image needs it (prune keeps what images need, whole) or once it has been
    read back. Any other may be a patch of chunks that are gone, or were stored anew.

    Threads: all methods are called by the transaction's own thread; `pool` reads chunks through the PackReader.
    """

    def __init__(self, reader: PackReader, previous: Manifest | None, pool: Executor) -> None:
        self._reader, self._pool = reader, pool
        self._put: set[bytes] = set()
        self._forgotten: set[bytes] = set()
        self._bases: dict[str, dict[int, bytes]] = {}  # origin → key → hash, of the previous image
        self._sound: set[bytes] = set()  # that may be relied on, if a pack has them
        for file in previous.files if previous is not None else ():
            self._bases[file.origin] = {key: digest for key, _, digest in file.chunks()}
            self._sound.update(self._bases[file.origin].values())

    def add(self, digest: bytes) -> None:
        """Take a chunk as stored: it has been put, and its hash will be compared before it is written."""
        self._put.add(digest)

    def has(self, digest: bytes) -> bool:
        """Tell whether the chunk is stored, or has been put."""
        if digest == ZERO or digest in self._put:
            return True
        if digest not in self._reader:
            return False
        if digest not in self._sound:
            if not self._readable(digest):
                self._reader.forget(digest)
                return False
            self._sound.add(digest)
        return True

    def _readable(self, digest: bytes) -> bool:
        try:
            return chunk_hash(self._reader.chunk(digest)) == digest
        except PackError:
            return False

    def forget(self, digests: Sequence[bytes]) -> None:
        """Take damaged chunks as lacking, so that they are asked for, and stored whole, again."""
        for digest in digests:
            self._reader.forget(digest)
            self._put.discard(digest)
            self._forgotten.add(digest)

    def forgotten(self, digest: bytes) -> bool:
        """Tell whether the chunk is to be stored whole: as a patch it might refer to what is damaged."""
        return digest in self._forgotten

    def damaged(self, files: Sequence[ImageFile]) -> list[bytes]:
        """Read back the chunks of `files` that earlier images left; those that cannot be.

        Those that came with this image were checked as they came, and would only be read from the kernel's memory.
        """
        chunks = (chunk for file in files for chunk in file.chunks())
        earlier = {digest: length for _, length, digest in chunks if digest in self._reader}
        return damaged(self._reader, self._pool, earlier, partial(sound_chunk, unpack=False))

    def base(self, origin: str, key: int) -> bytes | None:
        """Find the hash of what the previous image has at this place, if it can be compared with."""
        digest = self._bases.get(origin, {}).get(key, ZERO)
        return digest if digest in self._reader else None

    def pages(self, digests: list[bytes]) -> list[list[bytes]]:
        """Hash the pages of stored chunks; none for a chunk that cannot be read."""
        return list(self._pool.map(self._hash_pages, digests))

    def _hash_pages(self, digest: bytes) -> list[bytes]:
        try:
            return page_hashes(self._reader.chunk(digest))
        except PackError:
            return []  # damaged: the new chunk will come whole
