"""A log that the job and others append to: each line stays, once, whether the job is held, parked, moved or lost."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

from tests.job_commands import LONG, PYTHON, USER, Mover, again, kept, kill_agent, said, supervisors, well
from tests.until import until

pytestmark = USER

# Appends to `log`, which it holds open, until there is a file of its name followed by -end
APPEND = "exec 5>>log; i=0; while [ ! -e {name}-end ]; do i=$((i+1)); echo {name} $i >&5; sleep .05; done"


def append(mover: Mover, name: str = "job") -> str:
    return mover.submit("sh", "-c", APPEND.format(name=name))


def others(mover: Mover, *lines: str) -> list[str]:
    """A program here appends to the log."""
    with (mover.dir / "log").open("a") as log:
        for line in lines:
            print("others", line, file=log)
    return [f"others {line}" for line in lines]


def log_lines(mover: Mover) -> list[str]:
    """Whole lines only: the job may be in the middle of one."""
    return (mover.dir / "log").read_text().rpartition("\n")[0].split("\n")


def of(name: str, lines: list[str]) -> list[int]:
    """The numbers that `name` has said, in the order of the log."""
    return [int(line.split()[1]) for line in lines if line.startswith(f"{name} ")]


def more(mover: Mover, name: str = "job", n: int = 10) -> None:
    """It appends that many lines more."""
    until(lambda: (mover.dir / "log").exists(), "it begins")
    now = len(of(name, log_lines(mover)))
    until(lambda: len(of(name, log_lines(mover))) >= now + n, f"{name} goes on")


def end(mover: Mover, job: str, name: str = "job") -> list[str]:
    """Have it end; the whole log."""
    (mover.dir / f"{name}-end").touch()
    assert mover.ended(job) == "done", mover.verb("log", job)
    return log_lines(mover)


@LONG
def test_a_shared_log_while_the_job_is_held_and_at_each_retry(mover: Mover) -> None:
    data = mover.dir / "other"
    job = mover.submit("sh", "-c", f"exec 6>other; {APPEND.format(name='job')}")
    more(mover)
    mover.verb("hold", job)
    expected = others(mover, "held")
    data.rename(mover.dir / "aside")
    data.touch()
    assert "job is parked" in mover.verb("release", job)
    assert str(mover.job(job)["why"]).startswith(f"{data} has been replaced by another file since image ")
    for n in range(3):
        expected += others(mover, f"parked {n}")
        assert "job is parked" in mover.verb("restart", job)
        assert [line for line in log_lines(mover) if line.startswith("others")] == expected
    (mover.dir / "aside").rename(data)
    mover.verb("restart", job)
    more(mover)
    lines = end(mover, job)
    assert [line for line in lines if line.startswith("others")] == expected
    assert of("job", lines) == list(range(1, len(of("job", lines)) + 1))
    assert not kept(mover, job)


@LONG
def test_logs_after_the_host_lost_its_power(mover: Mover, desk_alone: ModuleType) -> None:
    """A log of the job's own has each line once; in one that others write to, too, nothing is lost, and it is named."""
    script = "exec 4>>own; exec 5>>log; i=0; while [ ! -e job-end ]; do i=$((i+1)); echo job $i >&4; echo job $i >&5; "
    job = mover.submit("sh", "-c", script + "sleep .05; done; echo job end >&4", options=("--lease", "20s"))
    more(mover)
    mover.verb("checkpoint", job)
    more(mover)
    expected = others(mover, "before")
    more(mover)
    host = str(mover.job(job)["host"])
    desk_alone.power_off(host.partition("-")[0])
    until(lambda: mover.job(job)["out_of_touch"], "it is missed")
    at_loss = log_lines(mover)
    expected += others(mover, "lost")
    until(lambda: mover.job(job)["generation"] >= 2, "another generation")
    mover.running(job)
    expected += others(mover, "on the other host")
    more(mover)
    lines = end(mover, job)
    assert [line for line in lines if line.startswith("others")] == expected
    assert of("job", lines) == list(range(1, len(of("job", lines)) + 1))
    own = (mover.dir / "own").read_text().splitlines()
    assert own == [*(f"job {n}" for n in range(1, len(own))), "job end"]
    (copy,) = kept(mover, job)
    assert copy.parent == mover.path(job, "kept") and copy.name.startswith(f"log.job{job}-image")
    assert [line for line in at_loss if line in copy.read_text().splitlines()], "what it was"
    assert f"what the job has added to {mover.dir}/log since image " in mover.verb("log", job)


def test_a_log_that_others_wrote_to_before_the_job_did_has_each_line_once(mover: Mover) -> None:
    """Its image is of a job that writes nothing just then."""
    script = "exec 5>>log; echo job 1 >&5; while [ ! -e go ]; do sleep .05; done; " + APPEND.format(name="job")
    job = mover.submit("sh", "-c", script.replace("i=0", "i=1"))
    until(lambda: (mover.dir / "log").exists() and log_lines(mover) == ["job 1"], "it has begun")
    mover.verb("checkpoint", job)
    expected = others(mover, "first")
    (mover.dir / "go").touch()
    more(mover)
    again(mover, job)
    more(mover)
    lines = end(mover, job)
    assert [line for line in lines if line.startswith("others")] == expected
    assert of("job", lines) == list(range(1, len(of("job", lines)) + 1))
    assert not kept(mover, job)


@LONG
def test_two_jobs_that_append_to_one_log(mover: Mover) -> None:
    names = ("one", "two")
    jobs = [append(mover, name) for name in names]
    for name, job in zip(names, jobs):
        more(mover, name)
        mover.verb("checkpoint", job)
    for name in names:
        more(mover, name)
    mover.verb("hold", jobs[1])
    more(mover, "one")
    mover.verb("release", jobs[1])
    more(mover, "two")
    before = log_lines(mover)
    again(mover, jobs[0])
    more(mover, "one")
    lines = end(mover, jobs[0], "one")
    lines = end(mover, jobs[1], "two")
    assert lines[: len(before)] == before
    assert of("two", lines) == list(range(1, len(of("two", lines)) + 1)), "the other job's"
    assert set(of("one", lines)) == set(range(1, max(of("one", lines)) + 1))
    assert len(kept(mover, jobs[0])) == 1 and not kept(mover, jobs[1])


def test_what_the_job_had_added_is_known_where_the_supervisor_was_killed(mover: Mover) -> None:
    job = append(mover)
    more(mover)
    mover.verb("checkpoint", job)
    more(mover)
    for pid in supervisors(mover, job):
        os.kill(pid, signal.SIGKILL)
    until(lambda: mover.job(job)["state"] == "stopped", "it is stopped")
    expected = others(mover, "after")
    before = (mover.dir / "log").read_text()
    mover.verb("restart", job)
    mover.running(job)
    more(mover)
    lines = end(mover, job)
    assert [line for line in lines if line.startswith("others")] == expected
    assert of("job", lines) == list(range(1, len(of("job", lines)) + 1))
    (copy,) = kept(mover, job)
    assert before.endswith(copy.read_text())


def test_a_job_that_was_killed_goes_on_with_each_line_once(mover: Mover) -> None:
    """By its user, who has its supervisor end in order: what it knows is in the job's record."""
    job = append(mover)
    more(mover)
    mover.verb("checkpoint", job)
    more(mover)
    mover.verb("kill", job)
    assert mover.ended(job) == "signal 9"
    mover.verb("restart", job)
    more(mover)
    lines = end(mover, job)
    assert of("job", lines) == list(range(1, len(of("job", lines)) + 1))
    assert not kept(mover, job)


@LONG
def test_nothing_is_cut_before_a_host_has_taken_the_job(mover: Mover) -> None:
    job = append(mover)
    more(mover)
    mover.verb("checkpoint", job)
    more(mover)
    hosts = mover.dir / "config" / "rexec" / "hosts.toml"
    hosts.parent.mkdir(parents=True, exist_ok=True)
    hosts.write_text("[hosts.alpha")
    kill_agent(mover, job)
    until(lambda: mover.job(job)["state"] == "parked", "it is parked")
    before = log_lines(mover)
    assert "hosts.toml" in str(mover.job(job)["why"])
    hosts.unlink()
    mover.verb("kill", job)
    assert mover.ended(job) == "signal 9"
    assert log_lines(mover) == before
    mover.verb("restart", job)
    mover.running(job)
    until(lambda: len(log_lines(mover)) > len(before), "it has added all of it again")
    lines = end(mover, job)
    assert lines[: len(before)] == before
    assert of("job", lines) == list(range(1, len(lines) + 1))
    assert not kept(mover, job)


SENT = """
import os, time
def wait(name):
    while not os.path.exists(name):
        time.sleep(.01)
def add(line):
    with open("log", "a") as log:
        log.write(line)
add("before\\n")
print("open", flush=True)
wait("fill")
data = [os.urandom(1 << 20) for _ in range(256)]
print("filled", flush=True)
wait("go")
add("after\\n")
print("added", flush=True)
wait("end")
"""


@LONG
def test_what_is_added_to_a_file_while_the_image_is_sent_came_after_it(mover: Mover) -> None:
    """To one of an earlier generation: that is looked at when the job stands still, as those of this one are."""

    def added_meanwhile() -> str:
        """The job; nothing, if its image had been sent before this machine came to it."""
        for name in ("fill", "go", "end", "log"):
            (mover.dir / name).unlink(missing_ok=True)
        job = mover.submit(PYTHON, "-c", SENT)
        said(mover, job, "open\n")
        mover.verb("hold", job)
        mover.verb("release", job)
        (mover.dir / "fill").touch()
        said(mover, job, "open\nfilled\n")
        images = mover.dir / "state" / "rexec" / "images" / job
        with ThreadPoolExecutor(1) as pool:
            saved = pool.submit(mover.verb, "checkpoint", job)
            until(lambda: saved.done() or any(part.stat().st_size for part in images.glob("*.part")), "the image comes")
            (mover.dir / "go").touch()
            said(mover, job, "open\nfilled\nadded\n")
            late = saved.done()
            saved.result()
        if late:
            (mover.dir / "end").touch()
            well(mover, job)
        return "" if late else job

    job = until(added_meanwhile, "it adds to the file while its image is sent")
    again(mover, job)
    said(mover, job, "open\nfilled\nadded\n")
    until(lambda: (mover.dir / "log").read_text() == "before\nafter\n", "it is added once")
    (mover.dir / "end").touch()
    well(mover, job)
    assert (mover.dir / "log").read_text() == "before\nafter\n"
    assert not kept(mover, job)
