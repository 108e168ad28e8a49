"""What a job holds in odd ways: kept over moves where CRIU can be brought to it, else refused by name beforehand."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from checkpoint.execute import preflight
from tests.mover import Mover
from tests.mover_as_user import PYTHON, Make, Run
from tests.until import until

START = """
import os, pty, shutil, subprocess, sys, threading, time
home = os.getcwd()
def wait(name):
    print("ready", flush=True)
    while not os.path.exists(f"{home}/{name}"):
        time.sleep(.02)
"""
SETTLED = "ready\n"


def said(mover: Mover, text: str) -> None:
    until(lambda: mover.out.decode() == text, f"said {bytes(mover.out)!r}, {bytes(mover.err)!r}")


REMOVED = """
os.makedirs("above/below")
above = os.open("above", os.O_RDONLY)
os.chdir("above/below")
kept = os.open("kept", os.O_RDWR | os.O_CREAT)
os.write(kept, b"kept")
os.symlink("target", "dangling")
target = os.open("dangling", os.O_RDWR | os.O_CREAT)
os.write(target, b"target")
if os.getuid() == 0:  # CRIU finds what is mapped of a file without a name only as root
    shutil.copy("/bin/sleep", "program")
    program = subprocess.Popen(["./program", "1000"])
    until = time.monotonic() + 10
    while not os.readlink(f"/proc/{program.pid}/exe").endswith("/program"):
        assert time.monotonic() < until
        time.sleep(.01)
shutil.rmtree(f"{home}/above")
os.makedirs(f"{home}/outer/inner")
within = subprocess.Popen(["/bin/sleep", "1000"], cwd=f"{home}/outer/inner")
shutil.rmtree(f"{home}/outer")
wait("go")
print(os.pread(kept, 9, 0), os.pread(target, 9, 0), os.stat(".").st_nlink, os.listdir(above), sorted(os.listdir(home)))
print(*(os.path.relpath(os.readlink(f"/proc/self/{which}"), home) for which in ("cwd", f"fd/{above}", f"fd/{kept}")))
assert os.readlink(f"/proc/{within.pid}/cwd") == f"{home}/outer/inner (deleted)"
within.kill()
if os.getuid() == 0:
    assert program.poll() is None and os.readlink(f"/proc/{program.pid}/exe") == f"{home}/above/below/program (deleted)"
    program.kill()
"""


def test_removed_directories_with_removed_files_that_are_used(run: Run) -> None:
    """CRIU makes them all again at a restore, took a directory away before what it had made in it, and left others."""

    def body(make: Make, home: Path) -> None:
        mover = make(PYTHON, "-c", START + REMOVED)
        at = mover.place("local")
        said(mover, SETTLED)
        for _ in range(2):
            at = at.move("local")
        (home / "go").touch()
        assert at.end() == 0, mover.err.decode()
        first, second = mover.out.decode()[len(SETTLED) :].splitlines()
        assert first == "b'kept' b'target' 0 [] ['go', 'store']"
        assert second == "above/below (deleted) above (deleted) above/below/kept (deleted)"

    run(body)


LINKED = """
import mmap
for name in ("tmp", "new", "bin"):
    os.mkdir(name)
def delivered(name):
    os.link(f"tmp/{name}", f"new/{name}")
    os.unlink(f"tmp/{name}")
mail = os.open("tmp/mail", os.O_RDWR | os.O_CREAT)
os.write(mail, b"mail")
with open("tmp/mapped", "w+b") as f:
    f.write(b"mapped")
    f.flush()
    mapped = mmap.mmap(f.fileno(), 6)
shutil.copy("/bin/sleep", "tmp/program")
program = subprocess.Popen(["tmp/program", "1000"])
while not os.readlink(f"/proc/{program.pid}/exe").endswith("/program"):
    time.sleep(.01)
for name in ("mail", "mapped", "program"):
    delivered(name)
wait("go")
os.write(mail, b" more")
mapped[0:1] = b"M"
mapped.flush()
print(os.path.relpath(os.readlink(f"/proc/self/fd/{mail}"), home), program.poll(), os.listdir("tmp"))
program.kill()
"""


@pytest.mark.long(lambda uid: not uid)
def test_files_whose_name_was_removed_while_they_have_another(run: Run) -> None:
    """As of a mail that is delivered, or a lock file that is made by link(2): CRIU asks for the name that is gone."""

    def body(make: Make, home: Path) -> None:
        mover = make(PYTHON, "-c", START + LINKED)
        at = mover.place("local")
        said(mover, SETTLED)
        assert at.checkpoint(1)["what"] == "committed"
        for _ in range(2):
            at = at.move("local")
        (home / "go").touch()
        assert at.end() == 0, mover.err.decode()
        assert mover.out.decode() == SETTLED + "new/mail None []\n"
        assert [(home / "new" / name).read_text() for name in ("mail", "mapped")] == ["mail more", "Mapped"]

    run(body)


TERMINAL = """
outer = os.open("/dev/tty", os.O_RDWR)
child, master = pty.fork()
if child == 0:
    os.dup2(os.open("/dev/tty", os.O_RDWR), 77)
    if sys.argv[1:]:
        os.closerange(0, 3)
    os.write(77, b"Inner: ")
    line = os.read(77, 99)
    again = os.open("/dev/tty", os.O_RDWR)
    os.write(77, b"got %s %r" % (line.strip(), os.tcgetpgrp(77) == os.tcgetpgrp(again)))
    os.read(77, 9)
    os._exit(0)
assert os.read(master, 7) == b"Inner: "
wait("go")
os.write(master, b"word\\n")
said = b""
while b"True" not in said and b"False" not in said:
    said += os.read(master, 99)
print("inner", said, flush=True)
os.write(master, b"\\n")
os.waitpid(child, 0)
os.write(outer, b"Password: ")
print("read", os.read(outer, 99), os.tcgetpgrp(outer) == os.getpgrp(), os.stat(outer).st_rdev == os.stat(0).st_rdev)
"""


def test_prompts_by_the_name_dev_tty(run: Run) -> None:
    """At the job's terminal, and at one that the job has made: CRIU knows a terminal by its own name."""

    def body(make: Make, home: Path) -> None:
        mover = make(PYTHON, "-c", START + TERMINAL, tty=True)
        at = mover.place("local")
        until(lambda: mover.out == b"ready\r\n", f"said {bytes(mover.out)!r}")
        assert at.checkpoint(1)["what"] == "committed"
        for _ in range(2):
            at = at.move("local")
        (home / "go").touch()
        until(lambda: b"Password: " in mover.out, f"no prompt: {bytes(mover.out)!r}")
        at.type(b"secret\n")
        assert at.end() == 0, bytes(mover.out)
        assert b"got word True" in mover.out, bytes(mover.out)
        assert b"read b'secret\\n' True True\r\n" in mover.out

    run(body)


@pytest.mark.long(lambda uid: not uid)
def test_a_terminal_that_is_open_as_dev_tty_only(run: Run) -> None:
    def body(make: Make, home: Path) -> None:
        mover = make(PYTHON, "-c", START + TERMINAL, "alone", tty=True)
        at = mover.place("local")
        until(lambda: mover.out == b"ready\r\n", f"said {bytes(mover.out)!r}")
        why = at.checkpoint(1)["why"]
        assert "has descriptor 77 (/dev/tty), of a terminal that nobody in the job has open by its own name" in why
        at.order("kill", 0)
        assert at.end() == 9

    run(body)


@pytest.mark.long(lambda wait, uid: wait == "sleep 14" or not uid)
@pytest.mark.parametrize("wait", ["while [ ! -e go ]; do sleep .1; done", "sleep 14"], ids=["told", "14 s"])
def test_script_whose_command_waits(run: Run, wait: str) -> None:
    """With no terminal of the job's own; the shell within has the one that script made as /dev/tty too."""

    def body(make: Make, home: Path) -> None:
        mover = make(
            "/usr/bin/script", "-qec", f"exec 9<>/dev/tty; touch begun; {wait}; echo end >&9; exit 3", "/dev/null"
        )
        began = time.monotonic()
        at = mover.place("local")
        until((home / "begun").exists, f"said {bytes(mover.out)!r}")
        for _ in range(2):
            at = at.move("local")
        (home / "go").touch()
        assert (at.end(), bytes(mover.out)) == (3 << 8, b"end\r\n")
        assert "sleep 14" not in wait or time.monotonic() - began >= 14

    run(body)


PROC = """
ids = []
def stay():
    ids.append(threading.get_native_id())
    while not os.path.exists(f"{home}/go"):
        time.sleep(.02)
threading.Thread(target=stay).start()
while not ids:
    time.sleep(.01)
child = subprocess.Popen(["sleep", "1000"])
me = os.getpid()
held = [os.open(path, os.O_RDONLY) for path in sys.argv[1].format(me=me, child=child.pid).split()]
apart = f"/proc/{me}/task/{ids[0]}/schedstat /proc/self/task/{ids[0]} /proc/{me}/fdinfo/1 /sys/class/net/lo/mtu"
for number, path in enumerate(apart.split(), 70):
    opened = os.open(path, os.O_RDONLY)
    os.dup2(opened, number)
    os.close(opened)
wait("close")
os.closerange(70, 74)
wait("go")
print([len(os.read(fd, 4)) for fd in held])
child.kill()
"""
KEPT = (
    "/proc/self/stat /proc/{child}/stat /proc/{me}/task/{me}/stat /proc/1/status /proc/meminfo"
    " /proc/net/dev /proc/sys/kernel/osrelease /sys/devices/system/cpu/online"
)


def test_files_of_the_kernel_are_kept_or_refused_before_anything_is_lost(run: Run) -> None:
    """Of a thread there is nothing below /proc when CRIU opens it: such an image went on nowhere."""

    def body(make: Make, home: Path) -> None:
        mover = make(PYTHON, "-c", START + PROC, KEPT)
        at = mover.place("local")
        said(mover, SETTLED)
        why = at.checkpoint(1)["why"]
        for number, of in (
            (70, "a thread or"),
            (71, "a thread or"),
            (72, "a thread or a descriptor"),
            (73, "this host"),
        ):
            (only,) = (part for part in why.split("; ") if f"has descriptor {number} (" in part)
            assert of in only
        assert why.count("has descriptor") == 4
        (home / "close").touch()
        said(mover, SETTLED * 2)
        for _ in range(2):
            at = at.move("local")
        (home / "go").touch()
        assert at.end() == 0, mover.err.decode()
        counts = mover.out.decode().splitlines()[-1]
        assert counts == "[4, 4, 4, 4, 4, 4, 4, 4]", counts

    run(body)


LEADER = """
def lead():
    leader = subprocess.Popen(["sh", "-c", "sleep 1000 >/dev/null & echo $!"], start_new_session=True, stdout=-1)
    return leader, int(leader.stdout.readline())
kept = lead()
leader, other = lead()
for pid in (kept[0].pid, leader.pid, other):
    if pid == other:
        os.kill(other, 9)
    while open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "Z":
        time.sleep(.01)
wait("close")
print(leader.wait())
wait("reap")
print(os.waitpid(other, 0)[1])  # it is ours: the job's first process takes the place of lost parents
wait("go")
os.kill(kept[1], 9)
"""


def test_a_session_of_which_all_have_ended_and_nobody_has_waited(run: Run) -> None:
    """criu hung when it was to make that again, and the job went on nowhere."""

    def body(make: Make, home: Path) -> None:
        ended = "has ended, as has the leader of its session, and its parent has not waited for it"
        mover = make(PYTHON, "-c", START + LEADER)
        at = mover.place("local")
        said(mover, SETTLED)
        assert ended in at.checkpoint(1)["why"]
        (home / "close").touch()
        said(mover, "ready\n0\nready\n")
        assert ended in at.checkpoint(2)["why"]
        (home / "reap").touch()
        said(mover, "ready\n0\nready\n9\nready\n")
        at = at.move("local")
        (home / "go").touch()
        assert at.end() == 0, mover.err.decode()

    run(body)


OTHERS = """
if os.fork() == 0:
    os.setgroups([4])
    os.setgid(5)
    os.setuid(6)
    wait("go")
    print(os.getresuid(), os.getresgid(), os.getgroups(), flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.where(lambda **params: params["uid"] == 0)
def test_a_process_that_has_changed_its_user(run: Run) -> None:
    """Its limits may be asked for by root with CAP_SYS_RESOURCE, which containers are often not given."""
    may = preflight.may_ask_limits(Path("/proc/self/status").read_text())

    def body(make: Make, home: Path) -> None:
        home.chmod(0o755)
        mover = make(PYTHON, "-c", START + OTHERS)
        at = mover.place("local")
        said(mover, SETTLED)
        heard = at.checkpoint(1)
        if not may:
            assert "has another user or group than root" in heard["why"]
            assert "CAP_SYS_RESOURCE is lacking" in heard["why"]
        else:
            at = at.move("local")
        (home / "go").touch()
        assert at.end() == 0, mover.err.decode()
        assert mover.out.decode() == SETTLED + "(6, 6, 6) (5, 5, 5) [4]\n"

    run(body)


def _task(pid: int, *targets: str, cwd: str = "/", ids: tuple[int, ...] = (0,) * 6) -> preflight.Task:
    fds = [preflight.Descriptor(number, target, 0o100000, (0, 0)) for number, target in enumerate(targets)]
    return preflight.Task(pid, pid, "name", fds, 0, 0, {}, [], frozenset(), cwd, ids)


def _refused(task: preflight.Task, *, rootless: bool = False, limits: bool = True) -> list[str]:
    return preflight.obstacles([task], preflight.Reach(rootless, limits))


@pytest.mark.parametrize(
    "target",
    [
        "/proc/5/task/6/stat", "/proc/5/task/56/stat", "/proc/5/task/6", "/proc/5/task/6/stat (deleted)",
        "/proc/5/fdinfo/3", "/proc/5/task/5/fdinfo/3", "/proc/irq/3/spurious", "/proc/5/net/dev_snmp6/eth0",
        "/proc/sys/net/ipv4/conf/eth0/forwarding", "/sys/class/net/lo/mtu", "/sys/devices/system/cpu/cpu7/online",
        "/sys/fs/cgroup/user.slice/memory.max",
    ],
)  # fmt: skip
def test_what_another_host_or_criu_does_not_have(target: str) -> None:
    (only,) = _refused(_task(5, target))
    assert only.startswith(f"process 5 (name) has descriptor 0 ({target}), ")


def test_what_every_host_has() -> None:
    every = (
        "/proc/5/stat", "/proc/5/task/5/stat", "/proc/5/task", "/proc/5/task/5", "/proc/5/fdinfo", "/proc/meminfo",
        "/proc/5/net/dev", "/proc/sys/kernel/pid_max", "/proc/sys/net/core/somaxconn", "/sys", "/home/proc/5/task/6/x",
        "/sys/fs/cgroup/memory.max", "/sys/devices/system/cpu/online", "/sys/kernel/mm/transparent_hugepage/enabled",
    )  # fmt: skip
    assert _refused(_task(5, *every)) == []


def test_another_user_only_where_its_limits_cannot_be_asked_for() -> None:
    task = _task(5, ids=(0, 0, 0, 0, 6, 6))
    assert _refused(task) == _refused(task, rootless=True, limits=False) == []
    (only,) = _refused(task, limits=False)
    assert only.startswith("process 5 (name) has another user or group than root")
    assert not preflight.may_ask_limits("CapBnd:\t000001fffeffffff\n")
    assert preflight.may_ask_limits("CapEff:\t0\nCapBnd:\t000001ffffffffff\n")


def test_removed_directories_of_which_one_between_is_not_held() -> None:
    """CRIU would leave that one behind, and could not take away the one above it."""
    ends = " (deleted)"
    assert _refused(_task(5, f"/a{ends}", f"/a/b{ends}", f"/c/d/e{ends}", "/x/y", cwd=f"/a/b/c{ends}")) == []
    (only,) = _refused(_task(5, f"/a{ends}", cwd=f"/a/b/c{ends}"))
    assert only.startswith("process 5 (name) holds the removed /a/b/c as its working directory, and one of the")
