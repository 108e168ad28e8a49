"""The execute side's end of saving an image: offers hashes, sends what the store lacks. Shipped. No I/O on the link."""

from __future__ import annotations

from collections import deque

from checkpoint.execute.chunker import ChunkerError, Known, Source, cuts, hashed, sources
from checkpoint.execute.spool import Spool
from checkpoint.wire import image_wire as wire
from checkpoint.wire.chunks import page_hashes
from checkpoint.wire.manifest import ENTRY, HASH, PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator


class _Batch:
    """An offer under way.

    places     of each chunk (source, offset, length)
    answered   whether the store has said what it needs of them
    compared   the chunks whose page hashes it was sent, until it says which pages it needs
    left       chunks asked for and not yet sent
    """

    __slots__ = ("answered", "compared", "left", "places")

    def __init__(self, places: list[tuple[int, int, int]]) -> None:
        self.places = places
        self.compared: list[int] | None = None
        self.answered = False
        self.left = 0


class _Files:
    """The image's files, read at any place."""

    def __init__(self, spool: Spool, known: dict[str, Known] | None) -> None:
        self.sources = sources(spool, known)
        self._spool = spool

    def read(self, place: tuple[int, int, int]) -> bytes | memoryview:
        """Read the bytes at a place (source, offset, length). Raises OSError, ChunkerError."""
        number, offset, length = place
        known = self.sources[number].known
        if known is not None and offset < 0:
            return known.read(~offset, length)
        name = self.sources[number].name
        data = memoryview(bytearray(length))
        if self._spool.fill(self._spool.file(name), data, offset) != length:
            raise ChunkerError(f"{name} was cut short while it was being saved")
        return data


class _Offers:
    """All chunks of the files, hashed by two threads ahead of what is asked for, a batch at a time."""

    def __init__(self, spool: Spool, files: list[Source], threads: int) -> None:
        self.all_made = False
        self.count = 0  # offers made
        self.digest = HASH()  # of all that was offered
        self.rows: dict[int, bytearray] = {  # by source, of those that are cut by address
            number: bytearray() for number, source in enumerate(files) if source.pagemap is not None
        }
        self._chunks = _hash_all(spool, files, threads)

    def make(self) -> tuple[int, bytes, list[tuple[int, int, int]]] | None:
        """Make the next offer: its number, its entries and the places of its chunks; None: there is none left."""
        body = bytearray()
        places = []
        for number, offset, key, length, digest in self._chunks:
            row = ENTRY.pack(key, length, digest)
            body += row
            if number in self.rows:
                self.rows[number] += row
            places.append((number, offset, length))
            if len(places) == wire.BATCH:
                break
        else:
            self.all_made = True
        if not places:
            return None
        self.digest.update(body)
        self.count += 1
        return self.count - 1, bytes(body), places

    def close(self) -> None:
        """End the threads."""
        self._chunks.close()


def _hash_all(spool: Spool, files: list[Source], threads: int) -> Generator[tuple[int, int, int, int, bytes]]:
    """Yield (source, offset, key, length, hash) of each chunk, in order; of one that is not in the file ~key for the
    offset."""
    for number, source in enumerate(files):
        known = {} if source.known is None else source.known.chunks
        parts = cuts(spool, source)
        inside = ((key, length) for key, length in parts if key not in known) if known else parts
        chunks = hashed(spool, spool.file(source.name), inside, threads)
        try:
            offset = 0
            for key, length, digest in _merged(cuts(spool, source), known, chunks) if known else chunks:
                there = key not in known
                yield number, offset if there else ~key, key, length, digest
                offset += length if there else 0
        finally:
            chunks.close()


def _merged(
    parts: Iterator[tuple[int, int]], known: dict[int, tuple[int, bytes]], chunks: Iterator[tuple[int, int, bytes]]
) -> Iterator[tuple[int, int, bytes]]:
    """All chunks of `parts`: those known by their hashes, and the others, hashed, as they come."""
    for key, length in parts:
        if key not in known:
            yield next(chunks)
            continue
        before, digest = known[key]
        if before != length:
            raise ChunkerError("a part of the memory that has not changed is not as long as it was")
        yield key, length, digest


class Sender:
    """Offers the image's files in the spool, which must not change meanwhile.

    Carry each payload of `next_message` to the store's Receiver and give its payloads to `receive`. The hashes are
    computed in between, by two threads. Memory is bounded (some MiB), whatever the image's size.

    stored      the store has all that was offered
    again       the store lacks some of it after all: another Sender has to offer it anew
    ended       it was said that all was offered: from then on the store may commit it, whatever is heard of it
    committed   the manifest's hash, once the image is durable
    sent        bytes of payload so far

    Threads: all methods are called by one thread; those that hash see the image files only.
    """

    def __init__(
        self, spool: Spool, head: bytes = b"", threads: int = 2, known: dict[str, Known] | None = None
    ) -> None:  # fmt: skip
        """`head`: bytes for the store's caller, at most 1 MiB; `known`: as for chunker.sources.

        Raises OSError, ChunkerError, ManifestError.
        """
        self.stored = False
        self.again = False
        self.ended = False
        self.committed: bytes | None = None
        self.sent = 0
        self._head = head
        self._files = _Files(spool, known)
        named = [(source.name, source.origin, source.size) for source in self._files.sources]
        self._ready: deque[bytes] = deque(wire.files_messages(named))
        self._offers = _Offers(spool, self._files.sources, threads)
        self._batches: dict[int, _Batch] = {}
        self._wanted: deque[tuple[int, int, int]] = deque()  # (batch, index, mask)

    def next_message(self) -> list[bytes | memoryview] | None:
        """Make the next payload for the store, in parts; None: wait for its next payload, or be done.

        Raises OSError or ChunkerError if an image file cannot be read.
        """
        message = self._next()
        if message is not None:
            self.sent += sum(map(len, message))
        return message

    def _next(self) -> list[bytes | memoryview] | None:
        if self._ready:
            return [self._ready.popleft()]
        unanswered = sum(not batch.answered for batch in self._batches.values())
        # Two offers ahead of the data: the answers' round trip is hidden behind what is being sent.
        if not self._offers.all_made and (unanswered < 2 or not self._wanted) and len(self._batches) < wire.MAX_BATCHES:
            offer = self._offers.make()
            if offer is not None:
                number, entries, places = offer
                self._batches[number] = _Batch(places)
                return [wire.batch_message(wire.OFFER, number, entries)]
        if self._wanted:
            return self._data()
        if self._offers.all_made and not self._batches and not self.ended:
            self.ended = True
            self.close()
            return [wire.digest_message(wire.END, self._offers.digest.digest(), self._head)]
        return None

    def _data(self) -> list[bytes | memoryview]:
        number = self._wanted[0][0]
        batch = self._batches[number]
        items: list[tuple[int, int]] = []
        spans: list[tuple[int, int, int] | bytes] = []
        size = 0
        while self._wanted and self._wanted[0][0] == number:
            _, index, mask = self._wanted[0]
            part = wire.masked_size(batch.places[index][2], mask)
            if items and size + part > wire.DATA_SIZE:
                break
            self._wanted.popleft()
            items.append((index, mask))
            if batch.places[index][1] < 0:
                spans.append(_pages(self._files.read(batch.places[index]), mask))
            else:
                _add_spans(spans, batch.places[index], mask)
            size += part
        batch.left -= len(items)
        self._drop_if_done(number)
        parts = (span if isinstance(span, bytes) else self._files.read(span) for span in spans)
        return [wire.data_head(number, items), *parts]

    def _drop_if_done(self, number: int) -> None:
        batch = self._batches[number]
        if batch.answered and batch.compared is None and not batch.left:
            del self._batches[number]

    def receive(self, payload: bytes) -> None:
        """Take one payload of the store. Raises ImageWireError if the store may not say that now."""
        wire.check_size(payload)
        kind = payload[:1]
        if kind == wire.ANSWER:
            self._receive_answer(*wire.parse_batch(payload))
        elif kind == wire.MASKS:
            self._receive_masks(*wire.parse_batch(payload))
        elif kind == wire.STORED and self.ended and len(payload) == 1 and not self.stored:
            self.stored = True
        elif kind == wire.AGAIN and self.stored and len(payload) == 1 and not self.again:
            self.again = True
        elif kind == wire.COMMITTED and self.stored and self.committed is None:
            self.committed, _ = wire.parse_digest(payload)
        else:
            raise wire.ImageWireError(f"the store sent a message {kind!r} out of turn")

    def _receive_answer(self, number: int, answers: bytes) -> None:
        batch = self._batches.get(number)
        if batch is None or batch.answered or len(answers) != len(batch.places) or max(answers) > wire.COMPARE:
            raise wire.ImageWireError("the store answered what was not offered")
        batch.answered = True
        compared = []
        hashes = []
        for index, answer in enumerate(answers):
            place = batch.places[index]
            if answer == wire.SEND:
                self._wanted.append((number, index, wire.full_mask(place[2])))
                batch.left += 1
            elif answer == wire.COMPARE:
                compared.append(index)
                hashes += page_hashes(self._files.read(place))
        if compared:
            batch.compared = compared
            self._ready.append(wire.batch_message(wire.PAGES, number, b"".join(hashes)))
        self._drop_if_done(number)

    def _receive_masks(self, number: int, body: bytes) -> None:
        batch = self._batches.get(number)
        masks = wire.parse_masks(body)
        if batch is None or batch.compared is None or len(masks) != len(batch.compared):
            raise wire.ImageWireError("the store compared what was not offered")
        for index, mask in zip(batch.compared, masks):
            if mask & ~wire.full_mask(batch.places[index][2]):
                raise wire.ImageWireError("the store asked for pages beyond a chunk's end")
            self._wanted.append((number, index, mask))
            batch.left += 1
        batch.compared = None

    def tables(self) -> dict[str, bytes]:
        """Return the tables of the page images that were offered, by the names of their pagemaps."""
        files = self._files.sources
        return {str(files[number].pagemap): bytes(rows) for number, rows in self._offers.rows.items()}

    def close(self) -> None:
        """End the threads; the conversation cannot go on with data."""
        self._offers.close()


def _pages(data: bytes | memoryview, mask: int) -> bytes:
    """Those pages of a chunk that are in `mask`."""
    return b"".join(
        data[page * PAGE : (page + 1) * PAGE] for page in range(wire.pages_of(len(data))) if mask >> page & 1
    )


def _add_spans(spans: list[tuple[int, int, int] | bytes], place: tuple[int, int, int], mask: int) -> None:
    """Adds the pages in `mask` of the chunk at `place` to what is to be read, joined where they touch."""
    number, offset, length = place
    if mask == wire.full_mask(length):
        parts = [(0, length)]
    else:
        pages = [page for page in range(wire.pages_of(length)) if mask >> page & 1]
        parts = [(page * PAGE, wire.page_size(length, page)) for page in pages]
    for start, size in parts:
        at = offset + start
        last = spans[-1] if spans else b""
        if not isinstance(last, bytes) and last[0] == number and last[1] + last[2] == at:
            spans[-1] = (number, last[1], last[2] + size)
        else:
            spans.append((number, at, size))
