"""A job whose link, supervisor or first process ends under it, and what goes on from its image."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from tests.job_commands import COUNT, LONG, USER, Mover, counted, kill_agent, lines, supervisors
from tests.until import until


@USER
def test_a_lost_host_goes_back_to_the_last_image(mover: Mover) -> None:
    """What the job says again is not said twice, and what it wrote to a file since is cut back."""
    out = mover.dir / "numbers"
    job = mover.submit(
        "sh",
        "-c",
        f"exec 5>>{out}; " + COUNT.replace("echo line $i", "echo line $i; echo line $i >&5"),
    )
    mover.verb("checkpoint", job)
    seen = out.read_text()
    until(lambda: len(out.read_text()) > len(seen) + 40, "it writes on")
    kill_agent(mover)
    until(lambda: mover.job(job)["generation"] >= 2, "another generation")
    assert counted(mover, job) == out.read_text()
    log = mover.verb("log", job, "--condor")
    assert all(f"\n{number} (" in "\n" + log for number in ("000", "001", "003", "022", "024", "005")), log


@USER
def test_restart_after_the_supervisor_died(mover: Mover) -> None:
    job = mover.submit("sh", "-c", COUNT)
    mover.verb("checkpoint", job)
    for pid in supervisors(mover, job):
        os.kill(pid, signal.SIGKILL)
    until(lambda: mover.job(job)["state"] == "stopped", "it is stopped")
    assert "`rexec resume" in str(mover.job(job)["why"])
    status, _, words = mover.verb_fails("vacate", job)
    how = f"`rexec resume {job}` has it go on where it is, or from its last image"
    assert (status, words) == (125, f"rexec: job {job} has no supervisor: {how}\n")
    mover.verb("restart", job)
    counted(mover, job)


@USER
@LONG
def test_all_jobs_whose_supervisor_died_are_resumed_but_for_those_that_are_held(mover: Mover) -> None:
    """As after this machine was switched off."""
    runs, held = (mover.submit("sh", "-c", COUNT) for _ in range(2))
    mover.verb("checkpoint", runs)
    mover.verb("hold", held)
    for job in (runs, held):
        killed(mover, job)
    assert mover.verb("resume").startswith(f"job {runs} goes on ")
    counted(mover, runs)
    assert mover.job(held)["state"] == "stopped"
    assert mover.verb("resume", held) == f"job {held} goes on from image 1\n"
    assert mover.ended(held) == "exit 3"
    assert mover.verb("resume") == ""


@USER
@pytest.mark.long(lambda **_: True)  # two leases are awaited; test_output_count.py has what is written where
def test_what_was_written_when_its_supervisor_was_killed_is_not_written_elsewhere(mover: Mover) -> None:
    """To a file of the job's, then to one who looks on, then to the file again."""
    job = mover.submit("sh", "-c", COUNT)
    mover.verb("checkpoint", job)
    seen = mover.path(job, "stdout").read_text()
    until(lambda: len(mover.path(job, "stdout").read_text()) > len(seen) + 40, "it says more")
    killed(mover, job)
    with mover.rexec.start(["restart", "--no-detach", job], as_user=mover.user, env=mover.env, cwd=mover.dir) as look:
        assert look.stdout is not None
        out = look.stdout.readline()
        mover.verb("checkpoint", job)
        out += b"".join(look.stdout.readline() for _ in range(10))
        killed(mover, job)
        out += look.stdout.read()
    before = mover.path(job, "stdout").read_text()
    mover.verb("restart", "--detach", job)
    until(lambda: len(mover.path(job, "stdout").read_text()) > len(before) + 40, "it says more")
    (mover.dir / "end").touch()
    assert mover.ended(job) == "exit 3"
    text = before + out.decode() + mover.path(job, "stdout").read_text().removeprefix(before)
    assert text == lines(text.count("\n"))


def killed(mover: Mover, job: str) -> None:
    """End its supervisor as the kernel does when memory runs out."""
    for pid in supervisors(mover, job):
        os.kill(pid, signal.SIGKILL)
    until(lambda: mover.job(job)["state"] == "stopped", "it is stopped")


@USER
def test_killed_on_its_host_it_goes_on_from_its_image_elsewhere(mover: Mover, desk: ModuleType) -> None:
    """As when that host's memory runs out."""
    job = mover.submit("sh", "-c", COUNT)
    mover.verb("checkpoint", job)
    seen = mover.path(job, "stdout").read_text()
    until(lambda: len(mover.path(job, "stdout").read_text()) > len(seen) + 40, "it says more")
    jobs = [pid for pid, line in desk.processes("alpha").items() if "line $i" in line]
    parents = {int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in jobs}
    (init,) = parents - set(jobs)  # the shell has another of it for as long as that has not become `sleep`
    os.kill(init, signal.SIGKILL)
    counted(mover, job)
    assert (mover.job(job)["moves"], mover.job(job)["generation"]) == (1, 2)
    assert "its memory may have run out" in mover.verb("log", job)


@USER
def test_told_to_end_as_at_a_shutdown_it_saves_the_job_first(mover: Mover) -> None:
    job = mover.submit("sh", "-c", COUNT)
    until(lambda: mover.path(job, "stdout").read_text().count("\n") > 5, "some lines")
    own = [psutil.Process(pid) for pid in supervisors(mover, job)]
    started = [child for process in own for child in process.children(recursive=True)]
    assert "ssh" in {process.name() for process in started}, "its ssh is told to end too"
    for process in (*own, *started):
        process.terminate()
    until(lambda: mover.job(job)["state"] == "stopped", "the supervisor has ended")
    assert "the job is saved" in mover.verb("log", job).splitlines()[-1]
    mover.verb("restart", job)
    counted(mover, job)


@USER
def test_a_job_that_ends_while_it_is_saved_ends_once(mover: Mover) -> None:
    """With an image already there; it is saved all the time, and its end swept over the 0.2 s that this takes."""
    script = "echo begun >> said{n}; sleep {for_}; echo ended >> said{n}; exit 7"
    jobs = [
        mover.foreground("sh", "-c", script.format(n=n, for_=2 + n / 25), options=("--every", "1s")) for n in range(8)
    ]
    for job in jobs:
        with job:
            said = job.communicate(timeout=60)
        assert (job.returncode, *said) == (7, b"", b"")
    assert {path.read_text() for path in mover.dir.glob("said*")} == {"begun\nended\n"}
