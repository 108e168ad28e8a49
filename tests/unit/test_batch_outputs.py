"""Where the output of a batch's jobs goes: to no file that another job has made a link to."""

from __future__ import annotations

from pathlib import Path

import pytest

from remoteio.errors import RexecError
from shim.submit.batch.record import Batch
from shim.submit.batch.runs import Run


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "sim.0.out").symlink_to("precious")
    return tmp_path


def test_a_job_s_output_does_not_follow_a_link(planted: Path) -> None:
    batch = Batch(("true",), 1, (), "local", "local", (), "sim.{}.out", "sim.{}.err", str(planted), (), 0o22, 0.0)
    with pytest.raises(RexecError, match=r"^job 0 cannot be started: .*sim\.0\.out"):
        Run(batch, 0, ["--on", "local"], planted)
    assert (planted / "precious").read_text() == "mine"
