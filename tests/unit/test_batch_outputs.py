"""Where the output of a batch's jobs goes: to no file that another job has made a link to, or another batch wrote."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from remoteio.errors import RexecError
from shim.submit.batch import outputs, record
from shim.submit.batch.record import Batch, Directory
from shim.submit.batch.runs import OwnRun
from shim.submit.job import submission
from shim.submit.job.submission import SubmitError, Wanted
from shim.wire.job_spec import JobSpec


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "sim.0.out").symlink_to("precious")
    return tmp_path


def test_a_job_s_output_does_not_follow_a_link(planted: Path) -> None:
    batch = Batch(("true",), 1, (), "local", "local", (), "sim.{}.out", "sim.{}.err", str(planted), (), 0o22, 0.0)
    with pytest.raises(RexecError, match=r"^job 0 cannot be started: .*sim\.0\.out"):
        OwnRun(batch, 0, ["--on", "local"], planted)
    assert (planted / "precious").read_text() == "mine"


def test_nor_does_that_of_one_that_moves(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(planted / "state"))
    spec = JobSpec(
        argv=[b"true"], env=[], cwd=b"/", uid=os.geteuid(), gid=os.getegid(), groups=[], umask=0o22,
        hostname=b"here", limits=[], scratch=[], stdio=[0, 1, 2], tty=[],
    )  # fmt: skip
    outputs = (str(planted / "sim.0.out"), str(planted / "sim.0.err"))
    before = time.time()
    with pytest.raises(SubmitError, match=r"^its output cannot go to .*sim\.0\.out: "):
        submission.create(spec, Wanted(("local",), "none", 0.0, 2, True, batch="b1.0", outputs=outputs))
    assert (planted / "precious").read_text() == "mine"
    assert (planted / "precious").stat().st_mtime <= before
    assert [path.name for path in (planted / "state/rexec/jobs").iterdir()] == ["last"], "no job is left of it"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def _submitted(state: Path, output: str | None = None, *, name: str = "", count: int = 2, **more: Any) -> Directory:
    """Put a batch on record, as `rexec submit` does. Raises RexecError."""
    out, err = outputs.templates(name or "sim", output, None, named=bool(name))
    batch = Batch(("sim",), count, (), "local", "any", (), out, err, str(state), (), 0o22, 0.0)
    directory = record.create(replace(batch, **more))
    try:
        outputs.check(directory, record.every())
    except RexecError:
        shutil.rmtree(directory.path)
        raise
    return directory


def _ends(directory: Directory) -> None:
    batch = directory.batch()
    for job in range(batch.count):
        Path(batch.outputs(job)[0]).write_text("precious")
        directory.add({"job": job, "is": "done", "status": 0})


def test_what_nobody_named_carries_the_number_of_its_batch(state: Path) -> None:
    first, second = (_submitted(state) for _ in range(2))
    assert first.batch().outputs(1) == (f"{state}/sim.b1.1.out", f"{state}/sim.b1.1.err")
    assert second.batch().outputs(1) == (f"{state}/sim.b2.1.out", f"{state}/sim.b2.1.err")
    assert _submitted(state, "{batch}-{}.log").batch().outputs(0)[0] == f"{state}/b3-0.log"


@pytest.mark.parametrize("words", [{"name": "mine"}, {"output": "mine.{}.out"}])
def test_what_was_named_is_not_written_over(state: Path, words: dict[str, str]) -> None:
    first = _submitted(state, **words)
    with pytest.raises(RexecError, match=r"^b1, which has not ended, writes to mine\.\{\}\.(out|err) too"):
        _submitted(state, **words)
    _ends(first)
    with pytest.raises(RexecError, match=r"^mine\.0\.out is there already, and is not written over: remove it, or "):
        _submitted(state, **words)
    (state / "mine.0.out").unlink()
    (state / "mine.1.out").write_text("")  # nothing is lost with it
    assert _submitted(state, **words).name == "b2"


def test_jobs_of_one_batch_do_not_write_over_each_other(state: Path) -> None:
    with pytest.raises(RexecError, match=r"^--output all: all jobs would write to one file: have \{\}"):
        _submitted(state, "all")
    with pytest.raises(RexecError, match=r"^--output and --error are one file, both\.\{\}"):
        _submitted(state, "both.{}", err="both.{}")
    for _ in range(2):
        _submitted(state, "/dev/null", err="/dev/null")
    assert _submitted(state, "one", count=1).batch().outputs(0)[0] == f"{state}/one"


def test_a_dag_that_is_run_again_begins_anew_and_nodes_of_another_are_left_alone(state: Path) -> None:
    def dag(file: str) -> Directory:
        return _submitted(state, "{}.out", err="{}.err", command=("dag", file), dag=f"{file}.rexec", names=("A", "B"))

    _ends(dag("one.dag"))
    dag("one.dag")
    with pytest.raises(RexecError, match=r"^A\.out is of b1 \(one\.dag\): .*, or call the node otherwise$"):
        dag("two.dag")
