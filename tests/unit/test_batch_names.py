"""Names of a batch's jobs (b7.3) where one job is asked for; what a batch of the desk's own hosts may ask for."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from remoteio.errors import RexecError
from shim.cli import submit
from shim.cli.jobs import checkpoint_command
from shim.submit.batch import record
from shim.submit.batch.record import Batch
from shim.submit.hosts.config import Host, Hosts


@pytest.fixture
def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Batch:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Batch(("true",), 3, (), "local", "any", (), "{}.out", "{}.err", str(tmp_path), (), 0o22, 0.0, moves=True)


def test_a_job_that_has_begun_is_its_latest_number(batch: Batch) -> None:
    directory = record.create(batch)
    directory.add({"job": 1, "is": "running", "id": 4}, {"job": 0, "is": "running", "id": 5})
    directory.add({"job": 1, "is": "waiting", "id": 4}, {"job": 1, "is": "running", "id": 6})
    assert record.number(f"{directory.name}.1") == "6"


@pytest.mark.parametrize(
    "word, why",
    [
        ("b1", "^b1 is a batch of many jobs: name one of them, such as b1.0$"),
        ("b1.2", "^b1.2 has not begun: see `rexec jobs`$"),
        ("b1.0", "^b1.0 is done: see `rexec log b1.0`$"),
        ("b1.3", "^batch b1 has no job 3: they are 0 to 2$"),
        ("b2.0", "^there is no batch b2"),
    ],
)
def test_others_are_told_why_not(batch: Batch, word: str, why: str) -> None:
    record.create(batch).add({"job": 0, "is": "running", "id": 4}, {"job": 0, "is": "done", "status": 0})
    with pytest.raises(RexecError, match=why):
        record.number(word)
    assert isinstance(CliRunner().invoke(checkpoint_command, [word]).exception, RexecError)


def test_one_without_checkpoint_has_its_output(batch: Batch, tmp_path: Path) -> None:
    plain = Batch(("true",), 1, (), "local", "any", (), "{}.out", "{}.err", str(tmp_path), (), 0o22, 0.0)
    record.create(plain)
    with pytest.raises(RexecError, match=f"^b1.0 is without --checkpoint: .* what it says is in {tmp_path}/0.out$"):
        record.number("b1.0")


def test_the_desk_knows_whether_a_host_has_a_gpu_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Batch] = []
    monkeypatch.setattr(submit, "begin", lambda batch, give, priority: made.append(batch))
    monkeypatch.setattr(submit.config, "load", lambda: Hosts((Host("alpha", "alpha"),)))
    runner = CliRunner()
    runner.invoke(submit.submit_command, ["--gpus", "1", "--require", "A || B", "true"], catch_exceptions=False)
    runner.invoke(submit.submit_command, ["--gpus", "1", "true"], catch_exceptions=False)
    runner.invoke(submit.submit_command, ["true"], catch_exceptions=False)
    asked = [dict(zip(each.options[::2], each.options[1::2], strict=True)).get("--require") for each in made]
    assert asked == ["HasGPU && (A || B)", "HasGPU", None]
    for options, why in ((["--gpus", "2"], "--gpus is 1 at most"), (["--time", "5"], "--time is for --engine condor")):
        with pytest.raises(RexecError, match=why):
            runner.invoke(submit.submit_command, [*options, "true"], catch_exceptions=False)
