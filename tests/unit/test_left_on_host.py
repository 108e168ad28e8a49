"""What a run of a batch has left on its host is ended before the job begins again, whoever supervises it by then."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shim.cli import served
from shim.submit import left_on_host
from shim.submit.batch import left
from shim.submit.batch.left import Left
from shim.submit.batch.record import Batch
from shim.submit.hosts.config import Host
from shim.submit.hosts.dialler import Agent, Dialler
from shim.submit.plain_run import RunResult
from shim.wire.rendezvous import Whereabouts
from tests.until import until

BATCH = Batch(("true",), 9, (), "local", "any", (), "{}.out", "{}.err", "/", ("PATH=/usr/bin:/bin",), 0o22, 0.0)


def dialler(secret: bytes = b"s", ssh: str | None = "alice@a", *, heard: bool = True) -> Dialler:
    where = Whereabouts("/run/x", "vm", "boot", 7, 9) if heard else None
    return cast(Dialler, SimpleNamespace(host=Host("a", ssh), agent=Agent(secret * 32, 2400, where)))


def enders(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Have `script` in place of what ends them; its words are the files in which they are noted."""
    monkeypatch.setattr(left, "own_code", SimpleNamespace(command=lambda name: ["sh", "-c", script, "sh"]))


def rest(of: Left) -> None:
    for each in of._enders:
        each.kill()
        each.wait()


def waits(of: Left, *jobs: int) -> bool:
    of.read()
    return all(job in of for job in jobs)


def test_only_this_user_reads_how_a_host_is_asked(tmp_path: Path) -> None:
    note = left.path(tmp_path, 3)
    said = left_on_host.note(note, dialler())
    assert note.read_bytes() == said and note.stat().st_mode & 0o777 == 0o600
    assert json.loads(said)["secret"] == "73" * 32
    left_on_host.forget(note, said)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_ends_late_does_not_take_away_what_the_next_one_has_noted(tmp_path: Path) -> None:
    note = left.path(tmp_path, 3)
    said, later = left_on_host.note(note, dialler(b"s")), left_on_host.note(note, dialler(b"t"))
    left_on_host.forget(note, said)
    left_on_host.forget(note, b"")
    assert note.read_bytes() == later


@pytest.mark.parametrize(("ssh", "heard"), [(None, True), ("condor:1.0", True), ("alice@a", False)])
def test_nothing_is_noted_of_what_ends_by_itself_or_cannot_be_asked(
    tmp_path: Path, ssh: str | None, heard: bool
) -> None:
    assert left_on_host.note(left.path(tmp_path, 3), dialler(ssh=ssh, heard=heard)) == b""
    assert list(tmp_path.iterdir()) == []


def test_a_job_waits_until_what_it_has_left_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enders(
        monkeypatch, f'cd {tmp_path}; echo "$@" >asked; until [ -e go ]; do sleep 0.05; done; rm "$1"; exec sleep 60'
    )
    of, note, asked = Left(BATCH, tmp_path), left.path(tmp_path, 3), tmp_path / "asked"
    left_on_host.note(note, dialler())
    of.end([2, 3, 5])  # which have left nothing, but for one
    assert waits(of, 3) and 2 not in of and 5 not in of
    until(lambda: asked.exists() and asked.read_text() == f"{note}\n", "that one alone is ended")
    assert waits(of, 3)
    (tmp_path / "go").touch()
    until(lambda: not waits(of, 3), "it may begin again, whatever the others wait for")
    rest(of)


def test_the_next_supervisor_has_ended_what_the_last_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enders(monkeypatch, 'rm "$@"')
    for job in (1, 7):
        left_on_host.note(left.path(tmp_path, job), dialler())
    left.path(tmp_path, 8).write_text("{")  # of another version, perhaps: it could not be asked
    of = Left(BATCH, tmp_path)
    assert 1 in of and 7 in of and 8 not in of
    until(lambda: not waits(of, 1) and not waits(of, 7), "they are ended")
    assert [each.name for each in tmp_path.iterdir()] == ["errors"]
    rest(of)


def test_who_fails_to_end_them_is_started_again_and_waited_for_no_longer_than_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enders(monkeypatch, f"echo >>{tmp_path}/tried; exit 1")
    monkeypatch.setattr(left, "_AGAIN", 0.1)
    left_on_host.note(left.path(tmp_path, 1), dialler())
    of = Left(BATCH, tmp_path)

    def tried() -> int:
        assert waits(of, 1)
        return (tmp_path / "tried").read_text().count("\n") if (tmp_path / "tried").exists() else 0

    until(lambda: tried() >= 2, "it is tried again")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 2400)
    assert waits(of, 1)
    monkeypatch.setattr(time, "monotonic", lambda: now + 2400 + 120)
    assert not waits(of, 1)
    assert not left.path(tmp_path, 1).exists()
    rest(of)


def test_all_are_asked_at_a_time_and_each_is_forgotten_once_it_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {job: left_on_host.note(left.path(tmp_path, job), dialler(bytes((job,)))) for job in (1, 2)}
    asked: list[bytes] = []

    def end(agent: bytes) -> None:
        asked.append(agent)
        until(lambda: len(asked) == 2, "the other is asked too")

    monkeypatch.setattr(left_on_host.orphaned, "end", end)
    monkeypatch.setattr(left_on_host.own_code, "import_only_ours", lambda: None)
    monkeypatch.setattr(sys, "argv", ["rexec", *(str(left.path(tmp_path, job)) for job in (1, 2, 3))])
    left_on_host.main()
    assert sorted(asked) == sorted(said.values())
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_served_begins_again_only_once_that_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shim.submit.batch.serving import Servings

    own = Servings(BATCH, tmp_path)
    runs: list[Any] = [own.run(job, ["--on", "local"]) for job in (1, 2)]
    (serves,) = own._serving
    left_on_host.note(left.path(tmp_path, 1), dialler())
    enders(monkeypatch, f'until [ -e {tmp_path}/go ]; do sleep 0.05; done; rm "$1"')
    serves.process.kill()
    until(lambda: own.read() or all(run.how is not None for run in runs), "they have ended")
    assert 1 in own.left and 2 not in own.left
    assert "once its host has ended" in runs[0].how.why and "once its host" not in runs[1].how.why
    (tmp_path / "go").touch()
    until(lambda: own.read() or 1 not in own.left, "that is ended")
    rest(own.left)


@pytest.mark.parametrize("away", [False, True])
def test_what_was_let_go_of_out_of_reach_stays_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: bool
) -> None:
    plain = SimpleNamespace(run=lambda: RunResult(15, away=away), release=lambda: None)
    monkeypatch.setattr(served, "PlainRun", lambda *arguments: plain)
    job: Any = served._Job(*[cast(Any, None)] * 2, (0, 0), cast(Any, None), dialler(), tmp_path / "agent-3")
    job.greeted(cast(Any, None))
    assert (tmp_path / "agent-3").exists()
    job.run(lingers=False)
    job.never_was()
    assert (tmp_path / "agent-3").exists() == away
