"""The clocks of a job that moves: what it waits for comes when it would have come, whenever its hosts were started."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.desk_boot import libc
from tests.forked import in_a_fork
from tests.mover_as_user import Make, Run
from tests.until import until

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

    def inside() -> None:
        assert libc.unshare(CLONE_NEWTIME) == 0
        with open("/proc/self/timens_offsets", "w") as f:
            f.write(f"monotonic {seconds} 0\nboottime {seconds} 0\n")
        body()

    in_a_fork(inside)


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
        assert all(2 <= each < 30 for each in took.values()), took  # a clock that jumps does so by 50 s or more

    run(first)
    on_a_host_that_was_started(seconds, lambda: run(then))


# Each calls what C programs call, once, and says what it returned, its errno and how long it took by both clocks.
CALLS = """
import ctypes, os, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
pair = ctypes.c_long * 2
half = pair(1, 500_000_000)
told = pair(1, 500_000_000)
quiet, _ = os.pipe()
polled = (ctypes.c_int * 2)(quiet, 1)
epoll, event = libc.epoll_create1(0), (ctypes.c_char * 12)()
semaphore, word = (ctypes.c_char * 32)(), ctypes.c_int(0)
libc.sem_init(semaphore, 0, 0)
def until():
    at = time.clock_gettime_ns(time.CLOCK_REALTIME) + 1_500_000_000
    return pair(*divmod(at, 10**9))
calls = {
    "nanosleep": lambda: libc.nanosleep(half, None), "nanosleep, told": lambda: libc.nanosleep(told, told),
    "usleep": lambda: libc.usleep(1_500_000), "sleep": lambda: libc.sleep(2),
    "poll": lambda: libc.poll(polled, 1, 1500), "epoll_wait": lambda: libc.epoll_wait(epoll, event, 1, 1500),
    "epoll_pwait2": lambda: libc.syscall(441, epoll, event, 1, half, None, 0),
    "futex": lambda: libc.syscall(202, ctypes.byref(word), 0, 0, half, None, 0),
    "sem_timedwait": lambda: libc.sem_timedwait(semaphore, until()),
}
def call(name):
    ctypes.set_errno(0)
    began = time.monotonic(), time.time()
    result = calls[name]()
    error = ctypes.get_errno() if result == -1 else 0
    print("%s: %d %d %.3f %.3f" % (name, result, error, time.monotonic() - began[0], time.time() - began[1]))
sys.setswitchinterval(0.001)
others = [threading.Thread(target=call, args=(name,)) for name in calls if name != sys.argv[1]]
began = time.monotonic()
for thread in others: thread.start()
print("wait since", began, flush=True)
call(sys.argv[1])
for thread in others: thread.join()
"""
LASTS = {"sleep": 2.0}


@pytest.mark.long(lambda first, **_: first != "poll")
@pytest.mark.parametrize("first", ["poll", "nanosleep", "epoll_wait"])
def test_a_call_that_waits_goes_on_waiting_in_place_and_over_a_move(run: Run, first: str) -> None:
    """criu has such calls fail with EINTR though no signal came; many a program takes that for the end of its wait."""

    def body(make: Make, home: Path) -> None:
        mover = make(PYTHON, "-c", CALLS, first)
        at = mover.place("local")
        until(lambda: mover.out.endswith(b"\n"), "it does not begin")
        began = float(mover.out.split()[-1])
        time.sleep(0.3)  # of its waits
        assert at.checkpoint(1)["what"] == "committed"
        at = at.move("local")
        gone_on = time.monotonic() - began  # which may be late: what was to end before ends then
        assert at.end() == 0
        said = dict(line.split(": ") for line in mover.out.decode().splitlines()[1:])
        assert len(said) == 9
        for name, words in said.items():
            result, error, took, by_the_wall = (float(word) for word in words.split())
            if name in ("futex", "sem_timedwait"):
                assert (result, error) == (-1, errno.ETIMEDOUT), said
            else:
                assert (result, error) == (0, 0), said
            lasts = LASTS.get(name, 1.5)
            assert (by_the_wall if name == "sem_timedwait" else took) >= lasts, said
            if name != "futex":  # its time stands in the program's memory only, so it begins anew, twice here
                assert took < max(lasts, gone_on) + 1.4, said  # had it begun anew: all of its 1.5 s after that

    run(body)
