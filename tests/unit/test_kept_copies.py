"""Copies of a job's files that could not be told apart: whole, sparse as they were, or not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from shim.submit.job import file_rollback, kept_copies


def test_copies(tmp_path: Path) -> None:
    path, kept = tmp_path / "log", tmp_path / "kept"
    path.write_bytes(b"one")
    first = kept_copies.keep(os.fspath(path), kept, "job7-image3")
    assert first == kept / "log.job7-image3" and first.read_bytes() == b"one"
    assert kept_copies.keep(os.fspath(path), kept, "job7-image3") == first, "the same again, after a failure"
    times = os.stat(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert kept_copies.keep(os.fspath(path), kept, "job7-image3").name == "log.job7-image3.2"
    assert first.read_bytes() == b"one"
    with pytest.raises(kept_copies.KeepError, match="cannot be read to keep a copy of it: No such file"):
        kept_copies.keep(os.fspath(tmp_path / "none"), kept, "job7-image3")


def test_a_copy_has_the_files_holes(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 30)
        for at in (0, 1 << 29, (1 << 29) + 5000):
            file.seek(at)
            file.write(b"data")
    for start in (0, 100, 1 << 29, (1 << 30) - 5):
        copy = kept_copies.keep(os.fspath(path), tmp_path / "kept", f"from-{start}", start)
        st = copy.stat()
        assert st.st_size == (1 << 30) - start and st.st_blocks * 512 < 1 << 20
        with copy.open("rb") as now:
            now.seek(max((1 << 29) - start, 0))
            if start <= 1 << 29:
                assert now.read(5004) == b"data" + bytes(4996) + b"data"


def test_half_a_copy_is_not_there_under_the_name_of_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, kept = tmp_path / "log", tmp_path / "kept"
    path.write_bytes(b"one")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(kept_copies.KeepError, match="No space left on device; make room there"):
            kept_copies.keep(os.fspath(path), kept, "job7-image3")
    assert os.listdir(kept) == []
    (kept / "copy.part").write_bytes(b"of one that was killed")
    assert kept_copies.keep(os.fspath(path), kept, "job7-image3").read_bytes() == b"one"
    assert os.listdir(kept) == ["log.job7-image3"]


def test_a_file_that_cannot_be_read_has_its_own_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    path.touch(0o200)
    refused = PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    monkeypatch.setattr(os, "open", Mock(side_effect=refused))
    with pytest.raises(kept_copies.KeepError, match=r"cannot be read .*\(Operation not permitted\): `chmod u\+r` it$"):
        kept_copies.keep(os.fspath(path), tmp_path / "kept", "job7-image3")


def test_a_symbolic_link_is_no_file_to_copy(tmp_path: Path) -> None:
    (tmp_path / "real").touch()
    (tmp_path / "link").symlink_to("real")
    assert file_rollback.is_file(os.fspath(tmp_path / "real"))
    assert not file_rollback.is_file(os.fspath(tmp_path / "link"))
    assert not file_rollback.is_file(os.fspath(tmp_path / "none"))
