"""The supervisor of a job is killed, and the job goes on where it runs: no image is used, all is done once."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from types import ModuleType

import pytest

from tests.job_commands import PYTHON, USER, Mover, supervisors
from tests.until import until

Check = Callable[[str], AbstractContextManager[None]]

# It counts its loops in a file that it holds open: a loop that an image took back would be counted twice. Until it is
# told to end it asks for nothing of which nobody could know whether it was done: it is to be taken up at any moment.
WORK = """
import mmap, os, sqlite3, sys, time
base = sqlite3.connect("base")  # which locks it for each change, and only then
base.execute("create table changes (made text)")
base.commit()
os.mkdir("made")
loops, table = open("made/loops", "w+b", buffering=0), open("table", "w+b")
table.truncate(1 << 16)
pages = mmap.mmap(table.fileno(), 1 << 16)
k = 0
while not os.path.exists("end"):
    k += 1
    loops.write(b"%d\\n" % k)
    pages[k % (1 << 16)] = k % 256
    os.listdir("made")
    print(k, flush=True)
    time.sleep(0.01)
base.execute("insert into changes values ('after')")
base.commit()
os.rename("made", "done")
with open("done/new", "w") as file:
    file.write(str(os.fstat(loops.fileno()).st_ino == os.stat("done/loops").st_ino))
sys.exit(3)
"""

APPEND = """
import os, sys, time
log = open("log", "ab", buffering=0)
k = 0
while not os.path.exists("end"):
    k += 1
    log.write(b"%d\\n" % k)
    time.sleep(0.01)
sys.exit(3)
"""


@pytest.fixture(autouse=True)
def nothing_is_left(mover: Mover, nothing_left: Check) -> Iterator[None]:
    with nothing_left(mover.hosts[0]), nothing_left(mover.hosts[1]):
        yield


def kill_supervisor(mover: Mover, job: str) -> None:
    for pid in supervisors(mover, job):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not supervisors(mover, job), "it is gone")


def resumed(mover: Mover, job: str) -> None:
    assert mover.verb("resume", job) == f"job {job} goes on where it runs, on {mover.hosts[0]}\n"


def attached(mover: Mover, job: str) -> None:
    """By who wants to look on, and finds nobody there."""
    with mover.rexec.start(["attach", job], as_user=mover.user, env=mover.env, cwd=mover.dir) as look:
        assert look.stdout is not None and look.stderr is not None
        assert f"goes on where it runs, on {mover.hosts[0]}\n".encode() in look.stderr.readline()
        assert look.stdout.readline()
        look.send_signal(signal.SIGINT)


def more(mover: Mover, path: Path) -> None:
    size = path.stat().st_size if path.exists() else 0
    until(lambda: path.exists() and path.stat().st_size > size + 20, "it goes on", within=30)


def started(mover: Mover, *options: str) -> str:
    """A job that has an image, with which all is done."""
    job = mover.submit(PYTHON, "-c", WORK, options=options)
    mover.verb("checkpoint", job)
    until(lambda: mover.job(job)["movable"], "the image was tried out", within=60)
    more(mover, mover.path(job, "stdout"))
    return job


def ends_well(mover: Mover, job: str) -> None:
    """It ends as if nothing had been: each loop was counted and said once."""
    more(mover, mover.path(job, "stdout"))
    (mover.dir / "end").touch()
    assert mover.ended(job) == "exit 3"
    said = mover.path(job, "stdout").read_text()
    n = said.count("\n")
    assert said == (mover.dir / "done/loops").read_text() == "".join(f"{k}\n" for k in range(1, n + 1))
    assert (mover.dir / "done/new").read_text() == "True"
    with closing(sqlite3.connect(mover.dir / "base")) as base:
        assert base.execute("select made from changes").fetchall() == [("after",)]
    table = bytes((k if k <= n else 0) % 256 for k in range(1 << 16))
    assert n < 1 << 16 and (mover.dir / "table").read_bytes() == table


def test_a_job_whose_supervisor_was_killed_goes_on_where_it_is(mover: Mover) -> None:
    job = started(mover)
    for revive in (resumed, attached):  # the second time by what the first supervisor after it has noted
        ran = mover.job(job)["run_time"]
        kill_supervisor(mover, job)
        revive(mover, job)
        more(mover, mover.path(job, "stdout"))
        assert mover.job(job)["run_time"] > ran
    assert mover.job(job)["generation"] == 1 and mover.job(job)["moves"] == 0
    ends_well(mover, job)


@USER
def test_a_job_whose_supervisor_was_killed_is_killed(mover: Mover) -> None:
    """No image is needed for that, and nothing of it is left on its host."""
    job = mover.submit(PYTHON, "-c", WORK)
    kill_supervisor(mover, job)
    assert mover.verb("kill", job) == f"job {job}: the job is gone\n"
    assert mover.job(job)["state"] == "signal 9"
    status, _, why = mover.verb_fails("kill", job)
    assert (status, why) == (125, f"rexec: job {job} has ended: signal 9\n")


@USER
@pytest.mark.long(lambda **_: True)
def test_lines_that_are_appended_are_each_there_once(mover: Mover) -> None:
    """Taken up or not: a kill may come in the midst of one, and then it goes on from its image."""
    job = mover.submit(PYTHON, "-c", APPEND)
    mover.verb("checkpoint", job)
    log = mover.dir / "log"
    for _ in range(3):
        more(mover, log)
        kill_supervisor(mover, job)
        mover.verb("resume", job)
    more(mover, log)
    (mover.dir / "end").touch()
    assert mover.ended(job) == "exit 3"
    said = log.read_text()
    assert said == "".join(f"{k}\n" for k in range(1, said.count("\n") + 1))


@USER
@pytest.mark.long(lambda **_: True)
def test_what_was_done_before_and_after_is_undone_for_an_image_from_before(mover: Mover) -> None:
    job = started(mover)
    kill_supervisor(mover, job)
    resumed(mover, job)
    more(mover, mover.path(job, "stdout"))
    kill_supervisor(mover, job)
    mover.verb("restart", job)
    until(lambda: mover.job(job)["generation"] == 2, "it goes on from its image", within=60)
    ends_well(mover, job)


@USER
@pytest.mark.long(lambda **_: True)
def test_a_job_stands_still_when_its_lease_is_over_and_goes_on_with_another_supervisor(
    mover: Mover, desk: ModuleType
) -> None:
    job = started(mover, "--lease", "3s")
    (pid,) = [pid for host in ("alpha", "beta") for pid, line in desk.processes(host).items() if "made/loops" in line]
    kill_supervisor(mover, job)
    until(lambda: stands(pid), "its lease is over", within=60)
    resumed(mover, job)
    ends_well(mover, job)


def stands(pid: int) -> bool:
    """Whether it is stopped, or will be before it does anything: it waits for a file."""
    said = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return said["State"].startswith("T") or bool(
        (int(said["SigPnd"], 16) | int(said["ShdPnd"], 16)) >> (signal.SIGSTOP - 1) & 1
    )


READS = """
import os, sys, time
seen = os.open("seen", os.O_RDWR | os.O_CREAT)
while not os.path.exists("end"):
    with open("beside", "rb") as file:
        os.pwrite(seen, file.read(), 0)
    time.sleep(0.01)
sys.exit(3)
"""


@USER
def test_what_is_told_under_leases_is_true_over_another_supervisor_and_another_host(mover: Mover) -> None:
    def changed(to: str) -> None:
        (mover.dir / "beside").write_text(to)  # as it is: one that is open and was replaced is not taken up

    def read(what: str) -> None:
        until(lambda: (mover.dir / "seen").exists() and (mover.dir / "seen").read_text() == what, f"{what} is read")

    changed("first")
    job = mover.submit(PYTHON, "-c", READS)
    read("first")
    until(lambda: any(map(watches, supervisors(mover, job))), "what it is told of is watched")
    mover.verb("checkpoint", job)
    changed("other")
    read("other")
    kill_supervisor(mover, job)
    changed("third")
    resumed(mover, job)
    read("third")
    until(lambda: any(map(watches, supervisors(mover, job))), "what it is told of is watched")
    mover.verb("vacate", job)
    changed("fifth")
    read("fifth")
    (mover.dir / "end").touch()
    assert mover.ended(job) == "exit 3" and mover.job(job)["moves"] == 1


def watches(pid: int) -> bool:
    """Whether it watches files."""
    try:
        found = [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()]
    except FileNotFoundError:
        return False  # it has ended, or closed one meanwhile: looked at again
    return "anon_inode:inotify" in found
