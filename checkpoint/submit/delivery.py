"""The store's end of restoring: an image's chunks, in order, for a machine that has none of them."""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint.submit.store import Image
from checkpoint.wire import image_wire as wire
from checkpoint.wire.manifest import HASH, ZERO


def deliver(image: Image) -> Iterator[list[bytes]]:
    """Yield the payloads that make up `image`'s files, each in parts, for Collector.

    Zeros are named, not sent. Raises StoreError.
    """
    files = image.manifest.files
    digest = HASH()
    for message in wire.files_messages([(file.name, file.origin, file.size) for file in files]):
        digest.update(message)
        yield [message]
    lines: list[bytes] = []
    data: list[bytes] = []
    size = 0
    for file in files:
        chunks = image.read_file(file.name)
        for (_, length, chunk_hash), chunk in zip(file.chunks(), chunks, strict=True):
            zero = chunk_hash == ZERO
            if lines and (size + length > wire.DATA_SIZE or len(lines) == wire.BATCH):
                yield [wire.chunks_head(lines), *data]
                lines, data, size = [], [], 0
            lines.append(wire.held(length, chunk_hash))
            digest.update(lines[-1])
            if not zero:
                data.append(chunk)
                size += length
    if lines:
        yield [wire.chunks_head(lines), *data]
    yield [wire.digest_message(wire.END, digest.digest())]
