"""The execute side's end of restoring: writes CRIU's files as their chunks arrive. Shipped."""

from __future__ import annotations

import errno
import os

from checkpoint.execute.spool import Spool, SpooledFile
from checkpoint.wire import image_wire as wire
from checkpoint.wire.chunks import chunk_hash
from checkpoint.wire.manifest import HASH, WINDOW, ZERO


class Collector:
    """Writes an image's files into the empty spool.

    Every chunk is checked against its hash; chunks of zeros become holes. Once `complete`, send `STORED` back.
    Raises ImageWireError for what the store may not say, OSError for what the disk refuses.
    """

    def __init__(self, spool: Spool) -> None:
        self.complete = False
        self._spool = spool
        self._files: list[tuple[str, str, int]] = []
        self._current = -1
        self._at = 0  # bytes of the current file so far
        self._file = SpooledFile()
        self._buffer = memoryview(bytearray(wire.DATA_SIZE))
        self._waiting = 0  # bytes of the current file that are in it, those before `_at`
        self._digest = HASH()

    def receive(self, payload: bytes | memoryview) -> None:
        """Take one payload of `deliver`."""
        wire.check_size(payload)
        kind = bytes(payload[:1])
        if kind == wire.FILES and self._current < 0:
            self._files += wire.parse_files(bytes(payload))
            self._digest.update(payload)
        elif kind == wire.CHUNKS and not self.complete:
            self._receive_chunks(payload)
        elif kind == wire.END and not self.complete:
            digest, _ = wire.parse_digest(bytes(payload))
            self._advance()
            if self._current != len(self._files) or digest != self._digest.digest():
                raise wire.ImageWireError("the image that arrived is not whole")
            self.complete = True
        else:
            raise wire.ImageWireError(f"the store sent a message {kind!r} out of turn")

    def _advance(self) -> None:
        """Goes to the file that the next chunk belongs to; a file without bytes is made on the way."""
        while self._current < len(self._files) and (self._current < 0 or self._at == self._files[self._current][2]):
            self._write()
            self._current += 1
            self._at = 0
            if self._current < len(self._files):
                name, _, size = self._files[self._current]
                if name in self._spool.files:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
                self._file = self._spool.make(name)
                self._file.resize(size)

    def _write(self) -> None:
        """Write what waits: as much at once as there is, or encrypting each chunk costs more than its bytes."""
        self._spool.put(self._file, self._buffer[: self._waiting], self._at - self._waiting)
        self._waiting = 0

    def _receive_chunks(self, payload: bytes | memoryview) -> None:
        lines, at = wire.parse_chunks(payload)
        with memoryview(payload) as view:
            for length, digest in lines:
                self._advance()
                if self._current == len(self._files) or not 0 < length <= WINDOW:
                    raise wire.ImageWireError("more chunks came than the files hold")
                if self._at + length > self._files[self._current][2]:
                    raise wire.ImageWireError("a chunk came that does not fit its file")
                self._digest.update(wire.held(length, digest))
                if digest != ZERO:
                    if at + length > len(payload) or chunk_hash(view[at : at + length]) != digest:
                        raise wire.ImageWireError("a chunk came that does not match its hash")
                    if self._waiting + length > len(self._buffer):
                        self._write()
                    self._buffer[self._waiting : self._waiting + length] = view[at : at + length]
                    self._waiting += length
                    at += length
                else:
                    self._write()
                self._at += length
        self._write()
        if at != len(payload):
            raise wire.ImageWireError("a message of chunks is too long")
