"""The clocks of a job that moves: what it waits for comes when it would have come, whenever its hosts were started."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.desk_boot import libc
from tests.functional.test_moving import Make, Run, caches, run, uid
from tests.mover import until

__all__ = ["caches", "run", "uid"]
CLONE_NEWTIME = 0x80
PYTHON = "/usr/bin/python3"

# Each wait is for a moment of a clock that counts from the host's own start.
WAITS = """
import ctypes, json, os, signal, threading, time
clocks = {name: getattr(time, "CLOCK_" + name) for name in ("MONOTONIC", "BOOTTIME")}
libc = ctypes.CDLL(None, use_errno=True)
began = {name: time.clock_gettime(clock) for name, clock in clocks.items()}
took = {}
def sleep():
    time.sleep(2); took["sleep"] = time.monotonic() - began["MONOTONIC"]
def wait():
    threading.Event().wait(2); took["wait"] = time.monotonic() - began["MONOTONIC"]
def timer(name):
    fd = libc.timerfd_create(clocks[name], 0)
    at = began[name] + 2
    libc.timerfd_settime(fd, 1, (ctypes.c_long * 4)(0, 0, int(at), int(at % 1 * 1e9)), None)
    os.read(fd, 8); took["timer " + name] = time.clock_gettime(clocks[name]) - began[name]
threads = [threading.Thread(target=what, args=args) for what, *args in
           ((sleep,), (wait,), (timer, "MONOTONIC"), (timer, "BOOTTIME"))]
for thread in threads: thread.start()
print("waits", flush=True)
for thread in threads: thread.join()
print(json.dumps(took))
"""


def on_a_host_that_was_started(seconds: int, body: Callable[[], None]) -> None:
    """Run body where the machine has been up for so much longer: in a time namespace of the tests' own."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert libc.unshare(CLONE_NEWTIME) == 0
            with open("/proc/self/timens_offsets", "w") as f:
                f.write(f"monotonic {seconds} 0\nboottime {seconds} 0\n")
            body()
            status = 0
        except BaseException:
            os.write(write, traceback.format_exc().encode()[-60000:])
        finally:
            os._exit(status)
    os.close(write)
    with open(read, "rb") as f:
        said = f.read().decode()
    assert os.waitpid(child, 0)[1] == 0, said


@pytest.mark.long(lambda seconds, **_: seconds < 0)
@pytest.mark.parametrize("seconds", [10_000, -50])
def test_no_clock_jumps_where_the_next_host_was_started_earlier_or_later(run: Run, seconds: int) -> None:
    def first(make: Make, home: Path) -> None:
        mover = make(PYTHON, "-c", WAITS)
        at = mover.place("local")
        until(lambda: mover.out == b"waits\n", "it does not begin")
        at.order("vacate", mover.generation)
        at.wait("moved")
        at.wait("closed")
        at.close()

    def then(make: Make, home: Path) -> None:
        mover = make(PYTHON, "-c", WAITS)
        mover.generation, mover.out = 1, bytearray(b"waits\n")
        at = mover.place("local", 1)
        at.go()
        assert at.end() == 0
        took = json.loads(mover.out.split(b"\n")[1])
        assert len(took) == 4
        assert all(2 <= seconds < 3 for seconds in took.values()), took

    run(first)
    on_a_host_that_was_started(seconds, lambda: run(then))
