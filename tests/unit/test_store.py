"""The store: few bytes for few changes, every flipped bit found, nothing removed that is needed."""

import errno
import os
import random
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint.submit.job_images import StoreBusy, StoreError
from checkpoint.submit.store import Store
from checkpoint.wire.manifest import PAGE
from tests.images import contents, manifest, restore, save, transfer, write_process

Memory = dict[int, bytes]


def fresh(count: int) -> Memory:
    return {page: os.urandom(PAGE) for page in range(count)}


def changed(pages: Memory, numbers: list[int]) -> Memory:
    return {**pages, **{page: os.urandom(PAGE) for page in numbers}}


@pytest.mark.parametrize("how", ["scattered", "clustered"])
def test_one_percent_changed_costs_at_most_three_percent(tmp_path: Path, how: str) -> None:
    pages = fresh(16384)
    write_process(tmp_path / "a", pages)
    where = random.Random(3).sample(range(16384), 163) if how == "scattered" else list(range(5000, 5163))
    write_process(tmp_path / "b", changed(pages, where))
    store = Store(tmp_path / "store")
    size = save(store, "job", tmp_path / "a")[0].size
    _, sent, disk = save(store, "job", tmp_path / "b")
    assert sent <= 0.015 * size
    assert disk <= 0.015 * size
    restore(store, "job", 2, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "b")


def test_memory_that_changes_altogether_is_soon_sent_without_comparing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for name in "ab":
        write_process(tmp_path / name, fresh(16384))
        size, sent = save(store, "job", tmp_path / name)[0].size, save(store, name, tmp_path / name)[1]
    assert sent < 1.01 * size
    restore(store, "job", 2, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "b")


def test_many_images_of_slowly_changing_memory_stay_small_on_disk(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    pages = fresh(2048)
    for number in range(30):
        pages = changed(pages, random.Random(number).sample(range(2048), 100))
        directory = tmp_path / str(number)
        write_process(directory, pages)
        save(store, "job", directory)
        store.prune("job", 2)
    assert [kept.number for kept in store.images("job")] == [29, 30]
    assert store.verify("job") == []
    used = sum(path.stat().st_size for path in (tmp_path / "store" / "job").iterdir())
    # At worst each pack is half garbage, and each window has pages in four records beside its own.
    assert used < 5 * 2048 * PAGE
    restore(store, "job", None, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "29")


def test_verify_finds_every_flipped_bit(tmp_path: Path) -> None:
    pages = {page: bytes([page]) * 100 + os.urandom(60) + bytes(PAGE - 160) for page in range(40)}
    write_process(tmp_path / "a", {**pages, 40: os.urandom(PAGE)})
    write_process(tmp_path / "b", changed(pages, [3]))
    store = Store(tmp_path / "store")
    save(store, "job", tmp_path / "a")
    save(store, "job", tmp_path / "b")
    assert store.verify("job") == []
    chosen = random.Random(5)
    for path in sorted((tmp_path / "store" / "job").iterdir()):
        whole = path.read_bytes()
        for _ in range(40 if whole else 0):
            spoilt = bytearray(whole)
            spoilt[chosen.randrange(len(whole))] ^= 1 << chosen.randrange(8)
            path.write_bytes(spoilt)
            assert store.verify("job") != [], path
        for cut in (0, len(whole) // 2, len(whole) - 1) if whole else ():
            path.write_bytes(whole[:cut])
            assert store.verify("job") != [], (path, cut)
        path.write_bytes(whole)
    assert store.verify("job") == []


def half_random(count: int) -> Memory:
    return {page: os.urandom(PAGE // 2) + bytes([page % 251 + 1]) * (PAGE // 2) for page in range(count)}


@pytest.mark.parametrize("make", [fresh, half_random], ids=["raw", "compressed"])
def test_a_damaged_chunk_is_said_and_mended_by_the_next_image(tmp_path: Path, make: Callable[[int], Memory]) -> None:
    write_process(tmp_path / "a", make(64))
    store = Store(tmp_path / "store")
    save(store, "job", tmp_path / "a")
    pack = tmp_path / "store" / "job" / "00000001.pack"
    spoilt = bytearray(pack.read_bytes())
    spoilt[100_000] ^= 1
    pack.write_bytes(spoilt)
    with pytest.raises(StoreError, match=r"image 1 of job job cannot be used, because pages-1\.img is damaged"):
        restore(store, "job", 1, tmp_path / "again")
    with store.open("job") as image:
        assert list(image.damaged().values()) == ["pages-1.img"]
    with store.begin("job") as transaction:
        files, _ = transfer(transaction, tmp_path / "a")
        bad = transaction.damaged(files)
        assert len(bad) == 1
        transaction.forget(bad)
        files, sent = transfer(transaction, tmp_path / "a")
        assert transaction.damaged(files) == []
        transaction.commit(manifest("job", 2, files))
    assert sent < 80_000
    for number in (1, 2):
        restore(store, "job", number, tmp_path / f"again-{number}")
        assert contents(tmp_path / f"again-{number}") == contents(tmp_path / "a")


def test_a_damaged_manifest_is_no_base_and_stops_a_prune(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    write_process(tmp_path / "a", fresh(64))
    save(store, "job", tmp_path / "a")
    path = tmp_path / "store" / "job" / "00000001.image"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match="restart from another image"):
        store.latest("job")
    save(store, "job", tmp_path / "a")
    with pytest.raises(StoreError, match="image 1 of job job cannot be used"):
        store.prune("job", 2)
    assert [kept.damage is None for kept in store.images("job")] == [False, True]
    store.rm("job", 1)
    assert store.verify("job") == []


def test_a_second_writer_is_refused_but_readers_are_not(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    write_process(tmp_path / "a", fresh(64))
    save(store, "job", tmp_path / "a")
    with store.begin("job"):
        for write in (lambda: save(store, "job", tmp_path / "a"), lambda: store.prune("job"), lambda: store.rm("job")):
            with pytest.raises(StoreBusy, match="are being written by another rexec"):
                write()
        restore(store, "job", None, tmp_path / "again")
        assert store.verify("job") == []


def test_an_image_can_be_read_while_it_is_removed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    write_process(tmp_path / "a", fresh(64))
    save(store, "job", tmp_path / "a")
    with store.open("job") as image:
        store.rm("job")
        assert b"".join(image.read_file("pages-1.img")) == (tmp_path / "a" / "pages-1.img").read_bytes()
    assert store.jobs() == []
    assert store.latest("job") is None


def test_only_the_user_may_read_an_image(tmp_path: Path) -> None:
    os.umask(0o022)
    store = Store(tmp_path / "state" / "rexec")
    write_process(tmp_path / "a", fresh(16))
    save(store, "job", tmp_path / "a")
    for path in (tmp_path / "state", tmp_path / "state" / "rexec", tmp_path / "state" / "rexec" / "job"):
        assert path.stat().st_mode & 0o777 == 0o700
    for path in (tmp_path / "state" / "rexec" / "job").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


def test_an_older_generation_cannot_commit(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    write_process(tmp_path / "a", fresh(16))
    save(store, "job", tmp_path / "a", generation=2)
    with pytest.raises(StoreError, match="generation 1 of the job is over: generation 2 runs now"):
        save(store, "job", tmp_path / "a", generation=1)
    assert [kept.number for kept in store.images("job")] == [1]


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "x" * 200, "\udc80"])
def test_a_job_cannot_be_named_like_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="is not a plain file name"):
        Store(tmp_path).begin(name)


def test_a_job_or_image_that_is_not_there_is_said(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for ask in (store.images, store.verify, store.open, store.prune, store.rm):
        with pytest.raises(StoreError, match="job other has no image"):
            ask("other")
    write_process(tmp_path / "a", fresh(16))
    save(store, "job", tmp_path / "a")
    for number in (2, 9):
        with pytest.raises(StoreError, match=f"job job has no image {number}"):
            store.open("job", number)


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs")
def test_the_image_that_a_job_went_on_from_is_kept_whatever_its_host_makes(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for k in range(4):
        write_process(tmp_path / str(k), fresh(4))
        save(store, "job", tmp_path / str(k))
        store.prune("job", 2, besides=1)
    assert [each.number for each in store.images("job")] == [1, 3, 4]
    restore(store, "job", 1, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(tmp_path / "0")


@pytest.mark.parametrize("spare", [0, 1 << 20, 1200 << 10])
def test_a_full_disk_leaves_the_previous_image_the_latest(tmp_path: Path, small_disk: Path, spare: int) -> None:
    store = Store(small_disk / "store")
    write_process(tmp_path / "a", fresh(256))
    save(store, "job", tmp_path / "a")
    (small_disk / "ballast").write_bytes(bytes((2 << 20) - 65536 - spare))
    before = sorted(os.listdir(small_disk / "store" / "job"))
    write_process(tmp_path / "b", fresh(400))
    with pytest.raises(StoreError, match="was not saved, because there is no space left") as caught:
        save(store, "job", tmp_path / "b")
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert sorted(os.listdir(small_disk / "store" / "job")) == before
    latest = store.latest("job")
    assert latest is not None and latest.number == 1
    assert store.verify("job") == []
    (small_disk / "ballast").unlink()
    save(store, "job", tmp_path / "b")
    restore(store, "job", 2, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "b")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs")
def test_a_disk_without_room_for_the_first_file_is_named(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    # one inode each for the disk's root, the store and the job's directory, and none for its lock
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,nr_inodes=3", "none", disk], check=True)
    try:
        with pytest.raises(StoreError, match="was not saved, because there is no space left"):
            Store(disk / "store").begin("job").__enter__()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_memory_that_is_again_as_it_was_before_a_prune(tmp_path: Path) -> None:
    """A patch that no image needs any more may lie on beside what is needed, when what it refers to has gone."""
    store = Store(tmp_path / "store")
    first = fresh(64)
    second = {**changed(first, [3]), **{page: os.urandom(PAGE) for page in range(1000, 1064)}}
    third = {**second, **fresh(64)}
    fourth = {**third, **{page: second[page] for page in range(16)}}
    for number, pages in enumerate((first, second, third, fourth), 1):
        directory = tmp_path / str(number)
        write_process(directory, pages)
        save(store, "job", directory)
        store.prune("job", 1)
        assert store.verify("job") == []
    restore(store, "job", 4, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "4")


def test_a_writer_waits_for_another_as_long_as_it_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    write_process(tmp_path / "a", fresh(64))
    save(store, "job", tmp_path / "a")
    done = threading.Event()

    def remove() -> None:
        Store(tmp_path / "store", patience=10).rm("job", 1)
        done.set()

    with store.begin("job"):
        thread = threading.Thread(target=remove)
        thread.start()
        with pytest.raises(StoreBusy):
            Store(tmp_path / "store", patience=0.1).rm("job", 1)
        assert not done.is_set()
    thread.join(60)
    assert done.is_set()
