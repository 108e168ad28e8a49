"""A job's record: made whole or not at all, and its user's alone."""

from __future__ import annotations

import errno
import os
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
        assert os.listdir(record.home()) == []
        assert record.create(empty_record()).id == 1
    finally:
        os.umask(before)
    made = ("local", "local/state", "local/state/rexec", "local/state/rexec/jobs", "local/state/rexec/jobs/1")
    assert [oct(os.stat(tmp_path / name).st_mode & 0o777) for name in made] == ["0o700"] * 5
