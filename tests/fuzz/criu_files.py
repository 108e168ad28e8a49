"""Targets: CRIU's own files and answers, which another host's CRIU may have made, as an execute host reads them."""

from __future__ import annotations

import io
from itertools import islice

from checkpoint.execute import chunker, criu, criu_images, image_sockets, restore
from checkpoint.execute.spool import Spool
from checkpoint.wire import protobuf as codec
from tests.fuzz.target import pieces, target
from tests.spools import spool


@target(codec.ProtobufError)
def protobuf(data: bytes) -> None:
    found = codec.decode(data)
    assert b"".join(whole for _, _, whole in codec.records(data)) == data
    for number in found:
        codec.integer(found, number)
        codec.content(found, number)


@target(criu.CriuError)
def criu_answer(data: bytes) -> None:
    criu.parse_answer(data)


@target(criu.CriuError)
def criu_statistics(data: bytes) -> None:
    criu.parse_stats(data)


@target(criu.CriuError)
def criu_version(data: bytes) -> None:
    criu.parse_version(data.decode("utf-8", "replace"))


@target()
def criu_log(data: bytes) -> None:
    """CRIU's log: whatever it says, there is a sentence about it."""
    assert criu.explain(data.decode("utf-8", "replace"))


@target(chunker.ChunkerError)
def pagemap(data: bytes) -> None:
    with io.BytesIO(data) as file:
        runs = chunker.pagemap(file)
        next(runs)
        for _, length in islice(chunker.by_address(runs), 100):
            assert 0 < length <= 65536


@target(restore.RestartError)
def image_files(data: bytes) -> None:
    """What a restore reads and writes anew: files.img, a TCP stream, remap-fpath.img, timens-0.img; entries each."""
    parts = [*pieces(data), b"", b"", b"", b""]
    names = ("files.img", "tcp-stream-1.img", "remap-fpath.img", "timens-0.img")
    with spool({name: text for name, text in zip(names, parts, strict=False) if text}) as image:
        for step in (
            restore.order_removed, lambda at: restore.loosen_files(at, frozenset({"/a"}), {"/a": "/b"}),
            restore.clocks_shown, _sockets,
        ):  # fmt: skip
            try:
                step(image)
            except restore.RestartError:
                continue


def _sockets(image: Spool) -> None:
    """The sockets of files.img, which are rewritten; whether this machine could have them is another matter."""
    try:
        for raw in criu_images.entries(image.read("files.img"), criu_images.FILES):
            found = image_sockets.parse(raw)
            if found is not None:
                new = image_sockets.parse(image_sockets.rewritten(raw, found.but(port=1)))
                assert new is not None and new.port == 1
    except (criu.CriuError, codec.ProtobufError, FileNotFoundError):
        return
    restore.fit_sockets(image, keep_tcp=True)


TARGETS = (protobuf, criu_answer, criu_statistics, criu_version, criu_log, pagemap, image_files)
