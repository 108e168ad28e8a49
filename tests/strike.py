"""An agent that is struck: sent by tests in place of shim.execute.main, it kills one of its processes at a point.

$STRIKE is POINT:WHO:N, the Nth time that point (shim/execute/agent/fault_points.py) is reached; WHO: agent, keeper,
init or criu. Or that which ends by itself as soon as it finds the file $STRUCK: root, the job itself, has ended before
the agent goes on, or job, and its keeper has cleaned up; the agent then tells nobody before it is through with it.
POINT:stands:N: nobody is killed, but the agent gets no further.
POINT:error:N: nobody is killed, but an error that nobody has thought of is raised there.
`spool:none:1` instead: there is no place for images. POINT:signal:N: nobody is killed, but the agent waits there until
it has passed a signal on to init. `pages:REQUEST:1`: while the file $STRUCK is there, that request (in hexadecimal) of
written_pages.py to the kernel fails. `ids:zero:1`: a login without subordinate ids gives its jobs uid 0, as it did
once.
drawn:FILE:1: what that file says, POINT:WHO, is done by the agent that comes to the point first; the file is gone then.
POINT:wait:N: the agent waits there until somebody removes the file $STRUCK, which it makes. `cipher:none:1`: Python
there has no libcrypto.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
import time
from types import SimpleNamespace
from typing import Any

from checkpoint.execute import cipher, written_pages
from shim.execute import main as agent
from shim.execute.agent import fault_points, job_tree
from shim.execute.init import namespaces, sandbox


def children(pid: int) -> list[int]:
    found = []
    for thread in os.listdir("/proc/%d/task" % pid):
        try:
            with open("/proc/%d/task/%s/children" % (pid, thread)) as f:
                found += [int(child) for child in f.read().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue  # the agent's threads come and go
    return found


def first_child(pid: int) -> int:
    while not (found := children(pid)):
        time.sleep(0.005)  # a small image has arrived before init is there
    return found[0]


def victim(who: str) -> int:
    me = os.getpid()
    if who == "agent":
        return me
    keeper = first_child(me)
    if who == "keeper":
        return keeper
    init = first_child(keeper)
    if who == "init":
        return init
    for pid in children(init):
        try:
            with open("/proc/%d/cmdline" % pid, "rb") as f:
                line = f.read()
        except (FileNotFoundError, ProcessLookupError):
            continue  # a criu that is done
        # its loader's path, from the bundle; see criu.argv
        if line and line.startswith(b"/proc/self/fd/") == (who == "criu"):
            return pid
    raise AssertionError("no %s is running" % who)


def taken(path: str, at: str) -> str | None:
    """Who is to be struck at that point, if that is drawn and nobody has taken it yet."""
    try:
        with open(path) as file:
            point, who = file.read().split(":")
        if point != at:
            return None
        os.unlink(path)
    except FileNotFoundError:
        return None
    return who


def gone(pid: int) -> bool:
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def failing(request: int) -> SimpleNamespace:
    """Stand in for fcntl: one request fails as long as the file $STRUCK is there."""

    def ioctl(fd: int, asked: int, argument: bytearray) -> int:
        if asked == request and os.path.exists(os.environ["STRUCK"]):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return fcntl.ioctl(fd, asked, argument)

    return SimpleNamespace(ioctl=ioctl)


def main(read_fd: int, write_fd: int) -> int:
    point, who, number = os.environ["STRIKE"].split(":")
    left, path = [int(number)], who

    def reached(at: str) -> None:
        nonlocal who
        if point == "drawn":
            if (drawn := taken(path, at)) is None:
                return
            who = drawn
        if at == point or point == "drawn":
            left[0] = 0 if point == "drawn" else left[0] - 1
            if left[0] == 0 and who == "signal":
                told.wait()
            elif left[0] == 0 and who == "stands":
                open(os.environ["STRUCK"], "w").close()
                threading.Event().wait()
            elif left[0] == 0 and who == "error":
                open(os.environ["STRUCK"], "w").close()
                raise KeyError("on purpose")
            elif left[0] == 0 and who == "wait":
                open(os.environ["STRUCK"], "w").close()
                while os.path.exists(os.environ["STRUCK"]):
                    time.sleep(0.005)
            elif left[0] == 0:
                pid = victim("keeper" if who == "job" else who)
                open(os.environ["STRUCK"], "w").close()
                if who not in ("job", "root"):
                    os.kill(pid, signal.SIGKILL)
                while not gone(pid):
                    time.sleep(0.005)

    def end(held: sandbox.Sandbox) -> None:
        for thread in threading.enumerate():
            if thread.name == "dump" and thread is not threading.current_thread():
                thread.join()
        whole(held)

    def tell(tree: job_tree.JobTree, *what: Any) -> None:
        passes_on(tree, *what)
        told.set()

    told = threading.Event()
    passes_on = job_tree.JobTree.tell
    whole = sandbox.Sandbox.end

    def nowhere() -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if point == "spool":
        sandbox.for_images = nowhere
    if point == "cipher":
        cipher.available = lambda: None
    if point == "ids":
        namespaces.login_ids = lambda: who
    if point == "pages":
        written_pages.fcntl = failing(int(who, 16))  # type: ignore[attr-defined]
    if who == "job":
        sandbox.Sandbox.end = end
    if who == "signal":
        job_tree.JobTree.tell = tell  # type: ignore[method-assign]
    fault_points.reached = reached
    return agent.main(read_fd, write_fd)
