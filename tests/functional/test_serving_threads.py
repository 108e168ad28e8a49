"""What serves files may do nothing else, whatever its code does wrong: tried from within a session's own threads."""

from __future__ import annotations

import errno
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from tests import old_kernel
from tests.desk_hosts import SUBMIT_UID, SUBMIT_USER
from tests.program import TEMPORARY, Rexec
from tests.reachable import Copy
from tests.until import until

OLD_KERNEL = old_kernel.__file__
# A session in a process of its own, since that is kept from others. The host greets, and says STOPPED: this is taken by
# the thread which serves requests, and there each attempt is made.
_SESSION = '''
import ctypes, fcntl, json, os, signal, socket, subprocess, sys, termios, threading, warnings
from remoteio.submit.sandbox import dumps
from remoteio.wire import frames
from remoteio.wire.link import Link, LinkClosed
from shim.submit.host_session import HostSession
from shim.submit.scope import JobRights, Scope
from shim.wire.job_spec import JobSpec

libc = ctypes.CDLL(None, use_errno=True)
place, other = sys.argv[1], int(sys.argv[2])


def call(*args):
    if libc.syscall(*args) < 0:
        raise OSError(ctypes.get_errno(), "refused")


def write(path):
    with open(path, "r+b"):
        pass


def make(path):
    with open(path, "xb"):
        pass


def fork():  # not by libc: the child would wait for ever for the lock that another thread had just then
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the threads
        os.fork() or os._exit(0)


listening = socket.create_server(("127.0.0.1", 0))
listening.setblocking(False)  # where accept(2) is not refused, nobody comes
terminal, _ = os.openpty()
shared = "/dev/shm/rexec-attempt-%d" % os.getpid()
ATTEMPTS = {
    "tcp socket": lambda: socket.socket().close(),
    "unix socket": lambda: socket.socket(socket.AF_UNIX).close(),
    "accept": lambda: listening.accept(),
    "ring of calls": lambda: call(425, 1, ctypes.create_string_buffer(256)),
    "execve": lambda: os.execv("/bin/true", ["true"]),
    "a program": lambda: subprocess.run(["true"]),
    "fork": lambda: fork(),
    "user namespace": lambda: call({"x86_64": 272}.get(os.uname().machine, 97), 0x10000000),
    "signal to another": lambda: os.kill(other, 0),
    "ptrace": lambda: call({"x86_64": 101}.get(os.uname().machine, 117), 16, other, 0, 0),
    "another's descriptor": lambda: call(438, signal.pidfd_send_signal and os.pidfd_open(other), 0, 0),
    "typing for the user": lambda: fcntl.ioctl(terminal, termios.TIOCSTI, b"x"),
    "cores again": lambda: call({"x86_64": 157}.get(os.uname().machine, 167), 4, 1, 0, 0, 0),
    "a thread's socket": lambda: in_a_thread(lambda: socket.socket().close()),
    "own memory": lambda: write("/proc/self/mem"),
    "its name, in /proc": lambda: write("/proc/self/comm"),
    "a device": lambda: write("/dev/null"),
    "shared memory": lambda: make(shared) or os.unlink(shared),
    "a file in the user's directories": lambda: make(place + "/made"),
    "what is named": lambda: os.mkdir(place + "/n") or os.rename(place + "/n", place + "-named/n"),
    "beside where it works": lambda: make(place + "-beside/made"),
    "moved from one to another": lambda: os.mkdir(place + "/d") or os.rename(place + "/made", place + "/d/made"),
}


def in_a_thread(what):
    raised = []

    def run():
        try:
            what()
        except OSError as e:
            raised.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for e in raised:
        raise e


class Handler:
    def greeted(self, hello):
        pass

    def silent(self):
        pass

    def unleased(self, why):
        pass

    def take(self, kind, payload):
        found = {}
        for name, attempt in ATTEMPTS.items():
            try:
                attempt()
                found[name] = "done"
            except OSError as e:
                found[name] = e.errno
        found["by another thread"] = session.outside(lambda: subprocess.run(["true"]).returncode)
        print(json.dumps(found), flush=True)


here, there = socket.socketpair()
dumps.forbid()
spec = JobSpec([], [], os.fsencode(place), os.getuid(), os.getgid(), [], 0, b"here", [], [], [], [])
far = Link(os.dup(there.fileno()), os.dup(there.fileno()))
far.send(frames.HELLO, frames.pack_fields({"host": [b"there"], "time": [b"1"], "uids": [], "gids": []}))
far.send(frames.STOPPED, b"\\0")
there.shutdown(socket.SHUT_WR)
rights = JobRights(Scope(os.environ.get("SCOPE", "home"), write=(place + "-named",)))
session = HostSession(Link(os.dup(here.fileno()), os.dup(here.fileno())), spec, Handler(), rights=rights)
try:
    session.serve()
except LinkClosed:
    pass
LOOK = """
import ctypes, os, sys
libc, found = ctypes.CDLL(None, use_errno=True), {}
try:
    open(f"/proc/{os.getppid()}/maps").close()
    found["memory's map"] = "done"
except OSError as e:
    found["memory's map"] = e.errno
seized = libc.ptrace(0x4206, os.getppid(), 0, 0)
found["ptrace"] = "done" if seized == 0 else ctypes.get_errno()
print(__import__("json").dumps(found))
"""
looked = [sys.executable, "-c", LOOK]
print(subprocess.run(looked, capture_output=True, text=True, check=True).stdout.strip())
with dumps.allowed():
    print(subprocess.run(looked, capture_output=True, text=True, check=True).stdout.strip())
'''

_OF_FILES = {"own memory", "its name, in /proc", "a device", "shared memory"}
_ALLOWED = {"a file in the user's directories", "what is named", "moved from one to another"}
_BESIDE = {"beside where it works"}


def places(reached: Copy, name: str, uid: int) -> Path:
    """A directory to work in, with one that is named and one that is not beside it."""
    place = reached.top.parent / f"attempts-{name}"
    for each in (place, Path(f"{place}-named"), Path(f"{place}-beside")):
        each.mkdir()
        os.chown(each, uid, uid)
    return place


@pytest.mark.parametrize("scope", ["home", "project"])
@pytest.mark.parametrize("uid", [0, SUBMIT_UID])
def test_nothing_but_files_can_be_had_by_the_threads_that_serve(uid: int, scope: str, reached: Copy) -> None:
    """Where rexec is root it may change all of the system, so the paths are free there (docs/security.md).

    Of trust "project" the kernel keeps them to where the job works, and what is named.
    """
    place = places(reached, f"{uid}-{scope}", uid)
    other = subprocess.Popen(["sleep", "60"], user=uid)
    try:
        done = subprocess.run(
            [reached.python, "-c", _SESSION, place, str(other.pid)], capture_output=True, text=True, check=False,
            timeout=60, user=uid, group=uid, extra_groups=(), cwd="/",
            env={**os.environ, "HOME": str(place), "SCOPE": scope},
        )  # fmt: skip
    finally:
        other.kill()
        other.wait()
    assert done.stderr == "" and done.returncode == 0, done.stderr
    found, looked, before = map(json.loads, done.stdout.splitlines())
    assert found.pop("by another thread") == 0
    succeed = {name for name, what in found.items() if what == "done"}
    everywhere = set() if scope == "project" else _BESIDE if uid else _BESIDE | _OF_FILES
    assert succeed == _ALLOWED | everywhere
    assert {found[name] for name in found.keys() - succeed} <= {errno.EPERM, errno.EACCES}
    assert before["memory's map"] == "done"
    if uid:
        assert looked == {"memory's map": errno.EACCES, "ptrace": errno.EPERM}


# What each leaves to the other: docs/security.md. Making a socket is not connecting it, which Landlock refuses.
_OF_PROCESSES = {
    "tcp socket", "unix socket", "accept", "ring of calls", "fork", "user namespace", "signal to another", "ptrace",
    "another's descriptor", "typing for the user", "cores again", "a thread's socket",
}  # fmt: skip
_PROGRAMS = {"execve", "a program"}


@pytest.mark.parametrize("lacking", ["landlock", "seccomp"])
def test_what_holds_where_the_kernel_has_less(lacking: str, reached: Copy) -> None:
    """Without Landlock they may write where the user may; without seccomp Landlock still lets them start nothing."""
    place = places(reached, f"without-{lacking}", SUBMIT_UID)
    done = subprocess.run(
        [sys.executable, OLD_KERNEL, lacking, str(SUBMIT_UID), reached.python, "-c", _SESSION, place, str(os.getpid())],
        capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "HOME": str(place)}, cwd="/",
    )  # fmt: skip
    assert done.stderr == "" and done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[0])
    refused = {name for name, what in found.items() if what in (errno.EPERM, errno.EACCES)}
    held = _OF_PROCESSES | _PROGRAMS if lacking == "landlock" else _OF_FILES | _PROGRAMS
    assert held <= refused
    # What is of the process in /proc is root's by then: it may not be dumped.
    assert not refused & (_ALLOWED | ({"a device", "shared memory"} if lacking == "landlock" else set()))


@pytest.mark.long(lambda lacking: lacking == "landlock")
@pytest.mark.parametrize("lacking", ["landlock", "landlock,seccomp"])
def test_a_kernel_that_has_less_runs_jobs_and_the_doctor_says_what(lacking: str, rexec: Rexec) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        home = pwd.getpwuid(SUBMIT_UID).pw_dir
        return subprocess.run(
            [sys.executable, OLD_KERNEL, lacking, str(SUBMIT_UID), rexec.path, *words], capture_output=True, text=True,
            check=False, timeout=60, env={"HOME": home, "PATH": os.environ["PATH"], "TMPDIR": str(TEMPORARY)}, cwd=home,
        )  # fmt: skip

    done = run("--on", "local", "sh", "-c", "echo text >.made && cat .made && rm .made")
    assert (done.stdout, done.returncode) == ("text\n", 0), done.stderr
    told = run("doctor", "local").stdout
    what = "by threads that this kernel does not hold to that: Landlock 2 or newer"
    (line,) = [line for line in told.splitlines() if "serving files" in line]
    assert line.startswith(f"  note  serving files: {what}")
    assert ("seccomp refused" in line) == ("seccomp" in lacking)


def test_a_job_s_files_are_served_by_restricted_threads(rexec: Rexec) -> None:
    with rexec.popen(["sleep", "60"], on="local", as_user=SUBMIT_USER) as running:
        try:
            until(lambda: len(_restricted(running.pid)) > 2, "restricted threads")
        finally:
            running.terminate()


def _restricted(pid: int) -> list[str]:
    """The threads of a process that have given up new privileges, and have a filter of system calls."""
    found = []
    for each in Path(f"/proc/{pid}/task").iterdir():
        fields = dict(line.split(":", 1) for line in (each / "status").read_text().splitlines() if ":" in line)
        if fields["Seccomp"].strip() == "2" and fields["NoNewPrivs"].strip() == "1":
            found.append(each.name)
    return found
