"""Many at once, and one slow operation that holds up nobody else."""

from __future__ import annotations

import os
import time

import pytest

from tests.job_commands import LONG
from tests.program import Combo

# The other ways to run differ in nothing that these tests look at; test_filesystem.py takes them all.
pytestmark = pytest.mark.where(lambda combo="local-root", **_: combo in ("user-alice", "local-root"))

PYTHON = "/usr/bin/python3"
CROWD = """
import os, sys
def one(n):
    name = "f%d" % n
    for k in range(5):
        with open(name, "ab") as f:
            f.write(b"%d\\n" % k * 1000)
        with open(name, "rb") as f:
            f.read()
        os.rename(name, name + "x"); os.rename(name + "x", name); os.listdir("."); os.stat(name)
    os._exit(0 if os.path.getsize(name) == 10000 else 1)
for n in range(200):
    if os.fork() == 0:
        one(n)
sys.exit(any(os.wait()[1] for n in range(200)))
"""
LOCKED = """
import fcntl, os, sys, time
lock = open("lock", "w"); fcntl.lockf(lock, fcntl.LOCK_EX)
for n in range(60):
    if os.fork() == 0:
        lock = open("lock", "w"); fcntl.lockf(lock, fcntl.LOCK_EX)
        with open("count", "r+") as f:
            n = int(f.read()) + 1; f.seek(0); f.write(str(n))
        os._exit(0)
time.sleep(0.5)
began = time.monotonic()
for n in range(100):
    with open("other", "w") as f: f.write("x" * 200000)
print(time.monotonic() - began)
fcntl.lockf(lock, fcntl.LOCK_UN)
sys.exit(any(os.wait()[1] for n in range(60)))
"""
STORM = """
import os, time
def sync():
    while True:
        with open("synced", "ab") as f:
            f.write(b"x" * 100000); f.flush(); os.fsync(f.fileno())
pids = []
for n in range(8):
    pid = os.fork()
    if pid == 0: sync()
    pids.append(pid)
took = []
for n in range(200):
    began = time.monotonic(); os.listdir("/usr/share"); took.append(time.monotonic() - began)
    time.sleep(0.005)
print(sorted(took)[190])  # the machine itself may stand still for a moment
for pid in pids: os.kill(pid, 9)
"""


@pytest.mark.where(lambda combo: combo in ("user-alice", "local-root"))
@pytest.mark.timeout(180)
def test_fifty_runs_at_once(combo: Combo) -> None:
    runs = [combo.popen(["sh", "-c", f"echo {n} >r{n}; cat r{n}; exit {n}"]) for n in range(50)]
    for n, process in enumerate(runs):
        out, err = process.communicate(timeout=150)
        assert (process.returncode, out, err) == (n, b"%d\n" % n, b"")


@pytest.mark.long(lambda combo: combo == "local-root")
@LONG
def test_a_job_of_two_hundred_processes(combo: Combo) -> None:
    done = combo.run([PYTHON, "-c", CROWD], timeout=100)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_lock_that_many_wait_for(combo: Combo) -> None:
    (combo.dir / "count").write_text("0")
    os.chown(combo.dir / "count", combo.uid, -1)
    done = combo.run([PYTHON, "-c", LOCKED])
    assert (done.returncode, done.stderr) == (0, b"")
    assert (combo.dir / "count").read_text() == "60"
    assert float(done.stdout) < 10


def test_an_fsync_storm_stalls_nobody(combo: Combo) -> None:
    done = combo.run([PYTHON, "-c", STORM])
    assert (done.returncode, done.stderr) == (0, b"")
    assert float(done.stdout) < 2


def test_a_fifo_that_nobody_opens_stalls_nobody(combo: Combo) -> None:
    job = "mkfifo f; cat f & sleep 0.3; ls -l >/dev/null; echo here; echo through >f; wait"
    began = time.monotonic()
    done = combo.run(["sh", "-c", job])
    assert done.stdout == b"here\nthrough\n"
    assert time.monotonic() - began < 20
