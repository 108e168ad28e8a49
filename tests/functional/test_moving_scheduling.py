"""nice, ionice, chrt and taskset: at the first host as the user has them here, and after a move as before it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.mover_as_user import PYTHON, Make, Run, begun
from tests.program import Combo
from tests.until import until

# Each thread another way; what the first has is what was asked for.
THREADS = """
import ctypes, json, os, sys, threading
libc = ctypes.CDLL(None)
GET, SET = {"x86_64": (252, 251)}.get(os.uname().machine, (31, 30))
BEST, IDLE = 2 << 13, 3 << 13

def mine():
    return [os.getpriority(os.PRIO_PROCESS, 0), libc.syscall(GET, 1, 0), os.sched_getscheduler(0),
            os.sched_getparam(0).sched_priority, sorted(os.sched_getaffinity(0))]

def different():
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    os.setpriority(os.PRIO_PROCESS, 0, 17)
    libc.syscall(SET, 1, 0, IDLE)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))

def say(what):
    out.append([what, mine()])

def other():
    different()
    say("second before")
    ready.set()
    go.wait()
    say("second after")

out, ready, go = [], threading.Event(), threading.Event()
say("first before")
second = threading.Thread(target=other)
second.start()
ready.wait()
print("ready", flush=True)
sys.stdin.readline()
say("first after")
go.set()
second.join()
print(json.dumps(dict(out)))
"""


def test_as_asked_for_and_as_before_a_move(run: Run, uid: int) -> None:
    """CRIU leaves out CPUs and I/O priority: after a move a thread had all CPUs, and its class was the agent's."""
    last = max(os.sched_getaffinity(0))
    asked = [15, 2 << 13 | 6, os.SCHED_BATCH, 0, last, 4000]  # the last is a CPU that no host here has
    got = [15, 2 << 13 | 6, os.SCHED_BATCH, 0, [last]]
    if not uid:  # raising is for root
        asked[:4] = got[:4] = [-5, 1 << 13 | 3, os.SCHED_RR | os.SCHED_RESET_ON_FORK, 7]

    def body(make: Make, home: Path) -> None:
        mover = make(PYTHON, "-c", THREADS)
        mover.scheduling = asked
        at = begun(mover)
        until(lambda: mover.out == b"ready\n", "it is ready")
        at = at.move("local").move("local")
        at.type(b"\n")
        assert at.end() == 0, mover.err
        said = json.loads(mover.out.split(b"\n", 1)[1])
        assert said["first before"] == said["first after"] == got
        assert said["second before"] == said["second after"] == [17, 3 << 13, os.SCHED_IDLE, 0, [last]]

    run(body)


@pytest.mark.long(lambda combo: combo == "root-root")  # the test above sets root's too
@pytest.mark.where(lambda combo: combo in ("root-root", "user-alice"))  # what is on `local` has them anyway
def test_what_stands_before_it_to_schedule_it_reaches_there(combo: Combo) -> None:
    """nice, ionice, chrt and taskset are in front of rexec as of any command: they are meant for what runs."""
    now = os.nice(0)  # whoever runs the tests may have been niced
    before = ["nice", "-n", "15", "ionice", "-c", "3", "chrt", "-b", "0", "taskset", "-c", "0"]
    ask = "nice; ionice; chrt -p $$ | head -n 2 | cut -d: -f2; nproc; taskset -p $$ | cut -d: -f2"
    done = combo.here([*before, combo.rexec.path, "--on", combo.on, "sh", "-c", ask])
    assert done.stdout.decode().split() == [str(min(now + 15, 19)), "idle", "SCHED_BATCH", "0", "1", "1"], done.stderr
    if combo.as_user == "root":
        done = combo.here(["nice", "-n", "-3", "chrt", "-f", "5", combo.rexec.path, "--on", combo.on, "sh", "-c", ask])
        assert done.stdout.decode().split()[:4] == [str(now - 3), "none:", "prio", "0"], done.stdout
    else:
        done = combo.run(["nice"])
        assert int(done.stdout) == now
