"""Where the output of a batch's jobs goes: to no file that another job has made a link to."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from remoteio.errors import RexecError
from shim.submit.batch.record import Batch
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
