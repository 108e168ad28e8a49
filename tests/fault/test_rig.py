"""Cuts at any byte, of a job that does mixed work: what came of it is as without (rig.py)."""

from __future__ import annotations

import json
import os
import pwd
import sys
from pathlib import Path

import pytest

from checkpoint.submit import obtain_criu
from tests.desk_root import give_criu
from tests.fault.cut_ssh import plan
from tests.fault.rig import Rig, differences

REXEC = str(Path(sys.executable).with_name("rexec"))


def test_a_seed_makes_the_same_faults() -> None:
    assert [list(plan(7, number)) for number in range(9)] == [list(plan(7, number)) for number in range(9)]
    assert list(plan(7, 2)) != list(plan(8, 2))
    assert all(list(plan(7, number))[-1].stall == 0 for number in range(100))


@pytest.mark.long(lambda cuts: cuts > 8)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("cuts", [8, 150])
def test_a_job_whose_link_is_cut_at_any_byte_does_what_an_undisturbed_one_does(tmp_path: Path, cuts: int) -> None:
    rig = Rig(tmp_path, REXEC, seed=cuts, cuts=cuts)
    cut, rounds = rig.disturbed(seconds=500)
    assert rig.counted()[1] == 0, cut.err
    assert (cut.status, differences(cut, rig.undisturbed(rounds))) == (0, []), cut.err


@pytest.mark.long(lambda **_: True)
@pytest.mark.timeout(600)
def test_and_so_does_one_of_which_images_are_made_all_the_time(
    tmp_path: Path, kept: obtain_criu.Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STATE", "DATA", "CONFIG"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    give_criu(kept, tmp_path / "data", pwd.getpwuid(os.geteuid()).pw_name)
    rig = Rig(tmp_path, REXEC, seed=30, cuts=30, every="3s")
    cut, rounds = rig.disturbed(seconds=500)
    assert rig.counted()[1] == 0, cut.err
    assert (cut.status, differences(cut, rig.undisturbed(rounds))) == (0, []), cut.err
    jobs = tmp_path / "state/rexec/jobs"
    last = json.loads((jobs / (jobs / "last").read_text().strip().lstrip("0") / "job.json").read_text())
    assert (last["generation"], last["phase"]) == (1, "ended")
    assert not list(jobs.glob("*/agent-*"))


@pytest.mark.long(lambda fault: fault not in ("host 2000", "host 20000", "home 100", "home 500"))
@pytest.mark.parametrize(
    "fault",
    [f"host {after}" for after in (1, 2000, 4000, 5300, 6000, 6300, 8000, 12000, 20000, 40000, 100000, 300000)]
    + [f"home {after}" for after in (1, 30, 70, 100, 200, 300, 400, 500, 600, 700, 1000, 1400, 1700, 2000)],
)
def test_a_start_that_is_cut_goes_on(tmp_path: Path, fault: str) -> None:
    """The job has not said a word, and may not have begun; the host may not have been heard of, nor of the job.

    Home says some 2,800 bytes in all. What begins it goes to the host in one piece of some 5,500, and the host's answer
    to that is its first word: who is cut before it connects again.
    """
    rig = Rig(tmp_path, REXEC, seed=1, cuts=1)
    rig.reach()
    ended = rig.started(fault, ["sh", "-c", "echo out; exit 3"])
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, b"out\n", b"")
    number, left = rig.counted()
    assert number >= 2 and left == 0  # more where one was not up in time
