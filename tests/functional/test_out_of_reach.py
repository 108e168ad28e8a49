"""What a job can see and reach of the host that it runs on, from inside, against the list in docs/security.md."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from types import ModuleType

import pytest

from remoteio.syscalls import setns
from shim.execute.init import out_of_reach
from tests import netns
from tests.desk_boot import CLONE_NEWNET
from tests.mover_as_user import PYTHON, Make, Run
from tests.program import MARK, Combo, as_login
from tests.reachable import Copy
from tests.until import until

DOC = Path(__file__).parents[2] / "docs" / "security.md"

# Runs a command in a session whose keyring holds a key, as pam_keyinit makes one for a login.
WITH_KEY = """
import ctypes, os, sys
sys.path.insert(0, sys.argv[1])
from shim.execute.init import out_of_reach
add_key = {250: 248, 219: 217}[out_of_reach._KEYCTL]
libc = ctypes.CDLL(None)
assert libc.syscall(out_of_reach._KEYCTL, 1, None) > 0
assert libc.syscall(add_key, b"user", b"rexec-test", b"secret", 6, -3) > 0
os.execv(sys.argv[2], sys.argv[2:])
"""

LOOK = """
import ctypes, errno, json, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
keyctl, name = int(sys.argv[1]), sys.argv[2]
KEYCTL_SEARCH, SESSION = 10, -3

def tried(what, *arguments):
    try:
        what(*arguments)
    except OSError as e:
        return errno.errorcode[e.errno]
    return ""

def connected(address):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(address)

def found_key():
    if libc.syscall(keyctl, KEYCTL_SEARCH, SESSION, b"user", b"rexec-test", 0) < 0:
        raise OSError(ctypes.get_errno(), "")

own = socket.socket(socket.AF_UNIX)
own.bind("\\0own-" + name)
own.listen()
mounts = [line.split() for line in open("/proc/self/mountinfo")]
mounts = [(f[4], f[f.index("-") + 1], f[5].split(",")[0]) for f in mounts]
beside = [p for p in os.listdir("/proc") if p.isdigit() and int(p) not in (1, os.getpid())]
print(json.dumps({
    "mounts": mounts, "dev": os.listdir("/dev"), "env": sorted(os.environ), "beside": beside,
    "own": tried(connected, "\\0own-" + name),
    "an abstract unix socket": tried(connected, "\\0" + name),
    "a key of the login's session": tried(found_key),
    "the environment of the job's first process, which is the login's": tried(open, "/proc/1/environ"),
    "that process's memory": tried(open, "/proc/1/mem"),
    "its open files": tried(os.stat, "/proc/1/fd/0"),
    "its root": tried(os.listdir, "/proc/1/root/"),
    "another process, by its number": tried(os.kill, 2, 0),
    "/proc/sys, to write": tried(open, "/proc/sys/kernel/core_pattern", "w"),
    "/sys, to write": tried(open, "/sys/new", "w"),
}))
"""


def documented(heading: str) -> list[list[str]]:
    """The rows of the table that follows those words in docs/security.md, without the backquotes."""
    text = DOC.read_text().split(heading, 1)[1]
    rows = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert rows is not None
    return [[cell.strip().replace("`", "") for cell in row.strip("|\n").split("|")] for row in rows[0].splitlines()[2:]]


def socket_of_host(combo: Combo, desk: ModuleType) -> socket.socket:
    """A unix socket in the network of the job's host."""
    if combo.on == "local":
        return socket.socket(socket.AF_UNIX)
    with open(netns.OWN) as own, open(f"/proc/{desk.pid('alpha')}/ns/net") as there:
        setns(there.fileno(), CLONE_NEWNET)
        try:
            return socket.socket(socket.AF_UNIX)
        finally:
            setns(own.fileno(), CLONE_NEWNET)


# As an ordinary user here, on a login as root and on one of its own.
@pytest.mark.where(lambda combo, **_: combo in ("user-root", "local-user"))
@pytest.mark.parametrize("way", ["plain", "checkpoint"])
@pytest.mark.long(lambda combo, way: (combo, way) in (("user-root", "plain"), ("local-user", "checkpoint")))
def test_what_a_job_sees_of_its_host_is_what_is_documented(
    combo: Combo, way: str, desk: ModuleType, reached: Copy
) -> None:
    name = f"rexec-test-{combo.dir.name}"
    with socket_of_host(combo, desk) as listens:
        listens.bind("\0" + name)
        listens.listen()
        argv = [PYTHON, "-c", WITH_KEY, str(reached.checkout), str(combo.rexec.path), "--on", combo.on]
        argv += ["--checkpoint"] if way == "checkpoint" else []
        argv += ["--", PYTHON, "-Ic", LOOK, str(out_of_reach._KEYCTL), name]
        with as_login(combo.as_user, argv, cwd=combo.dir, stdin=-1) as process:
            out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    seen = json.loads(out)
    reached_by = {row[0]: row[1] for row in documented("### What it reaches")}
    if not out_of_reach.scopes():
        reached_by["an abstract unix socket"] = ""  # as is documented too
    assert {what: seen[what] for what in reached_by} == reached_by
    mounted = documented("### What it sees")
    assert sorted(
        [place, how] for place, _, how in seen["mounts"] if not re.match("/sys/|/dev/(?!pts|shm)", place)
    ) == (sorted([place, how] for place, how, _ in mounted))
    assert {how for place, _, how in seen["mounts"] if place.startswith("/sys/")} <= {"ro"}
    (devices,) = (text for place, _, text in mounted if place == "/dev")
    assert sorted(seen["dev"]) == sorted(devices.partition(": ")[2].split())
    assert set(seen["env"]) == {
        "HOME",
        "LANG",
        "LOGNAME",
        "PATH",
        "SHELL",
        "TERM",
        "USER",
        MARK.partition("=")[0],
        "REXEC_HOST",
        "REXEC_KEEP",  # the tests' own: program.py
    }
    assert seen["own"] == "" and seen["beside"] == []


TRY_AGAIN = """
import errno, socket, sys
while True:
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect("\\0" + sys.argv[1])
            print("connected", flush=True)
        except OSError as e:
            print(errno.errorcode[e.errno], flush=True)
    sys.stdin.readline()
"""


@pytest.mark.long(lambda uid: uid == 0)
def test_a_job_that_has_moved_reaches_no_more_than_before(run: Run, uid: int) -> None:
    def body(make: Make, home: Path) -> None:
        name = f"rexec-test-{home.name}"
        with socket.socket(socket.AF_UNIX) as listens:
            listens.bind("\0" + name)
            listens.listen()
            mover = make(PYTHON, "-c", TRY_AGAIN, name)
            at = mover.place("local")
            until(lambda: mover.out == b"EPERM\n", "it has not tried")
            at = at.move("local")
            at.type(b"\n")
            until(lambda: mover.out == b"EPERM\n" * 2, "it has not tried again")
            at.order("kill", 0)
            at.end()

    if out_of_reach.scopes():
        run(body)
