"""The names that chunks and pages of an image have at both ends: hashes of what they hold."""

from __future__ import annotations

from checkpoint.wire.manifest import HASH, PAGE


def chunk_hash(data: bytes | bytearray | memoryview) -> bytes:
    """Name a chunk that is not all zeros."""
    return HASH(data).digest()


def page_hashes(data: bytes | memoryview) -> list[bytes]:
    """Name each page by 16 bytes of its hash: enough to find it again, and the chunk's hash guards the sum."""
    return [HASH(data[at : at + PAGE]).digest()[:16] for at in range(0, len(data), PAGE)]
