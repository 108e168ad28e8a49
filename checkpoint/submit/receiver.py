"""The store's end of saving an image: says what it lacks, takes it in.

No I/O on the link. The sender is not trusted.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from checkpoint.submit.pack_queue import Patch
from checkpoint.submit.transaction import Transaction
from checkpoint.wire import image_wire as wire
from checkpoint.wire.chunks import page_hashes
from checkpoint.wire.manifest import ENTRY, HASH, PAGE, WINDOW, ZERO, ImageFile

DEFAULT_LIMIT = 1 << 40  # bytes of one image


@dataclass(slots=True)
class _Asked:
    """A chunk that is on its way.

    hash     its name
    length   its bytes
    mask     the pages asked for
    base     hash of the stored chunk that has the others; None: it comes whole
    pages    see Patch
    zeros    see Patch
    """

    hash: bytes
    length: int
    mask: int
    base: bytes | None = None
    pages: tuple[int | None, ...] = ()
    zeros: int = 0


@dataclass(slots=True)
class _Batch:
    """An offer that is not wholly answered, or whose data have not all come.

    entries    (key, length, hash) of each chunk
    compared   (index, hash of the base) of those whose page hashes were asked for
    asked      index → what was asked for
    """

    entries: list[tuple[int, int, bytes]]
    compared: list[tuple[int, bytes]] = field(default_factory=list)
    asked: dict[int, _Asked] = field(default_factory=dict)


class _Comparing:
    """Decides whether comparing pages pays: where most chunks changed altogether, only every eighth is compared."""

    def __init__(self) -> None:
        self._saved = 1.0  # moving average of the part of the compared pages that need not be sent
        self._turn = 0

    def pays(self) -> bool:
        """Tell whether the pages of the next chunk are to be compared."""
        self._turn += 1
        return self._saved > 0.25 or self._turn % 8 == 0

    def saved(self, part: float) -> None:
        """Note which part of a compared chunk need not be sent."""
        self._saved += (part - self._saved) / 64


class _OfferedFiles:
    """The image's files as they are named, then filled with the chunks that are offered, in order."""

    def __init__(self, limit: int) -> None:
        self.size = 0  # bytes of all files named so far
        self.offered = 0  # bytes of the chunks so far
        self._limit = limit
        self._named: list[tuple[str, str, int]] = []  # name, origin, size
        self._names: set[str] = set()
        self._tables: list[bytearray] = []
        self._current = 0  # file of the next chunk
        self._filled = 0  # bytes of it that were offered

    def name(self, name: str, origin: str, size: int) -> None:
        """Take one more file. Raises ImageWireError if it is one too many, too much, or named before."""
        self.size += size
        if name in self._names or len(self._named) == wire.MAX_FILES or self.size > self._limit:
            raise wire.ImageWireError(f"{name} is offered twice, or the image is over {self._limit} bytes")
        self._names.add(name)
        self._named.append((name, origin, size))
        self._tables.append(bytearray())

    def add(self, length: int, entry: bytes) -> str:
        """Add the next chunk to its file, whose origin is returned. Raises ImageWireError if it does not fit."""
        while self._current < len(self._named) and self._filled == self._named[self._current][2]:
            self._current += 1
            self._filled = 0
        if self._current == len(self._named):
            raise wire.ImageWireError("more is offered than the files hold")
        self._filled += length
        self.offered += length
        left = self._named[self._current][2] - self._filled
        if not 0 < length <= WINDOW or left < 0 or (left and length % PAGE):
            raise wire.ImageWireError(f"a chunk of {length} bytes is offered where it does not fit")
        self._tables[self._current] += entry
        return self._named[self._current][1]

    @property
    def full(self) -> bool:
        """Whether every file has all its bytes."""
        left = any(size for _, _, size in self._named[self._current + 1 :])
        return not left and (self._current >= len(self._named) or self._filled == self._named[self._current][2])

    def files(self) -> tuple[ImageFile, ...]:
        """List the files with their tables of chunks."""
        rows = zip(self._named, self._tables, strict=True)
        return tuple(ImageFile(name, origin, size, bytes(table)) for (name, origin, size), table in rows)


class Receiver:
    """Takes in one image for a Transaction. Give each payload of the sender to `receive` and send back its answers.

    complete   the sender has ended, and all that it offered is durable
    head       the sender's own bytes, once complete
    received   bytes of payload so far

    `limit`: bytes of the image at most. Everything raises ImageWireError for what the sender may not say, and
    StoreError as the Transaction does. After either, start again with a new Receiver: what is stored stays.
    """

    def __init__(self, transaction: Transaction, limit: int = DEFAULT_LIMIT) -> None:
        self.complete = False
        self.head = b""
        self.received = 0
        self._transaction = transaction
        self._files = _OfferedFiles(limit)
        self._offers = 0
        self._batches: dict[int, _Batch] = {}
        self._pending: set[bytes] = set()  # chunks that were asked for and have not come
        self._digest = HASH()  # of all that was offered
        self._comparing = _Comparing()

    def receive(self, payload: bytes | memoryview) -> list[bytes]:
        """Take one payload, which must stay as it is, and return the payloads to send back."""
        wire.check_size(payload)
        self.received += len(payload)
        kind = bytes(payload[:1])
        if self.complete:
            raise wire.ImageWireError("the sender goes on after the end")
        if kind == wire.DATA:
            self._receive_data(payload)
            return []
        payload = bytes(payload)
        if kind == wire.FILES and not self._offers:
            self._receive_files(payload)
            return []
        if kind == wire.OFFER:
            return self._receive_offer(*wire.parse_batch(payload))
        if kind == wire.PAGES:
            return self._receive_pages(*wire.parse_batch(payload))
        if kind == wire.END:
            return self._receive_end(payload)
        raise wire.ImageWireError(f"the sender sent a message {kind!r} out of turn")

    def _receive_files(self, payload: bytes) -> None:
        for name, origin, size in wire.parse_files(payload):
            self._files.name(name, origin, size)

    def _receive_offer(self, number: int, body: bytes) -> list[bytes]:
        if number != self._offers or len(self._batches) >= wire.MAX_BATCHES:
            raise wire.ImageWireError("an offer is out of turn")
        self._offers += 1
        self._digest.update(body)
        batch = _Batch(wire.parse_entries(body))
        answers = bytearray()
        for index, (key, length, digest) in enumerate(batch.entries):
            origin = self._files.add(length, body[index * ENTRY.size : (index + 1) * ENTRY.size])
            if digest == ZERO or digest in self._pending or self._transaction.has(digest):
                answers.append(wire.HAVE)
                continue
            self._pending.add(digest)
            base = self._transaction.base(origin, key)
            if base is not None and self._comparing.pays():
                batch.compared.append((index, base))
                answers.append(wire.COMPARE)
            else:
                batch.asked[index] = _Asked(digest, length, wire.full_mask(length))
                answers.append(wire.SEND)
        if batch.compared or batch.asked:
            self._batches[number] = batch
        return [wire.batch_message(wire.ANSWER, number, bytes(answers))]

    def _receive_pages(self, number: int, body: bytes) -> list[bytes]:
        batch = self._batches.get(number)
        if batch is None or not batch.compared:
            raise wire.ImageWireError("hashes of pages came that were not asked for")
        pages = sum(wire.pages_of(batch.entries[index][1]) for index, _ in batch.compared)
        if len(body) != pages * wire.PAGE_HASH:
            raise wire.ImageWireError("a list of page hashes has not the length asked for")
        known = self._transaction.base_pages([base for _, base in batch.compared])
        masks = []
        at = 0
        for (index, base), theirs in zip(batch.compared, known, strict=True):
            _, length, digest = batch.entries[index]
            count = wire.pages_of(length)
            ours = [body[at + i * wire.PAGE_HASH : at + (i + 1) * wire.PAGE_HASH] for i in range(count)]
            at += count * wire.PAGE_HASH
            asked = _compare(digest, length, base, ours, theirs)
            self._comparing.saved(1 - asked.mask.bit_count() / count)
            batch.asked[index] = asked
            masks.append(asked.mask)
        batch.compared = []
        return [wire.batch_message(wire.MASKS, number, wire.pack_masks(masks))]

    def _receive_data(self, payload: bytes | memoryview) -> None:
        number, items, at = wire.parse_data(payload)
        batch = self._batches.get(number)
        if batch is None:
            raise wire.ImageWireError("chunks came that were not asked for")
        whole: list[tuple[bytes, bytes | memoryview]] = []
        view = memoryview(payload)
        patches: list[Patch] = []
        for index, mask in items:
            asked = batch.asked.pop(index, None)
            if asked is None or asked.mask != mask:
                raise wire.ImageWireError("a chunk came that was not asked for")
            size = wire.masked_size(asked.length, mask)
            data = view[at : at + size]
            at += size
            if len(data) != size:
                raise wire.ImageWireError("a chunk is cut short")
            if asked.base is None:
                whole.append((asked.hash, data))
            else:
                patches.append(Patch(asked.hash, asked.length, asked.base, asked.pages, asked.zeros, bytes(data)))
            self._pending.discard(asked.hash)
        if at != len(payload):
            raise wire.ImageWireError("a message of data is too long")
        if not batch.asked and not batch.compared:
            del self._batches[number]
        if whole:
            self._transaction.put(whole)
        if patches:
            self._transaction.put_patches(patches)

    def _receive_end(self, payload: bytes) -> list[bytes]:
        digest, head = wire.parse_digest(payload)
        if self._batches or not self._files.full:
            raise wire.ImageWireError("the sender ended before all was sent")
        if digest != self._digest.digest():
            raise wire.ImageWireError("what was offered is not what arrived")
        self._transaction.finish()
        self.head = head
        self.complete = True
        return [wire.STORED]

    @property
    def size(self) -> int:
        """Bytes of the image, as far as its files have been named."""
        return self._files.size

    @property
    def offered(self) -> int:
        """Bytes of the image that were offered so far."""
        return self._files.offered

    def files(self) -> tuple[ImageFile, ...]:
        """List the image's files, for its Manifest; once complete."""
        return self._files.files()


def committed(digest: str) -> bytes:
    """Make the payload that tells the sender that the image with this manifest digest is durable."""
    return wire.digest_message(wire.COMMITTED, bytes.fromhex(digest))


_ZERO_PAGE = page_hashes(bytes(PAGE))[0]


def _compare(digest: bytes, length: int, base: bytes, ours: list[bytes], theirs: list[bytes]) -> _Asked:
    """Say what to ask for of a chunk with page hashes `ours`, `theirs` being the base's (none: it cannot be read)."""
    if not theirs:
        return _Asked(digest, length, wire.full_mask(length))
    place = {page: number for number, page in reversed(list(enumerate(theirs)))}
    pages: list[int | None] = []
    mask = zeros = 0
    for number, page in enumerate(ours):
        # The same place first: a page that moved within the window is found too.
        same = number < len(theirs) and theirs[number] == page
        pages.append(number if same else place.get(page))
        if pages[-1] is None and page == _ZERO_PAGE and wire.page_size(length, number) == PAGE:
            zeros |= 1 << number
        elif pages[-1] is None:
            mask |= 1 << number
    return _Asked(digest, length, mask, base, tuple(pages), zeros)
