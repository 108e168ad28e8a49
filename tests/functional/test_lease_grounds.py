"""What is leased is true whatever lies below: one contract, on each kind of ground that inotify sees all of, or not.

On the first all is leased, and each change is a break before anything else is told, by whatever way it is made. On the
second nothing is leased.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remoteio.execute import mount
from remoteio.submit.export import filesystems
from remoteio.submit.export import leases as at_home
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.wire import fuse_abi as abi
from remoteio.wire import leases as wire
from remoteio.wire.frames import LEASED, FrameReader
from shim.execute.init import namespaces
from tests.forked import in_a_fork
from tests.mounted import mounted

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounts as root")
FILE, NEW = b"file", b"new"
# makes what is served, and that by which others change it
Ground = Callable[[Path], contextlib.AbstractContextManager[tuple[Path, Path]]]


@contextlib.contextmanager
def plain(top: Path) -> Iterator[tuple[Path, Path]]:
    yield top, top


@contextlib.contextmanager
def tmpfs(top: Path) -> Iterator[tuple[Path, Path]]:
    mount.mount("x", str(top), "tmpfs")
    yield top, top


@contextlib.contextmanager
def bound(top: Path) -> Iterator[tuple[Path, Path]]:
    """A directory, and another mount of it by which it is changed."""
    for name in ("one", "other"):
        (top / name).mkdir()
    mount.bind(str(top / "one"), str(top / "other"))
    yield top / "one", top / "other"


@contextlib.contextmanager
def overlay(top: Path) -> Iterator[tuple[Path, Path]]:
    for name in ("lower", "upper", "work", "merged"):
        (top / name).mkdir()
    options = f"lowerdir={top}/lower,upperdir={top}/upper,workdir={top}/work"
    mount.mount("x", str(top / "merged"), "overlay", 0, options)
    yield top / "merged", top / "merged"


@contextlib.contextmanager
def fuse(top: Path) -> Iterator[tuple[Path, Path]]:
    """One that others change without this kernel's seeing it."""
    for name in ("below", "served"):
        (top / name).mkdir()
    with mounted(top / "below", top / "served"):
        yield top / "served", top / "below"


class Told:
    """An export of a ground, and what it has leased of a file that is there and a name that is not."""

    def __init__(self, top: Path) -> None:
        self.export = Export(ShownIds(os.geteuid(), os.getegid(), frozenset()), str(top))
        self.begun = self.export.leases.begin()

    def ask(self, op: int, node: int, args: bytes) -> tuple[int, bytes]:
        answer = self.export.answer(abi.Request(abi.request(op, node, args, 1)))
        assert answer is not None
        split = wire.split(answer[1]) if answer[0] == LEASED else (0, 0, b"", answer[1])
        return split[1], bytes(split[3][abi.OUT_HEADER.size :])

    def lookup(self, node: int, name: bytes) -> tuple[int, int]:
        what, body = self.ask(abi.LOOKUP, node, name + b"\0")
        return what, int(abi.ENTRY.unpack_from(body)[0])

    def all(self) -> tuple[int, int, set[int]]:
        """The nodes of the directory and its file, and all that is leased of both and of the name that is not there."""
        whole, directory = self.lookup(abi.ROOT_ID, b"dir")
        _, node = self.lookup(directory, FILE)
        named, _ = self.lookup(directory, FILE)
        absent, _ = self.lookup(directory, NEW)
        opened, body = self.ask(abi.OPEN, node, abi.OPEN_IN.pack(os.O_RDONLY, 0))
        self.export.answer(
            abi.Request(abi.request(abi.RELEASE, node, abi.RELEASE_IN.pack(abi.OPEN_OUT.unpack_from(body)[0], 0, 0, 0)))
        )
        return directory, node, {whole, named, absent & wire.NAME, opened}

    def broken(self) -> set[tuple[int, bytes]]:
        due = FrameReader().feed(self.export.leases.due())
        return {item for _, payload in due for item in wire.broken(payload)}


def replace(file: Path) -> None:
    (file.parent.parent / "beside").write_bytes(b"other")
    (file.parent.parent / "beside").rename(file)


# what is done to a file, and what of (its directory's names, itself) must be taken back for it
CHANGES: dict[str, tuple[Callable[[Path], object], set[bytes]]] = {
    "written": (lambda file: file.write_bytes(b"longer than before"), {b""}),
    "its mode": (lambda file: file.chmod(0o600), {b""}),
    "another link": (lambda file: (file.parent.parent / "link").hardlink_to(file), {b""}),
    "removed": (lambda file: file.unlink(), {FILE}),
    "replaced": (replace, {FILE}),
    "renamed": (lambda file: file.rename(file.parent / "new"), {FILE, NEW}),
    "made beside": (lambda file: (file.parent / "new").touch(), {NEW}),
    "made a directory beside": (lambda file: (file.parent / "new").mkdir(), {NEW}),
}
ALL = {wire.NAME | wire.ATTR, wire.NAME, wire.ATTR | wire.CONTENTS}


def keeps_to_the_contract(ground: Ground, top: Path, leases: bool) -> None:
    with ground(top) as (served, others):
        for what, (change, takes_back) in CHANGES.items():
            place = what.replace(" ", "-")
            (served / place / "dir").mkdir(parents=True)  # by this way, as it may know for a while what is not there
            (served / place / "dir/file").write_bytes(b"contents")
            told = Told(served / place)
            directory, node, leased = told.all()
            told.broken()
            directory, node, leased = told.all()
            assert {each & ~wire.LISTED & 15 for each in leased} == (ALL if leases else {0}), what
            change(others / place / "dir/file")
            found = told.broken()
            for name in takes_back if leases else ():
                # or all of the directory, or of everything: another test has mounted something meanwhile
                enough = {(directory, name), (directory, b"")} if name else {(node, b"")}
                assert found & {*enough, (wire.EVERYTHING, b"")}, what
            told.export.close()


def elsewhere(ground: Ground, top: Path, leases: bool) -> None:
    def body() -> None:
        namespaces.unshare(namespaces.CLONE_NEWNS)
        mount.make_private()
        keeps_to_the_contract(ground, top, leases)

    in_a_fork(body)


def test_a_directory_of_this_kernel_s(tmp_path: Path) -> None:
    keeps_to_the_contract(plain, tmp_path, leases=True)


@ROOT
@pytest.mark.parametrize("ground", [tmpfs, bound, overlay])
def test_a_mount_of_this_kernel_s(tmp_path: Path, ground: Ground) -> None:
    elsewhere(ground, tmp_path, leases=True)


@ROOT
def test_a_filesystem_that_is_changed_below(tmp_path: Path) -> None:
    elsewhere(fuse, tmp_path, leases=False)


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "9p", "fuse.sshfs", "ceph", "virtiofs"])
def test_a_filesystem_that_others_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(filesystems, "type_of", lambda dev: kind)
    keeps_to_the_contract(plain, tmp_path, leases=False)


@pytest.mark.parametrize("what", ["__init__", "add"])
def test_a_user_who_may_watch_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.EMFILE if what == "__init__" else errno.ENOSPC, "no more")

    monkeypatch.setattr(at_home.ino.Inotify, what, full)
    keeps_to_the_contract(plain, tmp_path, leases=False)
