"""Names of versions of files: another for each change, none where a change could go unnoticed; and the key to them."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from remoteio import syscalls
from remoteio.submit.export import version_names
from remoteio.submit.export.version_names import VersionNames
from shim.submit.version_key import version_key
from tests.named_versions import until_named

KEY = b"k" * 32
HOUR = 3600 * 1_000_000_000


class Aged:
    """A file's state, as if its last change were so long ago."""

    def __init__(self, st: os.stat_result, age: int, now: int, uid: int | None = None) -> None:
        self.st_dev, self.st_ino, self.st_size = st.st_dev, st.st_ino, st.st_size
        self.st_uid = os.geteuid() if uid is None else uid
        self.st_mtime_ns, self.st_ctime_ns = now - 2 * HOUR, now - age


@pytest.fixture
def file(disk: Path) -> Path:
    path = disk / "file"
    path.write_bytes(b"x" * 5000)
    return path


def name(path: Path, key: bytes = KEY) -> bytes:
    return until_named(path, VersionNames(key))


def touched(path: Path) -> None:
    os.utime(path)


def written(path: Path) -> None:
    with path.open("r+b") as f:
        f.write(b"y")


def mapped(path: Path) -> None:
    with path.open("r+b") as f, mmap.mmap(f.fileno(), 0) as memory:
        memory[0] = ord("y")


def written_with_its_time(path: Path) -> None:
    st = path.stat()
    written(path)
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))


def replaced(path: Path) -> None:
    new = path.with_name("new")
    new.write_bytes(path.read_bytes())
    new.rename(path)


@pytest.mark.parametrize("change", [touched, written, mapped, written_with_its_time, replaced])
def test_each_change_makes_another(file: Path, change: Callable[[Path], None]) -> None:
    before = name(file)
    assert name(file) == before and len(before) == 32
    change(file)
    assert name(file) != before


def test_it_goes_by_the_key(file: Path) -> None:
    assert name(file) != name(file, b"another")
    with file.open("rb") as f:
        assert VersionNames().of(f.fileno(), Aged(os.fstat(f.fileno()), HOUR, f.fileno())) == b""  # type: ignore[arg-type]


def test_what_was_changed_just_now_has_none_and_of_others_what_was_changed_within_an_hour(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name(file)
    now = 1_800_000_000_000_000_000
    monkeypatch.setattr(version_names.time, "time_ns", lambda: now)
    with file.open("rb") as f:
        st = os.fstat(f.fileno())

        def named(age: int, uid: int | None = None) -> bool:
            return bool(VersionNames(KEY).of(f.fileno(), Aged(st, age, now, uid)))  # type: ignore[arg-type]

        assert [named(age) for age in (-HOUR, 0, 19_999_999, 20_000_000, HOUR)] == [False, False, False, True, True]
        assert [named(age, os.geteuid() + 1) for age in (20_000_000, HOUR - 1, HOUR)] == [False, False, True]


@pytest.mark.parametrize("magic", [0x01021994, 0x794C7630, 0x65735546])
def test_a_filesystem_that_does_not_tell_of_each_change_has_none(
    file: Path, monkeypatch: pytest.MonkeyPatch, magic: int
) -> None:
    """tmpfs has mappings written without a new time; overlayfs may lie on it; FUSE does as it likes."""
    assert name(file)
    monkeypatch.setattr(syscalls, "fstatfs", lambda fd: (magic, 0))
    with file.open("rb") as f:
        assert VersionNames(KEY).of(f.fileno(), os.fstat(f.fileno())) == b""


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "rexec" / "versions.key"


def test_the_key_is_made_once_and_for_the_user_alone(key_file: Path) -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(version_key())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found[0]) == 32 and version_key() == found[0]
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(key_file.parent) == [key_file.name]


@pytest.mark.parametrize("mode, size", [(0o644, 32), (0o600, 31), (0o600, 0)])
def test_a_key_that_is_not_as_it_was_made_is_none(key_file: Path, mode: int, size: int) -> None:
    key_file.parent.mkdir()
    key_file.write_bytes(b"k" * size)
    key_file.chmod(mode)
    assert version_key() == b""


def test_without_a_place_there_is_no_key(key_file: Path) -> None:
    key_file.parent.write_bytes(b"")
    assert version_key() == b""
