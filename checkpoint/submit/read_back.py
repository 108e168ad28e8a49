"""Chunks read back and checked."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor

from checkpoint.submit.packs import ZSTD, PackError, PackReader
from checkpoint.wire.chunks import chunk_hash
from checkpoint.wire.manifest import ZERO

GROUP = 16  # chunks that one thread reads at a time


def checked_chunk(packs: PackReader, length: int, digest: bytes) -> bytes:
    """Read one chunk. Raises PackError if its bytes are not what their hash says, OSError."""
    if digest == ZERO:
        return bytes(length)
    data = packs.chunk(digest)
    if len(data) != length or chunk_hash(data) != digest:
        raise PackError("a chunk does not match its hash")
    return data


def sound_chunk(packs: PackReader, length: int, digest: bytes, unpack: bool = True) -> bytes:
    """Read one chunk, where a compressed one's CRC stands for its hash, at a fifth of the time.

    Without `unpack` nothing of it is returned. Raises the same.
    """
    if digest != ZERO:
        record = packs.record(digest)
        if record.kind == ZSTD and record.length == length:
            return record.stored() if unpack else b""
    return checked_chunk(packs, length, digest)


def damaged(
    packs: PackReader, pool: Executor, lengths: dict[bytes, int], read: Callable[[PackReader, int, bytes], bytes]
) -> list[bytes]:
    """Find those of the chunks, given by hash and length, that `read` cannot read back."""
    wanted = list(lengths.items())

    def check(start: int) -> list[bytes]:
        group = wanted[start : start + GROUP]
        return [digest for digest, length in group if not _readable(read, packs, length, digest)]

    return [digest for found in pool.map(check, range(0, len(wanted), GROUP)) for digest in found]


def _readable(read: Callable[[PackReader, int, bytes], bytes], packs: PackReader, length: int, digest: bytes) -> bool:
    try:
        read(packs, length, digest)
    except (PackError, OSError):
        return False
    return True
