"""The messages by which an image travels, both ways. Shipped; sans-I/O: payloads are made and parsed here.

Each message is one payload of at most MAX_MESSAGE bytes: a letter, then fields in little-endian order; MESSAGES has
them all. Whoever carries them keeps their order and sees to flow control.

Saving is a conversation of two machines of states, Sender (on the host, checkpoint/execute/sender.py) and Receiver (at
home, checkpoint/submit/receiver.py)::

    F…  then, of each batch    O → A            every chunk of it is stored
                               O → A → D        some are to be sent whole
                               O → A → H → M → D   of some the pages are compared first
    and, when nothing is asked any more,  E → S → C      or  E → S → R, and all anew from F

Up to MAX_BATCHES batches are under way at once, so that the link is never idle for a round trip; the answers come in
the order of the offers. Restoring is one-sided: Collector (on the host) takes in what deliver (at home) says, F K… E,
and answers S. A message that the state does not allow is an ImageWireError and ends the conversation: it is not
repaired but started anew, which costs little, for what is stored is not sent again.
"""

from __future__ import annotations

import struct

from checkpoint.errors import CheckpointError
from checkpoint.wire.manifest import ENTRY, PAGE, ManifestError, check_name

MAX_MESSAGE = (1 << 20) + 65536
BATCH = 512  # chunks of one offer
MAX_BATCHES = 8  # offers that may await their answer or their data
MAX_FILES = 100_000
MAX_HEAD = 1 << 20
DATA_SIZE = 1 << 20  # bytes of chunks in one message
PAGE_HASH = 16

FILES, OFFER, ANSWER, PAGES, MASKS, DATA, END = b"F", b"O", b"A", b"H", b"M", b"D", b"E"
STORED, AGAIN, COMMITTED, CHUNKS = b"S", b"R", b"C", b"K"

# letter -> (name, who sends it, its fields): docs/images.md is made from this
MESSAGES: dict[bytes, tuple[str, str, str]] = {
    FILES: ("files", "both", "for each: u16, u16, u64 size; name; origin"),
    OFFER: (
        "offer",
        "execute",
        f"batch u32; up to {BATCH} times (key, length, hash), going through all files in order",
    ),
    ANSWER: ("answer", "store", "batch u32; a byte for each: 0 have it, 1 send it, 2 send the hashes of its pages"),
    PAGES: (
        "page hashes",
        "execute",
        f"batch u32; the first {PAGE_HASH} bytes of the SHA-256 of each {PAGE >> 10} KiB page of the chunks asked",
    ),
    MASKS: ("masks", "store", "batch u32; u16 for each chunk asked: the pages to send"),
    DATA: ("data", "execute", "batch u32, count u16; count times (index u16, mask u16); the pages"),
    END: ("end", "both", f"SHA-256 of all offered entries; the sender's own bytes, up to {MAX_HEAD >> 20} MiB"),
    STORED: ("stored", "both", "all is on the disk, durably; of a restore: all files are there"),
    AGAIN: ("again", "store", "after `S`: some of it cannot be read back; offer everything again, from `F` on"),
    COMMITTED: ("committed", "store", "the manifest's hash, once the image is the latest"),
    CHUNKS: (
        "chunks",
        "store",
        "of a restore: count u16; count times (length u32, hash); the chunks that are not zeros",
    ),
}

HAVE, SEND, COMPARE = 0, 1, 2  # a chunk's answer: no need; send it whole; send its pages' hashes

_FILE = struct.Struct("<HHQ")
_BATCH = struct.Struct("<cI")
_COUNT = struct.Struct("<cIH")
_ITEM = struct.Struct("<HH")
_HELD = struct.Struct("<I32s")


class ImageWireError(CheckpointError):
    """The other end sent what this protocol does not allow; the text says what. The conversation is over."""


def pages_of(length: int) -> int:
    """Count the pages of a chunk of `length` bytes; the last may be short."""
    return -(-length // PAGE)


def full_mask(length: int) -> int:
    """Make the mask of all pages of a chunk."""
    return (1 << pages_of(length)) - 1


def page_size(length: int, page: int) -> int:
    """Count the bytes of one page of a chunk of `length` bytes."""
    return min(PAGE, length - page * PAGE)


def masked_size(length: int, mask: int) -> int:
    """Count the bytes of the pages in `mask`."""
    if mask == full_mask(length):
        return length
    return sum(page_size(length, page) for page in range(pages_of(length)) if mask >> page & 1)


def check_size(payload: bytes | memoryview) -> None:
    """Refuse a payload of a size that none has, by an ImageWireError."""
    if not 0 < len(payload) <= MAX_MESSAGE:
        raise ImageWireError(f"a message has {len(payload)} bytes, outside 1 to {MAX_MESSAGE}")


def files_messages(files: list[tuple[str, str, int]]) -> list[bytes]:
    """Write FILES, the list of (name, origin, size), in as many messages as it takes."""
    messages = []
    message = bytearray(FILES)
    for name, origin, size in files:
        message += _FILE.pack(len(name), len(origin), size) + name.encode() + origin.encode()
        if len(message) >= DATA_SIZE:
            messages.append(bytes(message))
            message = bytearray(FILES)
    return [*messages, bytes(message)]


def parse_files(payload: bytes) -> list[tuple[str, str, int]]:
    """Read FILES: (name, origin, size) of each. Raises ImageWireError."""
    files = []
    at = 1
    while at < len(payload):
        if len(payload) - at < _FILE.size:
            raise ImageWireError("a list of files is cut short")
        name_size, origin_size, size = _FILE.unpack_from(payload, at)
        at += _FILE.size + name_size + origin_size
        if at > len(payload):
            raise ImageWireError("a list of files is cut short")
        try:
            name = check_name(payload[at - origin_size - name_size : at - origin_size].decode("ascii"))
            origin = check_name(payload[at - origin_size : at].decode("ascii"))
        except (ManifestError, UnicodeDecodeError) as error:
            raise ImageWireError(f"a file's name is refused: {error}") from None
        if size >> 63:
            raise ImageWireError(f"{name} has {size} bytes, more than a file can have")
        files.append((name, origin, size))
    return files


def batch_message(kind: bytes, batch: int, body: bytes) -> bytes:
    """Write OFFER, ANSWER, PAGES or MASKS of one batch."""
    return _BATCH.pack(kind, batch) + body


def parse_batch(payload: bytes) -> tuple[int, bytes]:
    """Read a message of one batch: its number, and what the message says of it. Raises ImageWireError."""
    if len(payload) < _BATCH.size:
        raise ImageWireError("a message is cut short")
    return _BATCH.unpack_from(payload)[1], payload[_BATCH.size :]


def parse_entries(body: bytes) -> list[tuple[int, int, bytes]]:
    """Read what OFFER says: (key, length, hash) of each chunk. Raises ImageWireError."""
    if not body or len(body) % ENTRY.size or len(body) > BATCH * ENTRY.size:
        raise ImageWireError(f"an offer has {len(body)} bytes, not 1 to {BATCH} entries")
    return list(ENTRY.iter_unpack(body))


def pack_masks(masks: list[int]) -> bytes:
    """Write what MASKS says."""
    return struct.pack(f"<{len(masks)}H", *masks)


def parse_masks(body: bytes) -> list[int]:
    """Read what MASKS says. Raises ImageWireError."""
    if len(body) % 2:
        raise ImageWireError("a list of masks is cut short")
    return list(struct.unpack(f"<{len(body) // 2}H", body))


def data_head(batch: int, items: list[tuple[int, int]]) -> bytes:
    """Write what DATA begins with: `items` of (chunk's index in the batch, mask); the pages follow in that order."""
    return b"".join([_COUNT.pack(DATA, batch, len(items)), *(_ITEM.pack(*item) for item in items)])


def parse_data(payload: bytes | memoryview) -> tuple[int, list[tuple[int, int]], int]:
    """Read DATA: (batch, items, where the pages begin). Raises ImageWireError."""
    if len(payload) < _COUNT.size:
        raise ImageWireError("a message of data is cut short")
    _, batch, count = _COUNT.unpack_from(payload)
    start = _COUNT.size + count * _ITEM.size
    if not count or len(payload) < start:
        raise ImageWireError("a message of data is cut short")
    return batch, list(_ITEM.iter_unpack(payload[_COUNT.size : start])), start


def digest_message(kind: bytes, digest: bytes, head: bytes = b"") -> bytes:
    """Write END (hash of all that was offered, and the sender's own head) or COMMITTED (the manifest's hash)."""
    if len(head) > MAX_HEAD:
        raise ImageWireError(f"the head has {len(head)} bytes, more than {MAX_HEAD}")
    return kind + digest + head


def parse_digest(payload: bytes) -> tuple[bytes, bytes]:
    """Read END or COMMITTED: the hash, and what follows it. Raises ImageWireError."""
    if not 33 <= len(payload) <= 33 + MAX_HEAD:
        raise ImageWireError("the last message is cut short or too long")
    return payload[1:33], payload[33:]


def held(length: int, chunk_hash: bytes) -> bytes:
    """Write one chunk's line in a CHUNKS message, and in the digest of a delivery."""
    return _HELD.pack(length, chunk_hash)


def chunks_head(lines: list[bytes]) -> bytes:
    """Write what CHUNKS begins with; the chunks that are not zeros follow."""
    return b"".join([CHUNKS, struct.pack("<H", len(lines)), *lines])


def parse_chunks(payload: bytes | memoryview) -> tuple[list[tuple[int, bytes]], int]:
    """Read CHUNKS: [(length, hash)], where the chunks begin; one of zeros has hash ZERO and no bytes."""
    count = int.from_bytes(payload[1:3], "little")
    start = 3 + count * _HELD.size
    if not count or len(payload) < start:
        raise ImageWireError("a message of chunks is cut short")
    return list(_HELD.iter_unpack(payload[3:start])), start
