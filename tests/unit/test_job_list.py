"""`rexec jobs` reads the record of a job that has ended once, and says what stands there now all the same."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from shim.cli.listed import jobs_command
from shim.submit.api import job_list
from shim.submit.api.job_report import JobReport
from shim.submit.batch import record as batches
from shim.submit.batch.record import Batch
from shim.submit.job.record import Job, JobError, Record, create, find, home

RECORD = Record(
    id=0, command=("sh", "-c", "exit 3", "a\udcff"), cwd="/", created=1.0, hosts=("alpha", "beta"), owner="",
    every=0.0, keep=2, detached=True, tty=False, spec="", phase="ended", status=0x300, ran=4.5, host="beta",
    image=2, saved=7.0, saved_size=4096, obstacle="a socket is open",
)  # fmt: skip
NOW = 1_000_000.0


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The numbers of the jobs whose records were read since it was last cleared."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(job_list, "_FEW", 1)
    found, before = [], Job.read_file

    def read_file(job: Job) -> tuple[Record, os.stat_result]:
        found.append(job.id)
        return before(job)

    monkeypatch.setattr(Job, "read_file", read_file)
    yield found


def made(count: int, **values: object) -> list[Job]:
    """So many jobs that ended a while ago."""
    return [ended(create(RECORD), **values) for _ in range(count)]


def ended(job: Job, at: float = NOW, **values: object) -> Job:
    """The job, with another record, written then."""
    job.write(replace(RECORD, id=job.id, **values))  # type: ignore[arg-type]
    os.utime(job.path / "job.json", (at, at))
    return job


def listed(since: float = 0.0) -> list[JobReport | JobError]:
    return list(job_list.reports(since))


def states(since: float = 0.0) -> list[str]:
    return [each.state for each in listed(since) if isinstance(each, JobReport)]


def test_what_has_ended_is_read_once(read: list[int]) -> None:
    made(3)
    first = listed()
    assert read == [1, 2, 3]
    read.clear()
    assert listed() == first == listed() and read == []
    assert [each.state for each in first if isinstance(each, JobReport)] == ["exit 3"] * 3


def test_another_record_is_read_again(read: list[int]) -> None:
    made(3)
    listed()
    ended(find("2"), status=0, reason="")
    read.clear()
    assert states() == ["exit 3", "done", "exit 3"] and read == [2]
    find("2").write(replace(RECORD, id=2, phase="running"))  # it was restarted, and its supervisor died
    read.clear()
    assert states() == states() == ["exit 3", "stopped", "exit 3"] and read == [2, 2]
    shutil.rmtree(find("1").path)
    assert states() == ["stopped", "exit 3"]
    assert sorted(job_list._kept()) == ["3"]


def test_one_of_a_batch_that_is_held_is_held_and_not_stopped(tmp_path: Path, read: list[int]) -> None:
    batch = Batch(("sim",), 2, (), "condor", "any", (), "{}.out", "{}.err", str(tmp_path), (), 0o22, 0.0, moves=True)
    directory = batches.create(batch)
    directory.add({"job": 0, "is": "held"}, {"job": 1, "is": "waiting", "place": "2.1"})
    for name in ("b1.0", "b1.1", ""):
        create(replace(RECORD, phase="parked", held=True, status=None, batch=name))
    assert states() == ["held", "held", "stopped"]
    said = json.loads(CliRunner().invoke(jobs_command, ["--json"]).stdout)
    assert [(each["state"], each["why"]) for each in said if "id" in each] == [
        ("held", "it is held: `rexec release b1.0` lets it go on"),
        ("parked", "it waits for another place"),
        ("stopped", "`rexec resume 3` has it go on where it is, or from its last image"),
    ]


def test_what_has_just_ended_is_read_again(read: list[int]) -> None:
    """Its file could be replaced by one of the same number and times, where a clock of files is coarse."""
    create(RECORD)
    assert states() == states() == ["exit 3"]
    assert read == [1, 1]


def test_what_ended_before_is_left_out(read: list[int]) -> None:
    made(2)
    ended(find("1"), at=NOW - 60)
    for _ in range(2):  # read, and kept
        assert len(listed(NOW - 30)) == 1 and len(listed(NOW - 60)) == 2 and not listed(NOW + 1)
    assert read == [1, 2]


def test_a_few_are_not_worth_keeping_anew(read: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_list, "_FEW", 3)
    made(2)
    listed()
    assert not (home() / "ended").exists()
    made(1)
    listed()
    read.clear()
    assert len(listed()) == 3 and not read


@pytest.mark.parametrize("damage", [b"", b"{", b"[[], 0]\n{}", None, "cut", "flipped"])
def test_what_is_kept_may_be_of_no_use(read: list[int], damage: bytes | str | None) -> None:
    made(3)
    first = listed()
    kept = (home() / "ended").read_bytes()
    if damage is None:
        damage = kept.replace(b'"why"', b'"what"', 1)  # of another version
    elif isinstance(damage, str):
        damage = kept[:-9] if damage == "cut" else kept[:-9] + bytes([kept[-9] ^ 1]) + kept[-8:]
    (home() / "ended").write_bytes(damage)
    read.clear()
    assert listed() == first and read == [1, 2, 3]
    assert (home() / "ended").read_bytes() == kept


def test_one_that_cannot_be_read_is_told_each_time(read: list[int]) -> None:
    made(3)
    (find("2").path / "job.json").write_text("{")
    for _ in range(2):
        one, two, three = listed()
        assert isinstance(one, JobReport) and isinstance(two, JobError) and isinstance(three, JobReport)


def test_two_that_look_at_once_do_not_write_into_one_file(read: list[int]) -> None:
    made(3)
    listed()
    made(1)
    kept = (home() / "ended").read_bytes()
    with open(home() / "ended.new", "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(b"half of")
        other.flush()
        assert len(listed()) == 4 and (home() / "ended").read_bytes() == kept
        assert (home() / "ended.new").read_bytes() == b"half of"
    assert len(listed()) == 4 and sorted(job_list._kept()) == ["1", "2", "3", "4"]  # of one that died, nothing is left
    assert not (home() / "ended.new").exists()


def test_where_nothing_can_be_written_all_are_listed(read: list[int]) -> None:
    made(2)
    (home() / "ended.new").mkdir()
    assert len(listed()) == len(listed()) == 2


def test_who_lists_beside_who_writes_is_told_what_is_there(read: list[int]) -> None:
    """Each look, while others look and keep what they find, tells at least what stood there when it began."""
    made(20)

    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            listed()

    others = [threading.Thread(target=look) for _ in range(2)]
    for other in others:
        other.start()
    try:
        for status in range(4, 60):
            ended(find(str(status % 20 + 1)), at=NOW + status, status=status << 8)
            assert f"exit {status}" in states()
    finally:
        over.set()
        for other in others:
            other.join()


def test_nothing_is_imported_but_what_reads_records() -> None:
    heavy = ("shim.submit.job.supervisor", "shim.submit.host_session", "checkpoint.submit.store", "urllib.request")
    code = f"import sys, shim.cli.listed; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
