"""Both ends of saving an image: right whatever changed, and never wrong whatever the sender says."""

import os
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint.execute.collector import Collector
from checkpoint.execute.sender import Sender
from checkpoint.submit.delivery import deliver
from checkpoint.submit.job_images import StoreError
from checkpoint.submit.receiver import Receiver
from checkpoint.submit.store import Store
from checkpoint.wire.image_wire import ImageWireError
from checkpoint.wire.manifest import PAGE, ZERO
from tests.images import contents, converse, manifest, restore, save, write_process
from tests.spools import spool, spooled

page_number = st.integers(0, 80)
page_bytes = st.integers(0, 5).map(lambda n: bytes([n]) * PAGE)
memory = st.dictionaries(page_number, page_bytes, max_size=60)


@settings(max_examples=25, deadline=None)
@given(st.lists(memory, min_size=1, max_size=6), st.data())
def test_every_image_of_a_job_comes_back_as_it_was(images: list[dict[int, bytes]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        store = Store(root / "store")
        for number, pages in enumerate(images, 1):
            write_process(root / str(number), pages, pages_id=number)
            assert save(store, "job", root / str(number))[0].number == number
            keep = data.draw(st.integers(1, 3))
            store.prune("job", keep)
            assert store.verify("job") == []
            for kept in store.images("job"):
                restore(store, "job", kept.number, root / "again")
                assert contents(root / "again") == contents(root / str(kept.number))
                for path in (root / "again").iterdir():
                    path.unlink()
                (root / "again").rmdir()


def conversation(root: Path) -> tuple[Store, list[bytes]]:
    """A store with one image, and the messages that add a second that differs by pages, chunks and files."""
    store = Store(root / "store")
    pages = {page: os.urandom(PAGE) for page in range(100)}
    write_process(root / "a", pages)
    save(store, "job", root / "a")
    pages.update({page: os.urandom(PAGE) for page in (3, 50, *range(64, 80), 200)})
    write_process(root / "b", pages)
    said = []

    def note(payload: bytes) -> bytes:
        said.append(payload)
        return payload

    with spooled(root / "b") as spool, store.begin("job") as transaction:
        converse(Sender(spool, b"head"), Receiver(transaction), note)
    store.prune("job")
    return store, said


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_cut_doubled_lost_swapped_and_flipped_messages_never_make_a_wrong_image(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        store, said = conversation(root)
        for _ in range(data.draw(st.integers(1, 2))):
            at = data.draw(st.integers(0, len(said) - 1))
            how = data.draw(st.sampled_from(["cut", "double", "lose", "swap", "flip", "insert"]))
            other = data.draw(st.integers(0, len(said) - 1))
            if how == "cut":
                said[at] = said[at][: data.draw(st.integers(0, max(len(said[at]) - 1, 0)))]
            elif how == "double":
                said.insert(at, said[at])
            elif how == "lose" and len(said) > 1:
                del said[at]
            elif how == "swap":
                said[at], said[other] = said[other], said[at]
            elif how == "insert":
                said.insert(at, data.draw(st.binary(max_size=60)))
            elif said[at]:
                flipped = bytearray(said[at])
                flipped[data.draw(st.integers(0, len(flipped) - 1))] ^= 1 << data.draw(st.integers(0, 7))
                said[at] = bytes(flipped)
        try:
            with store.begin("job") as transaction:
                receiver = Receiver(transaction)
                for payload in said:
                    receiver.receive(payload)
                    transaction.check()
                if not receiver.complete:
                    raise ImageWireError("not complete")
                transaction.commit(manifest("job", 2, receiver.files()))
        except (ImageWireError, StoreError) as error:
            assert str(error)
        else:
            restore(store, "job", 2, root / "again")
            names = {file.name: file.size for file in receiver.files()}
            assert {path.name: path.stat().st_size for path in (root / "again").iterdir()} == names
        assert store.verify("job") == []
        restore(store, "job", 1, root / "first")
        assert contents(root / "first") == contents(root / "a")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=100) | st.binary(max_size=100).map(lambda b: b"FOHDEAMSCK"[:1] + b), max_size=4))
def test_garbage_is_a_conversation_error(messages: list[bytes]) -> None:
    with (
        tempfile.TemporaryDirectory() as name, spool() as out, spool() as into,
        Store(Path(name) / "store").begin("job") as transaction, closing(Sender(out)) as sender,
    ):  # fmt: skip
        receiver, collector = Receiver(transaction), Collector(into)
        for end in (receiver.receive, sender.receive, collector.receive):
            for message in messages:
                try:
                    end(message)
                except ImageWireError as error:
                    assert str(error)


def test_what_arrived_before_a_cut_is_not_sent_again(tmp_path: Path) -> None:
    write_process(tmp_path / "a", {page: os.urandom(PAGE) for page in range(2000)})
    store = Store(tmp_path / "store")
    left = [6]

    def cut(payload: bytes) -> bytes:
        left[0] -= payload[:1] == b"D"
        if not left[0]:
            raise ConnectionResetError
        return payload

    with spooled(tmp_path / "a") as spool, pytest.raises(ConnectionResetError), store.begin("job") as transaction:
        converse(Sender(spool), Receiver(transaction), cut)
    assert store.latest("job") is None
    image, sent, _ = save(store, "job", tmp_path / "a")
    assert sent < image.size * 0.8
    restore(store, "job", None, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "a")


def test_a_chunk_that_does_not_match_its_hash_is_refused(tmp_path: Path) -> None:
    write_process(tmp_path / "a", {page: os.urandom(PAGE) for page in range(16)})
    store = Store(tmp_path / "store")

    def spoil(payload: bytes) -> bytes:
        return payload[:-1] + bytes([payload[-1] ^ 1]) if payload[:1] == b"D" else payload

    refused = pytest.raises(StoreError, match="does not match its hash")
    with spooled(tmp_path / "a") as spool, refused, store.begin("job") as transaction:
        converse(Sender(spool), Receiver(transaction), spoil)


def test_an_image_over_the_limit_is_refused(tmp_path: Path) -> None:
    write_process(tmp_path / "a", {page: os.urandom(PAGE) for page in range(16)})
    refused = pytest.raises(ImageWireError, match="over 65536")
    with (
        spooled(tmp_path / "a") as spool, closing(Sender(spool)) as sender,
        Store(tmp_path / "store").begin("job") as transaction, refused,
    ):  # fmt: skip
        converse(sender, Receiver(transaction, limit=65536))


def test_zeros_are_not_sent_and_come_back_as_holes(tmp_path: Path) -> None:
    write_process(tmp_path / "a", dict.fromkeys(range(4096), bytes(PAGE)))
    store = Store(tmp_path / "store")
    image, sent, disk = save(store, "job", tmp_path / "a")
    assert sent < 20_000
    assert disk < 20_000
    assert {digest for _, _, digest in image.files[-1].chunks()} == {ZERO}
    with store.open("job") as opened:
        assert sum(len(b"".join(message)) for message in deliver(opened)) < 20_000
    restore(store, "job", None, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "a")
