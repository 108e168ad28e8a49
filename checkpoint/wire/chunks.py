"""The names that chunks and pages of an image have at both ends: hashes of what they hold."""

from __future__ import annotations

from checkpoint.wire.manifest import HASH, PAGE


def chunk_hash(data: bytes | bytearray | memoryview) -> bytes:
    """The name of a chunk that is not all zeros."""
    return HASH(data).digest()


def page_hashes(data: bytes) -> list[bytes]:
    """The first 16 bytes of each page's hash: enough to find a page again, the chunk's hash guards the sum."""
    return [HASH(data[at : at + PAGE]).digest()[:16] for at in range(0, len(data), PAGE)]
