"""A job's file locks on its way from host to host: nobody gets one in between, and it can give them up afterwards."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

from tests.job_commands import LONG, PYTHON, USER, Mover, kill_agent
from tests.until import until

# A shell's way (a child locks descriptor 9 and ends), two shared locks, record locks of two processes on one file
JOB = r"""
import ctypes, fcntl, os, subprocess, sys, time
shell = subprocess.Popen(
    ["sh", "-c", "exec 9>shell; flock 9; echo ready; read x; flock -u 9; echo unlocked; read x"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
)
assert shell.stdout.readline() == "ready\n"
shared = [open("shared", "w") for _ in (1, 2)]
for f in shared:
    fcntl.flock(f, fcntl.LOCK_SH)
directory = os.open(".", os.O_RDONLY)
fcntl.flock(directory, fcntl.LOCK_EX)  # which the kernel tells nobody of: it holds within the job
with open("mapped", "w+b", buffering=0) as file:  # as Java's counters of itself
    fcntl.flock(file, fcntl.LOCK_EX)
    file.truncate(4096)
    ctypes.CDLL(None).mmap(None, ctypes.c_size_t(4096), 3, 1, file.fileno(), ctypes.c_long(0))
ranged = open("ranged", "w")
fcntl.lockf(ranged, fcntl.LOCK_EX, 10, 5)
fcntl.lockf(ranged, fcntl.LOCK_EX, 10, 40)
ready, told = os.pipe()
go_on, go = os.pipe()
if os.fork() == 0:
    own = open("ranged", "r+")
    fcntl.lockf(own, fcntl.LOCK_EX, 0, 100)
    os.write(told, b"x")
    os.read(go_on, 1)
    os._exit(0)
os.read(ready, 1)
print("ready", flush=True)
def wait(name):
    while not os.path.exists(name):
        time.sleep(.02)
wait("release")
try:
    fcntl.flock(os.open(".", os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    sys.exit("the lock of the directory is lost")
except BlockingIOError:
    pass
os.write(go, b"x")
os.wait()
fcntl.lockf(ranged, fcntl.LOCK_UN, 10, 5)
shared[0].close()
shell.stdin.write("\n")
assert shell.stdout.readline() == "unlocked\n"
print("released", flush=True)
wait("end")
"""

PROBE = """
import fcntl, sys
def free(name, how, *where):
    with open(name, "r+") as f:
        try:
            how(f, fcntl.LOCK_EX | fcntl.LOCK_NB, *where)
        except OSError:
            return "held"
        return "free"
print(free("shell", fcntl.flock), free("shared", fcntl.flock), free("ranged", fcntl.lockf, 10, 5),
      free("ranged", fcntl.lockf, 10, 40), free("ranged", fcntl.lockf, 0, 100), free("ranged", fcntl.lockf, 5, 50),
      free("mapped", fcntl.flock))
"""


def probe(directory: Path) -> str:
    return subprocess.run(
        [sys.executable, "-c", PROBE], cwd=directory, capture_output=True, text=True, check=True
    ).stdout


def said(mover: Mover, job: str, word: str) -> None:
    until(lambda: word in mover.path(job, "stdout").read_text().split(), f"the job says {word}")


ALL = "held held held held held free held\n"


def test_locks_are_held_all_the_way(mover: Mover) -> None:
    job = mover.submit(PYTHON, "-c", JOB)
    said(mover, job, "ready")
    assert probe(mover.dir) == ALL
    waiting = subprocess.Popen(["flock", "shell", "true"], cwd=mover.dir)
    mover.verb("vacate", job)
    assert probe(mover.dir) == ALL
    mover.verb("hold", job)
    assert probe(mover.dir) == ALL  # nobody runs it, and the supervisor holds them
    mover.verb("release", job)
    assert probe(mover.dir) == ALL
    assert waiting.poll() is None
    (mover.dir / "release").touch()
    said(mover, job, "released")
    assert waiting.wait(timeout=60) == 0
    assert probe(mover.dir) == "free held free held free free held\n"
    mover.verb("vacate", job)
    assert probe(mover.dir) == "free held free held free free held\n"
    (mover.dir / "end").touch()
    assert mover.ended(job) == "done"
    assert probe(mover.dir) == "free free free free free free free\n"


@USER
def test_a_lost_host_holds_no_lock(mover: Mover) -> None:
    job = mover.submit(PYTHON, "-c", JOB)
    said(mover, job, "ready")
    mover.verb("checkpoint", job)
    kill_agent(mover)
    while (now := mover.job(job))["generation"] == 1 or now["state"] != "running":
        assert probe(mover.dir) == ALL
    assert probe(mover.dir) == ALL
    (mover.dir / "release").touch()
    said(mover, job, "released")
    assert probe(mover.dir) == "free held free held free free held\n"
    (mover.dir / "end").touch()
    assert mover.ended(job) == "done"
    assert probe(mover.dir) == "free free free free free free free\n"


@USER
@LONG
def test_a_lock_that_another_has_by_then_is_named(mover: Mover) -> None:
    job = mover.submit(PYTHON, "-c", JOB)
    said(mover, job, "ready")
    mover.verb("checkpoint", job)
    mover.verb("kill", job)
    mover.ended(job)
    with open(mover.dir / "shell") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        status, _, err = mover.verb_fails("restart", "--detach", job)
        until(lambda: mover.job(job)["state"] == "parked", f"it waits for a host: {status} {err}")
        assert "a file lock that the job held is held by another program now" in str(mover.job(job)["why"])
    mover.verb("release", job)
    # what is only mapped, nobody asks for again
    assert probe(mover.dir) == "held held held held held free free\n"
