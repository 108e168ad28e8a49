"""A job's record: made whole or not at all, and its user's alone."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shim.submit.job import record


def empty_record() -> record.Record:
    return record.Record(
        id=0, command=("x",), cwd="/", created=0, hosts=("alpha",), owner="", every=0, keep=2, detached=True, tty=False,
        spec="",
    )  # fmt: skip


def test_a_job_that_cannot_be_recorded_leaves_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And those that are made for it are its user's alone, whatever the umask."""
    monkeypatch.setenv("XDG_STATE_HOME", os.fspath(tmp_path / "local" / "state"))

    def full(old: object, new: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = os.umask(0)
    try:
        with monkeypatch.context() as disk:
            disk.setattr(os, "rename", full)
            with pytest.raises(record.JobError, match="No space left on device; make room there"):
                record.create(empty_record())
        assert os.listdir(record.home()) == ["last"]
        assert record.create(empty_record()).id == 2
    finally:
        os.umask(before)
    made = ("local", "local/state", "local/state/rexec", "local/state/rexec/jobs", "local/state/rexec/jobs/2")
    assert [oct(os.stat(tmp_path / name).st_mode & 0o777) for name in made] == ["0o700"] * 5


def test_a_number_is_never_given_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one that an older rexec gave, which kept no count, to a job or to images that are left of one."""
    monkeypatch.setenv("XDG_STATE_HOME", os.fspath(tmp_path))
    first, second = record.create(empty_record()), record.create(empty_record())
    second.remove()
    first.remove()
    assert record.create(empty_record()).id == 3
    (tmp_path / "rexec" / "images" / "7").mkdir(parents=True)
    assert record.create(empty_record()).id == 8
    (record.home() / "12").mkdir()
    assert [record.create(empty_record()).id, record.create(empty_record()).id] == [13, 14]
    assert [job.id for job in record.every()] == [3, 8, 12, 13, 14]


def test_those_who_ask_at_once_get_numbers_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", os.fspath(tmp_path))
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: record.create(empty_record()).id, range(20)))
    assert sorted(made) == list(range(1, 21))


def test_a_damaged_count_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", os.fspath(tmp_path))
    assert record.create(empty_record()).id == 1
    (record.home() / "last").write_text("\0" * 20)
    with pytest.raises(record.JobError, match="jobs/last, the number of the newest job, is damaged: remove it"):
        record.create(empty_record())
