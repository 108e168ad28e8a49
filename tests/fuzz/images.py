"""Targets: an image on its way and at rest, at both ends: what a host offers, home's answers, packs and manifests."""

from __future__ import annotations

import json
import os
from contextlib import closing
from hashlib import sha256
from pathlib import Path

from checkpoint.execute.chunker import ChunkerError
from checkpoint.execute.collector import Collector
from checkpoint.execute.sender import Sender
from checkpoint.submit import packs
from checkpoint.submit.pack_queue import Patch
from checkpoint.submit.receiver import Receiver
from checkpoint.wire import compat, criu_bundle, elf
from checkpoint.wire import image_wire as wire
from checkpoint.wire.chunks import chunk_hash
from checkpoint.wire.manifest import HASH, Manifest, ManifestError
from remoteio.errors import ProtocolError
from remoteio.submit.export.written_files import OpenFiles
from shim.submit.job import image_manifest
from tests.fuzz.host import SPEC
from tests.fuzz.target import pieces, scratch, target
from tests.spools import spool

_LIMIT = 1 << 30  # bytes of an image
_SEEN = image_manifest.Seen((), OpenFiles([], []), [])


class _Store:
    """A transaction of a store: what it has is told by a hash's first byte. Keeps what it is given."""

    def __init__(self) -> None:
        self.given = 0

    def has(self, digest: bytes) -> bool:
        return digest[0] < 16

    def base(self, origin: str, key: int) -> bytes | None:
        return bytes([key & 0xFF]) * 32 if key & 1 else None

    def base_pages(self, digests: list[bytes]) -> list[list[bytes]]:
        return [[bytes([number]) * 16 for number in range(digest[0] % 17)] for digest in digests]

    def put(self, chunks: list[tuple[bytes, bytes | memoryview]]) -> None:
        self.given += sum(len(data) for _, data in chunks)

    def put_patches(self, patches: list[Patch]) -> None:
        for patch in patches:
            assert len(patch.pages) == wire.pages_of(patch.length)
            self.given += len(patch.new)

    def finish(self) -> None:
        return


@target(wire.ImageWireError, ManifestError, ProtocolError)
def image_offered(data: bytes) -> None:
    """All that a host says of an image, to its manifest. The digest of its end is put right."""
    store, digest = _Store(), HASH()
    receiver = Receiver(store, _LIMIT)
    for message in pieces(data):
        if message[:1] == wire.OFFER:
            digest.update(message[5:])
        elif message[:1] == wire.END:
            message = wire.END + digest.digest() + message[33:]
        for answer in receiver.receive(message):
            wire.check_size(answer)
    assert store.given <= receiver.received
    if receiver.complete:
        run = image_manifest.Run("1", 1, 1, "far", SPEC)
        made = image_manifest.manifest(run, receiver.head, receiver.files(), _SEEN)
        assert Manifest.from_bytes(made.to_bytes()) == made


@target(wire.ImageWireError, OSError)
def image_delivered(data: bytes) -> None:
    """What home says of an image to be restored; the digest of its end is put right."""
    with spool() as into:
        collector, digest = Collector(into), HASH()
        for message in pieces(data):
            if message[:1] == wire.CHUNKS and len(message) > 3:
                count = int.from_bytes(message[1:3], "little")
                digest.update(message[3 : 3 + 36 * count])
            elif message[:1] == wire.END:
                message = wire.END + digest.digest()
            collector.receive(message)


@target(wire.ImageWireError, ChunkerError)
def image_answers(data: bytes) -> None:
    """What home answers to who saves an image. An empty message: the sender's turn."""
    files = {"core-1.img": b"x" * 5000, "pages-1.img": bytes(range(256)) * 300, "empty.img": b""}
    with spool(files) as out, closing(Sender(out, b"head", threads=1)) as sender:
        for message in pieces(data):
            if message:
                sender.receive(message)
            else:
                for part in sender.next_message() or ():
                    assert len(part) <= wire.MAX_MESSAGE


@target(ManifestError)
def manifest(data: bytes) -> None:
    """A manifest behind its hash, which is put right."""
    head, newline, rest = data.partition(b"\n")
    if newline and len(rest) > 65:
        data = head + b"\n" + sha256(rest[65:]).hexdigest().encode() + b"\n" + rest[65:]
    assert Manifest.from_bytes(data).to_bytes() == data


@target(packs.PackError)
def pack_record(data: bytes) -> None:
    """A record of a pack, whose checksum is put right, and all that can be read of it."""
    if len(data) < 56:
        packs.parse_record(data)
        return
    made = packs.Record.make(data[4], int.from_bytes(data[8:12], "little"), data[20:52], data[52:])
    record = packs.parse_record(made.head + data[52:])
    assert len(record.stored()) <= 1 << 20
    if record.is_patch:
        record.patch()


@target(packs.PackError)
def pack_file(data: bytes) -> None:
    """A whole pack: its index, each record, and what a dead writer's is salvaged to. Its index's hash is put right."""
    size = 48
    if len(data) > size:
        start = int.from_bytes(data[-36:-32], "little")
        data = data[:-32] + chunk_hash(data[start:-size] if start < len(data) - size else b"")
    with scratch() as place:
        directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name in ("00000001.pack", "00000002.part"):
                Path(place, name).write_bytes(data)
            packs.salvage(directory, 2)
            reader = packs.PackReader(directory)
            try:
                for number in reader.sizes():
                    reader.check(number)
                for digest in tuple(reader._places)[:20]:
                    try:
                        reader.chunk(digest)
                        reader.page_refs(digest)
                    except packs.PackError:
                        continue
            finally:
                reader.close()
        finally:
            os.close(directory)


@target(elf.ElfError)
def elf_headers(data: bytes) -> None:
    """An ELF file, of the criu that is found on a host."""
    elf.parse(data, "it")


@target(criu_bundle.BundleError)
def bundle(data: bytes) -> None:
    """The archive of criu that home sends."""
    with scratch() as top:
        cache = os.path.join(top, "cache")
        try:
            criu_bundle.unpack(data, criu_bundle.digest(data), cache)
        finally:
            assert os.listdir(top) in ([], ["cache"]), "it wrote outside its directory"


@target(ValueError)
def image_facts(data: bytes) -> None:
    """The facts of the host that made an image, as any JSON object has them."""
    try:
        said = json.loads(data)
    except RecursionError:
        return
    if isinstance(said, dict):
        found = compat.from_plain(said)
        compat.differences(found, found, 1)


TARGETS = (
    image_offered, image_delivered, image_answers, manifest, pack_record, pack_file, elf_headers, bundle, image_facts,
)  # fmt: skip
