"""Directories of CRIU-like image files, and whole saves and restores without a link, for the store's tests."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from checkpoint.execute.collector import Collector
from checkpoint.execute.sender import Sender
from checkpoint.submit.delivery import deliver
from checkpoint.submit.receiver import Receiver
from checkpoint.submit.store import Store
from checkpoint.submit.transaction import Transaction
from checkpoint.wire.manifest import PAGE, ImageFile, Manifest, Streams
from checkpoint.wire.protobuf import encode
from tests.spools import spool, spooled, unspool


def pagemap_bytes(pages_id: int, runs: list[tuple[int, int, int]]) -> bytes:
    """A pagemap as CRIU 4.1 writes it: entries of (address, pages, flags)."""
    messages = [encode([(1, pages_id)])]
    messages += [encode([(1, address), (2, pages), (4, flags)]) for address, pages, flags in runs]
    return struct.pack("<II", 0x54564319, 0x56084025) + b"".join(struct.pack("<I", len(m)) + m for m in messages)


def write_process(directory: Path, pages: dict[int, bytes], pid: int = 7, pages_id: int = 1) -> None:
    """The image of a process whose memory is `pages`: page number → its bytes."""
    directory.mkdir(exist_ok=True)
    runs: list[tuple[int, int, int]] = []
    for page in sorted(pages):
        if runs and runs[-1][0] + runs[-1][1] * PAGE == page * PAGE:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1, 4)
        else:
            runs.append((page * PAGE, 1, 4))
    (directory / f"pagemap-{pid}.img").write_bytes(pagemap_bytes(pages_id, runs))
    (directory / f"pages-{pages_id}.img").write_bytes(b"".join(pages[page] for page in sorted(pages)))
    (directory / "inventory.img").write_bytes(b"inventory" * 7)
    (directory / "empty.img").write_bytes(b"")


def manifest(
    job: str, number: int, files: tuple[ImageFile, ...] = (), generation: int = 1, streams: Streams | None = None
) -> Manifest:
    return Manifest(
        job=job,
        number=number,
        generation=generation,
        time_ns=1,
        host="alpha",
        argv=("true",),
        cwd="/",
        env=(),
        uid=0,
        gid=0,
        tty=False,
        streams=streams or Streams(),
        files=files,
        facts={},
        stats={},
    )


def converse(sender: Sender, receiver: Receiver, carry: Callable[[bytes], bytes] = lambda payload: payload) -> int:
    """Lets both ends talk until the store has all; bytes carried, both ways."""
    total = 0
    while not sender.stored:
        message = sender.next_message()
        assert message is not None, "both ends wait for each other"
        payload = b"".join(message)
        total += len(payload)
        for answer in receiver.receive(carry(payload)):
            total += len(answer)
            sender.receive(answer)
    return total


def transfer(transaction: Transaction, directory: Path) -> tuple[tuple[ImageFile, ...], int]:
    """Sends the image files in `directory`; the image's files and the bytes that it took."""
    with spooled(directory) as out, closing(Sender(out)) as sender:
        receiver = Receiver(transaction)
        return (receiver, converse(sender, receiver))[0].files(), sender.sent


def save(store: Store, job: str, directory: Path, generation: int = 1) -> tuple[Manifest, int, int]:
    """Saves the image files in `directory`: the manifest, bytes over the link, bytes on disk."""
    with store.begin(job) as transaction:
        files, sent = transfer(transaction, directory)
        image = manifest(job, transaction.number, files, generation)
        transaction.commit(image)
        return image, sent, transaction.added + len(image.to_bytes())


def restore(store: Store, job: str, number: int | None, directory: Path) -> None:
    """Writes the files of an image to the new `directory`."""
    directory.mkdir()
    with spool() as into, store.open(job, number) as image:
        collector = Collector(into)
        for message in deliver(image):
            collector.receive(b"".join(message))
        assert collector.complete
        unspool(into, directory)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}
