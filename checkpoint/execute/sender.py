"""The execute side's end of saving an image: offers hashes, sends what the store lacks. Shipped. No I/O on the link."""

from __future__ import annotations

import mmap
import os
from collections import deque

from checkpoint.execute.chunker import ChunkerError, cuts, hashed, sources
from checkpoint.wire import image_wire as wire
from checkpoint.wire.chunks import page_hashes
from checkpoint.wire.manifest import ENTRY, HASH, PAGE, WINDOW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator


class _Batch:
    """An offer under way: where each chunk lies, and what is asked of it."""

    __slots__ = ("answered", "compared", "left", "places")

    def __init__(self, places: list[tuple[int, int, int]]) -> None:
        self.places = places  # (source, offset, length)
        self.compared: list[int] | None = None
        self.answered = False
        self.left = 0  # chunks asked for and not yet sent


class Sender:
    """Offers the image files in the directory open as `directory`, which must not change meanwhile.

    Carry each payload of `next_message` to the store's Receiver and give its payloads to `receive`. The hashes are
    computed in between, by two threads. Memory is bounded (some MiB), whatever the image's size.
    """

    def __init__(self, directory: int, head: bytes = b"", threads: int = 2) -> None:
        """`head`: bytes for the store's caller, at most 1 MiB. Raises OSError, ManifestError."""
        self.stored = False  # the store has all that was offered
        self.again = False  # the store lacks some of it after all: another Sender has to offer it anew
        self.committed: bytes | None = None  # the manifest's hash, once the image is durable
        self.sent = 0  # bytes of payload so far
        self._directory = directory
        self._head = head
        self._threads = threads
        self._sources = sources(directory)
        self._ready: deque[bytes] = deque(wire.files_messages([(s.name, s.origin, s.size) for s in self._sources]))
        self._entries = self._hash_all()
        self._digest = HASH()
        self._batches: dict[int, _Batch] = {}
        self._wanted: deque[tuple[int, int, int]] = deque()  # (batch, index, mask)
        self._next_batch = 0
        self._offered_all = False
        self._ended = False
        self._open: tuple[int, int] | None = None  # the source read last and its descriptor

    def _hash_all(self) -> Generator[tuple[int, int, int, int, bytes]]:
        for number, source in enumerate(self._sources):
            fd = os.open(source.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._directory)
            chunks = hashed(fd, cuts(self._directory, source), self._threads)
            try:
                offset = 0
                for key, length, digest in chunks:
                    yield number, offset, key, length, digest
                    offset += length
            finally:
                chunks.close()
                os.close(fd)

    def next_message(self) -> list[bytes | memoryview] | None:
        """The parts of the next payload for the store, or None: then wait for its next payload, or be done.

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
        if not self._offered_all and (unanswered < 2 or not self._wanted) and len(self._batches) < wire.MAX_BATCHES:
            offer = self._offer()
            if offer is not None:
                return [offer]
        if self._wanted:
            return self._data()
        if self._offered_all and not self._batches and not self._ended:
            self._ended = True
            self.close()
            return [wire.digest_message(wire.END, self._digest.digest(), self._head)]
        return None

    def _offer(self) -> bytes | None:
        body = bytearray()
        places = []
        for number, offset, key, length, digest in self._entries:
            body += ENTRY.pack(key, length, digest)
            places.append((number, offset, length))
            if len(places) == wire.BATCH:
                break
        else:
            self._offered_all = True
        if not places:
            return None
        self._digest.update(body)
        batch = self._next_batch
        self._next_batch += 1
        self._batches[batch] = _Batch(places)
        return wire.batch_message(wire.OFFER, batch, bytes(body))

    def _data(self) -> list[bytes | memoryview]:
        number = self._wanted[0][0]
        batch = self._batches[number]
        items: list[tuple[int, int]] = []
        spans: list[tuple[int, int, int]] = []
        size = 0
        while self._wanted and self._wanted[0][0] == number:
            _, index, mask = self._wanted[0]
            part = wire.masked_size(batch.places[index][2], mask)
            if items and size + part > wire.DATA_SIZE:
                break
            self._wanted.popleft()
            items.append((index, mask))
            _add_spans(spans, batch.places[index], mask)
            size += part
        batch.left -= len(items)
        self._drop_if_done(number)
        return [wire.data_head(number, items), *(self._view(span) for span in spans)]

    def _drop_if_done(self, number: int) -> None:
        batch = self._batches[number]
        if batch.answered and batch.compared is None and not batch.left:
            del self._batches[number]

    def _source(self, number: int) -> int:
        if self._open is None or self._open[0] != number:
            self._close_source()
            name = self._sources[number].name
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
            self._open = (number, os.open(name, flags, dir_fd=self._directory))
        return self._open[1]

    def _cut_short(self, number: int) -> ChunkerError:
        return ChunkerError(f"{self._sources[number].name} was cut short while it was being saved")

    def _read(self, place: tuple[int, int, int]) -> bytes:
        number, offset, length = place
        data = os.pread(self._source(number), length, offset)
        if len(data) != length:
            raise self._cut_short(number)
        return data

    def _view(self, place: tuple[int, int, int]) -> bytes | memoryview:
        """The same; what is large is not copied on its way to the link."""
        number, offset, length = place
        if length < WINDOW:
            return self._read(place)
        fd = self._source(number)
        if os.fstat(fd).st_size < offset + length:
            raise self._cut_short(number)
        over = offset % mmap.ALLOCATIONGRANULARITY
        return memoryview(mmap.mmap(fd, over + length, prot=mmap.PROT_READ, offset=offset - over))[over:]

    def receive(self, payload: bytes) -> None:
        """Takes one payload of the store. Raises ImageWireError if the store may not say that now."""
        wire.check_size(payload)
        kind = payload[:1]
        if kind == wire.ANSWER:
            self._receive_answer(*wire.parse_batch(payload))
        elif kind == wire.MASKS:
            self._receive_masks(*wire.parse_batch(payload))
        elif kind == wire.STORED and self._ended and len(payload) == 1 and not self.stored:
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
                hashes += page_hashes(self._read(place))
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

    def _close_source(self) -> None:
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    def close(self) -> None:
        """Ends the threads and closes the files; the conversation cannot go on with data."""
        self._entries.close()
        self._close_source()


def _add_spans(spans: list[tuple[int, int, int]], place: tuple[int, int, int], mask: int) -> None:
    """Adds the pages in `mask` of the chunk at `place` to what is to be read, joined where they touch."""
    number, offset, length = place
    if mask == wire.full_mask(length):
        parts = [(0, length)]
    else:
        pages = [page for page in range(wire.pages_of(length)) if mask >> page & 1]
        parts = [(page * PAGE, wire.page_size(length, page)) for page in pages]
    for start, size in parts:
        at = offset + start
        if spans and spans[-1][0] == number and spans[-1][1] + spans[-1][2] == at:
            spans[-1] = (number, spans[-1][1], spans[-1][2] + size)
        else:
            spans.append((number, at, size))
