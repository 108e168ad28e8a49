"""What a host keeps of files: by versions, in pages that are believed by their sums alone."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remoteio.execute import kept_contents
from remoteio.execute.kept_contents import PAGE, KeptContents, name_of
from shim.execute.agent.cache import encrypting
from tests.until import until

VERSION, OTHER = bytes(range(32)), bytes(32)
DATA = random.Random(1).randbytes(20 * PAGE + 100)  # ends within a page
SIZE = len(DATA)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_contents, "_SETTLED", 60.0)


@pytest.fixture
def store(tmp_path: Path) -> KeptContents:
    return store_in(tmp_path)


def store_in(top: Path) -> KeptContents:
    made = KeptContents()
    made.use(str(top / "kept" / "contents"), encrypting)
    return made


def keep(store: KeptContents, version: bytes = VERSION, data: bytes = DATA) -> None:
    store.keep(version, len(data), 0, data)
    store.settle()
    assert not store._bytes


def file_of(store: KeptContents, version: bytes = VERSION) -> Path:
    return Path(store.path, name_of(version))


def test_what_was_kept_is_read_by_another(store: KeptContents, tmp_path: Path) -> None:
    keep(store)
    other = store_in(tmp_path)
    assert other.read(VERSION, SIZE, 0, SIZE) == DATA
    assert other.read(VERSION, SIZE, 0, 1 << 20) == DATA, "as far as the file goes"
    assert other.read(VERSION, SIZE, 3 * PAGE, PAGE) == DATA[3 * PAGE : 4 * PAGE]
    assert other.read(VERSION, SIZE, 20 * PAGE, PAGE) == DATA[20 * PAGE :]


def test_what_is_not_whole_is_not_read(store: KeptContents) -> None:
    assert store.read(VERSION, SIZE, 0, PAGE) is None, "nothing is kept"
    assert not Path(store.path).exists(), "nor made by who looks"
    store.keep(VERSION, SIZE, 2 * PAGE, DATA[2 * PAGE : 5 * PAGE - 1])
    store.settle()
    assert store.read(VERSION, SIZE, 2 * PAGE, 2 * PAGE) == DATA[2 * PAGE : 4 * PAGE]
    for offset, count in ((0, PAGE), (PAGE, 2 * PAGE), (3 * PAGE, 2 * PAGE), (SIZE, PAGE), (2 * PAGE + 1, PAGE)):
        assert store.read(VERSION, SIZE, offset, count) is None
    assert store.read(OTHER, SIZE, 2 * PAGE, PAGE) is None


def test_it_is_for_the_login_alone(store: KeptContents) -> None:
    keep(store)
    assert Path(store.path).stat().st_mode & 0o777 == 0o700
    assert file_of(store).stat().st_mode & 0o777 == 0o600


def test_who_was_not_told_the_name_can_neither_find_nor_read_it(store: KeptContents) -> None:
    text = b"what nobody else is to read, and " * 4096
    keep(store, VERSION, text)
    on_the_disk = file_of(store).read_bytes()
    assert VERSION.hex()[:16] not in os.listdir(store.path)[0] and VERSION not in on_the_disk
    assert text[:16] not in on_the_disk


def test_where_nothing_encrypts_nothing_is_kept(store: KeptContents) -> None:
    path = store.path
    store.use(path, lambda: None)
    keep(store)
    assert not os.listdir(path)


def open_to_others(path: Path) -> None:
    path.mkdir(parents=True)
    path.chmod(0o755)


def another_place(path: Path) -> None:
    path.parent.mkdir()
    (path.parent / "else").mkdir(mode=0o700)
    path.symlink_to("else")


@pytest.mark.parametrize("prepare", [open_to_others, another_place])
def test_a_directory_that_is_not_its_own_is_not_used(store: KeptContents, prepare: Callable[[Path], None]) -> None:
    prepare(Path(store.path))
    path = Path(store.path)
    keep(store)
    assert not os.listdir(path) and store.read(VERSION, SIZE, 0, PAGE) is None


def overwrite(file: Path) -> None:
    with file.open("r+b") as f:
        f.seek(-SIZE, os.SEEK_END)
        f.write(b"not what was there")


def swap_pages(file: Path) -> None:
    """Two pages change places, their sums with them."""
    data = bytearray(file.read_bytes())
    base = len(data) - SIZE
    for at, size in ((0, kept_contents.SUM), (base, PAGE)):
        data[at : at + size], data[at + size : at + 2 * size] = data[at + size : at + 2 * size], data[at : at + size]
    file.write_bytes(data)


def from_another(file: Path) -> None:
    file.write_bytes(file.with_name(name_of(OTHER)).read_bytes())


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


@pytest.mark.parametrize("harm", [overwrite, swap_pages, from_another, cut])
def test_what_was_tampered_with_is_removed_and_kept_anew(
    store: KeptContents, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    keep(store, OTHER, DATA[::-1])
    keep(store)
    harm(file_of(store))
    reader = store_in(tmp_path)
    assert reader.read(VERSION, SIZE, 0, PAGE) is None
    assert not file_of(store).exists()
    keep(reader)
    assert reader.read(VERSION, SIZE, 0, SIZE) == DATA


def test_a_link_is_not_followed(store: KeptContents, tmp_path: Path) -> None:
    keep(store, OTHER)
    (tmp_path / "else").write_bytes(b"as it was")
    file_of(store).symlink_to(tmp_path / "else")
    keep(store)
    assert (tmp_path / "else").read_bytes() == b"as it was"


@pytest.mark.parametrize("writes", range(3))
def test_who_ends_in_the_middle_leaves_nothing_that_is_believed(tmp_path: Path, writes: int) -> None:
    """A process ends before its file has its size, before the pages, and before their sums."""
    pid = os.fork()
    if not pid:
        try:
            store, left = store_in(tmp_path), [writes]

            def ends(do: Callable[..., object]) -> Callable[..., object]:
                def count(*args: object) -> object:
                    left[0] -= 1
                    return os._exit(0) if left[0] < 0 else do(*args)

                return count

            for name in ("ftruncate", "pwrite"):  # the pages, and then the sums
                setattr(os, name, ends(getattr(os, name)))
            store.keep(VERSION, SIZE, 0, DATA)
            threading.Event().wait(60)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    after = store_in(tmp_path)
    assert file_of(after).exists() and after.read(VERSION, SIZE, 0, SIZE) is None
    keep(after)
    assert store_in(tmp_path).read(VERSION, SIZE, 0, SIZE) == DATA


def test_two_agents_keep_and_remove_at_once(tmp_path: Path) -> None:
    """Whatever each finds is right; and in the end all is there."""
    wrong: list[bytes] = []

    def work(store: KeptContents, seed: int) -> None:
        order = random.Random(seed)
        for _ in range(200):
            at = order.randrange(20) * PAGE
            found = store.read(VERSION, SIZE, at, PAGE)
            if found not in (None, DATA[at : at + PAGE]):
                wrong.append(found or b"")
            store.keep(VERSION, SIZE, at, DATA[at : at + PAGE])
            if not order.randrange(20):
                store._remove(VERSION)

    stores = [store_in(tmp_path) for _ in range(2)]
    threads = [threading.Thread(target=work, args=(store, k)) for k, store in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.settle()
    assert not wrong
    last = store_in(tmp_path)
    keep(last)
    assert store_in(tmp_path).read(VERSION, SIZE, 0, SIZE) == DATA


def test_what_another_removes_is_made_anew(store: KeptContents, tmp_path: Path) -> None:
    keep(store)
    file_of(store).unlink()
    assert store.read(VERSION, SIZE, 0, SIZE) == DATA, "it is open still"
    keep(store)
    assert store_in(tmp_path).read(VERSION, SIZE, 0, SIZE) == DATA


def test_who_looks_for_it_while_another_makes_it_leaves_it_there(store: KeptContents, tmp_path: Path) -> None:
    keep(store, OTHER)
    file_of(store).touch(mode=0o600)
    assert store_in(tmp_path).read(VERSION, SIZE, 0, PAGE) is None
    assert file_of(store).exists()


def test_a_disk_that_is_full_ends_the_keeping_and_nothing_else(
    store: KeptContents, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(store, OTHER)

    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    path = Path(store.path)
    keep(store)
    assert os.listdir(path) == [name_of(OTHER)] and store.read(VERSION, SIZE, 0, PAGE) is None
    keep(store)


def versions(count: int) -> Iterator[bytes]:
    return (bytes([k]) * 32 for k in range(1, count + 1))


def test_what_was_used_longest_ago_goes_beyond_the_limit(
    store: KeptContents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_contents, "MOST", 6 * (SIZE + PAGE))
    monkeypatch.setattr(kept_contents, "_LOOK", 0)
    first, *others = versions(4)
    for version in (first, *others):
        keep(store, version)
        os.utime(file_of(store, version), ns=(version[0], version[0]))
    again = store_in(tmp_path)
    assert again.read(first, SIZE, 0, PAGE) is not None, "now it is the one used last"
    for version in list(versions(8))[4:]:
        keep(again, version)
        os.utime(file_of(store, version), ns=(version[0] << 8, version[0] << 8))
    there = set(os.listdir(store.path))
    assert name_of(first) in there and name_of(others[0]) not in there
    assert sum(f.stat().st_blocks * 512 for f in Path(store.path).iterdir()) <= 7 * (SIZE + PAGE)


def test_no_more_files_than_there_may_be(store: KeptContents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_contents, "MOST_FILES", 5)
    monkeypatch.setattr(kept_contents, "_LOOK", 0)
    for version in versions(12):
        keep(store, version)
    assert len(os.listdir(store.path)) <= 5


def test_what_is_too_large_is_not_kept(store: KeptContents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_contents, "MOST", 2 * SIZE - 1)
    keep(store)
    assert not Path(store.path).exists()


def test_what_waits_is_bounded(store: KeptContents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_contents, "MOST_WAITING", 3 * PAGE)
    held, go = threading.Event(), threading.Event()

    def slow(*args: object) -> None:
        held.set()
        go.wait()

    monkeypatch.setattr(store, "_write", slow)
    for _ in range(10):
        store.keep(VERSION, SIZE, 0, DATA[:PAGE])
    held.wait()
    assert store._bytes == 3 * PAGE
    go.set()
    until(lambda: not store._bytes, "what waits is written")
