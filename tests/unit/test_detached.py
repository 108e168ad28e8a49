"""A supervisor in the background never dies without a word; and one damaged job hides none of the others."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from shim.cli import jobs, listed, main
from shim.submit.api.job_report import report_of
from shim.submit.job import events
from shim.submit.job.events import Event, EventLog, Kind
from shim.submit.job.record import JobError, Record, create, find
from tests.until import until

# Python runs it at the start of each process that has its directory on PYTHONPATH.
BROKEN = """
import sys
if any("shim.submit.job.detached_main" in word for word in sys.orig_argv):
    from shim.submit.job import detached_main, supervisor
    def broken(*_, **__):
        raise {error}
    {where} = broken
"""
ROOT = Path(__file__).parents[2]
RECORD = Record(
    id=0, command=("true",), cwd="/", created=1.0, hosts=("local",), owner="", every=0.0, keep=2, detached=True,
    tty=False, spec="",
)  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("STATE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    return tmp_path


def submitted(directory: Path, where: str, error: str) -> subprocess.CompletedProcess[str]:
    (directory / "sitecustomize.py").write_text(BROKEN.format(where=where, error=error))
    program = "from shim.cli.program import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, "--checkpoint", "--on", "local", "--detach", "--env", "A=1", "true"],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(directory)},
    )  # fmt: skip


@pytest.mark.parametrize("error", ["ZeroDivisionError('told')", "SystemExit(3)", "MemoryError('told')"])
def test_what_a_supervisor_died_of_is_shown(home: Path, error: str) -> None:
    assert submitted(home, "supervisor.JobSupervisor._run", error).stdout == "1\n"
    job = find("1")
    until(lambda: not job.supervised(), "it has died")
    kind = error.partition("(")[0]
    text = f"an error of rexec's own while supervising job 1: {kind}"
    assert "Traceback (most recent call last)" in (job.path / "errors").read_text()
    assert job.read().reason.startswith(text)
    assert text in CliRunner().invoke(main.load("jobs"), []).output
    assert text in CliRunner().invoke(main.load("log"), ["1"]).output


def test_what_kept_a_supervisor_from_its_work_is_shown(home: Path) -> None:
    done = submitted(home, "detached_main.ReplayedInput", "ZeroDivisionError('told')")
    assert "could not start: " in done.stderr and "ZeroDivisionError" in done.stderr
    assert "ZeroDivisionError" in find("1").read().reason
    assert "Traceback (most recent call last)" in (find("1").path / "errors").read_text()


@pytest.mark.parametrize("damage", ["", "{", "[" * 100_000, "[]", "{}", '{"id": 2}', None])
def test_a_damaged_job_hides_none_of_the_others(home: Path, damage: str | None) -> None:
    for _ in range(3):
        create(RECORD)
    path = find("2").path / "job.json"
    path.write_text(path.read_text().replace('"since": 0.0', '"since": "x"') if damage is None else damage)
    with pytest.raises(JobError, match=r"2/job.json cannot be read: .*; remove "):
        find("2").read()
    done = CliRunner().invoke(main.load("jobs"), [])
    assert done.exit_code == 0
    assert "2/job.json cannot be read" in done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[1::2]] == ["1", "3"]


def test_a_lone_surrogate_breaks_neither_list_nor_log(home: Path) -> None:
    job = create(RECORD)
    record = replace(job.read(), phase="parked", why="the host said \ud800\x1b[2J", command=("a\udcff",))
    assert job.lock()
    row = listed.as_data(report_of(record, True, 2.0, None), 2.0)
    assert "the host said \\ud800\\x1b[2J" in listed.table([row])
    listed.table([row]).encode()
    shown = jobs.line(Event(1.0, Kind.NOTE, host="a\ud800", reason="\x1b]0;x\x07"))
    assert "a\\ud800" in shown and "\\x1b]0;x\\x07" in shown
    shown.encode()
    job.unlock()


def test_the_name_of_a_new_job_is_durable(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def noted(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    job = create(RECORD)
    assert job.path.parent.stat().st_ino in synced


def test_a_log_that_fails_altogether_says_so(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.close()
    with pytest.raises(events.EventLogError, match="Bad file descriptor"):
        log.append(Event(1.0, Kind.NOTE, reason="x"))
