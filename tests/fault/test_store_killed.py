"""Whoever writes to the store may be killed at any step: the latest image is the old or the new one, whole."""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint.submit.store import Store
from checkpoint.wire.manifest import PAGE
from tests.images import contents, restore, save, write_process

COMMIT_POINTS = [
    ("pack written", 1),
    ("pack synced", 1),
    ("packs durable", 1),
    ("manifest written", 1),
    ("manifest synced", 1),
    ("manifest renamed", 2),
    ("directory synced", 2),
]
PRUNE_POINTS = ["image removed", "pack copied", "pack removed"]


def killed_at(point: str, root: Path, act: Callable[[Store], object]) -> None:
    """Runs `act` in a child that is killed with -9 at `point`."""

    def kill(reached: str) -> None:
        if reached == point:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        try:
            act(Store(root, kill))
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL, f"{point} was not reached"


def whole(store: Store, images: Path, tmp_path: Path) -> None:
    """Every image there is comes back as it was saved, and nothing is damaged."""
    assert store.verify("job") == []
    for kept in store.images("job"):
        again = tmp_path / f"again-{kept.number}-{random.random()}"
        restore(store, "job", kept.number, again)
        assert contents(again) == contents(images / str(kept.number))


@pytest.mark.parametrize(("point", "latest"), COMMIT_POINTS)
def test_killed_while_committing(tmp_path: Path, point: str, latest: int) -> None:
    pages = {page: os.urandom(PAGE) for page in range(600)}
    write_process(tmp_path / "1", pages)
    write_process(tmp_path / "2", {**pages, 5: os.urandom(PAGE), **{p: os.urandom(PAGE) for p in range(700, 800)}})
    store = Store(tmp_path / "store")
    save(store, "job", tmp_path / "1")
    killed_at(point, store.root, lambda doomed: save(doomed, "job", tmp_path / "2"))
    manifest = store.latest("job")
    assert manifest is not None and manifest.number == latest
    whole(store, tmp_path, tmp_path)
    write_process(tmp_path / str(latest + 1), {page: os.urandom(PAGE) for page in range(50)})
    assert save(store, "job", tmp_path / str(latest + 1))[0].number == latest + 1
    whole(store, tmp_path, tmp_path)
    store.prune("job", 1)
    whole(store, tmp_path, tmp_path)
    assert {path.suffix for path in (store.root / "job").iterdir()} <= {".image", ".pack", ".lock"}


def test_what_a_killed_writer_had_stored_is_not_sent_again(tmp_path: Path) -> None:
    write_process(tmp_path / "1", {page: os.urandom(PAGE) for page in range(600)})
    store = Store(tmp_path / "store")
    killed_at("pack written", store.root, lambda doomed: save(doomed, "job", tmp_path / "1"))
    _, sent, _ = save(store, "job", tmp_path / "1")
    assert sent < 10_000
    whole(store, tmp_path, tmp_path)


@pytest.mark.parametrize("point", PRUNE_POINTS)
def test_killed_while_pruning(tmp_path: Path, point: str) -> None:
    store = Store(tmp_path / "store")
    pages = {page: os.urandom(PAGE) for page in range(600)}
    for number in range(1, 6):
        # Image 3 shares a third of its memory with 1 and 2, and nothing with 4 and 5 but the first pages.
        pages.update({page: os.urandom(PAGE) for page in range(200 if number < 4 else 16, 600)})
        write_process(tmp_path / str(number), pages)
        save(store, "job", tmp_path / str(number))
    killed_at(point, store.root, lambda doomed: doomed.prune("job", 2))
    latest = store.latest("job")
    assert latest is not None and latest.number == 5
    whole(store, tmp_path, tmp_path)
    store.prune("job", 2)
    assert [kept.number for kept in store.images("job")] == [4, 5]
    whole(store, tmp_path, tmp_path)
    used = sum(path.stat().st_size for path in (store.root / "job").iterdir())
    assert used < 3 * 600 * PAGE


def test_the_data_is_durable_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of fsync and rename, noted from the real calls."""
    calls = []
    fsync, rename = os.fsync, os.rename

    def note_fsync(fd: int) -> None:
        calls.append("fsync " + Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        fsync(fd)

    def note_rename(source: str, target: str, **directories: int) -> None:
        calls.append(f"rename {target}")
        rename(source, target, **directories)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    write_process(tmp_path / "1", {page: os.urandom(PAGE) for page in range(60)})
    save(Store(tmp_path / "store"), "job", tmp_path / "1")
    assert calls[:2] == [f"fsync {tmp_path.name}", "fsync store"]
    assert calls[2] == "fsync 00000001.part"
    assert calls[3:5] == ["rename 00000001.pack", "fsync job"]
    assert calls[-3:] == ["fsync 00000001.tmp", "rename 00000001.image", "fsync job"]
