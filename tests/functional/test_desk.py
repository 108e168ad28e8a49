"""The bench itself: the hosts are apart from this machine, can be upset as a test likes, and leave nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from tests import apart, leftovers
from tests.desk_hosts import HOSTS, SUBMIT_USER, SYSTEM_SSH_CONFIG
from tests.desk_root import USERS
from tests.program import as_login
from tests.reachable import ROOT
from tests.until import until

Check = Callable[[str], AbstractContextManager[object]]


def ssh(name: str, command: str, *, user: str = "root") -> tuple[int, str, str]:
    with as_login(user, ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", name, command]) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out.decode(), err.decode()


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("user", ["root", SUBMIT_USER])
def test_every_account_is_reached_by_its_name(desk: ModuleType, user: str, name: str) -> None:
    for there in ("root", *USERS):
        status, out, _ = ssh(name if there == "root" else f"{name}-{there}", "id -un; hostname", user=user)
        assert (status, out.splitlines()[-2:]) == (0, [there, name])


def test_a_host_has_none_of_this_machines_files(desk: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    mounts = desk.run("alpha", ["cat", "/proc/self/mountinfo"]).splitlines()
    assert {line.partition(" - ")[2].split()[0] for line in mounts} == {"overlay", "proc", "sysfs", "tmpfs", "devpts"}
    there = desk.run("alpha", ["sh", "-c", f"ls -d {tmp_path} {ROOT} 2>/dev/null; which criu gcc rexec; echo end"])
    assert there == "end\n"


def test_a_noisy_account_is_noisy(desk: ModuleType) -> None:
    status, out, err = ssh("alpha-noisy", "echo done")
    assert (status, out) == (0, "Welcome! .bashrc speaking on stdout\ndone\n")
    assert "keystrokes" in err
    assert "cake" in err


def test_user_namespaces_are_forbidden_at_one_door_only(desk: ModuleType) -> None:
    status, _, err = ssh("alpha-nouserns", "cat /proc/sys/user/max_user_namespaces; unshare --user true")
    assert (status, "No space left" in err) == (1, True)
    assert ssh("alpha-alice", "unshare --user true")[0] == 0


def test_a_far_host_is_far(desk: ModuleType) -> None:
    started = time.monotonic()
    assert ssh("alpha-far100", "cat /etc/hostname") == (0, "alpha\n", "")
    # A TCP and key exchange, a login and a command: no ssh gets by with fewer than five round trips.
    assert time.monotonic() - started > 0.5


def test_a_far_host_carries_every_byte(desk: ModuleType) -> None:
    data = os.urandom(3_000_000)
    done = subprocess.run(["ssh", "alpha-far20", "cat"], input=data, capture_output=True, check=True)
    assert done.stdout == data


def test_a_narrow_line_carries_every_byte_and_no_faster(desk: ModuleType) -> None:
    data = os.urandom(1_000_000)
    started = time.monotonic()
    done = subprocess.run(["ssh", "alpha-far2-10mbit", "cat"], input=data, capture_output=True, check=True)
    assert done.stdout == data
    assert time.monotonic() - started > 0.8


def test_packages_come_and_go(desk_alone: ModuleType) -> None:
    desk_alone.install("alpha", ["criu", "less"])
    desk_alone.install("alpha", ["criu", "less"])
    assert "Version: 4.1.1" in ssh("alpha", "criu --version")[1]
    assert ssh("beta", "criu --version")[0] == 127
    desk_alone.uninstall("alpha", ["criu", "less"])
    assert ssh("alpha", "criu --version")[0] == 127


def test_dev_fuse_is_taken_away_and_given_back(desk_alone: ModuleType) -> None:
    opened = "exec 3<>/dev/fuse"
    desk_alone.dev_fuse("beta", present=False)
    assert ssh("beta-alice", opened)[0] != 0
    desk_alone.dev_fuse("beta", present=True)
    assert ssh("beta-alice", opened)[0] == 0


def test_a_cut_cable_holds_a_connection_up_and_no_more(desk_alone: ModuleType) -> None:
    with subprocess.Popen(["ssh", "beta", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"before\n")
        assert process.stdout.readline() == b"before\n"
        desk_alone.cut("beta")
        assert "No route to host" in ssh("beta", "true")[2]
        process.stdin.write(b"during\n")
        desk_alone.heal("beta")
        assert process.stdout.readline() == b"during\n"
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def test_a_host_without_power_is_silent_and_keeps_its_disk(desk_alone: ModuleType) -> None:
    ssh("beta", "echo kept >/root/kept; echo lost >/tmp/lost; sync")
    with subprocess.Popen(["ssh", "beta", "sleep 1000"], stdin=subprocess.DEVNULL) as process:
        try:
            until(lambda: "sleep 1000" in desk_alone.processes("beta").values(), "the remote sleep runs")
            during = desk_alone.processes("beta")
            desk_alone.power_off("beta")
            assert desk_alone.pid("beta") is None
            assert not [pid for pid in during if alive(pid)]
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=1)  # no FIN and no RST came: it cannot know
            desk_alone.power_on("beta")
        finally:
            process.kill()
    assert ssh("beta", "cat /root/kept; rm /root/kept; ls /tmp") == (0, "kept\n", "")


def test_several_may_want_it_up_at_once(desk_alone: ModuleType) -> None:
    desk_alone.power_off("alpha")
    desk_alone.power_off("beta")
    argv = [sys.executable, "-m", "tests.desk", "up"]
    callers = [subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    answers = {caller.communicate(timeout=60)[0] for caller in callers}
    assert [caller.returncode for caller in callers] == [0] * 4
    assert len(answers) == 1  # all saw the same two hosts


def test_down_leaves_nothing(desk_alone: ModuleType) -> None:
    desk_alone.up()
    processes = [pid for name in HOSTS for pid in desk_alone.processes(name)]
    desk_alone.down()
    assert not [pid for pid in processes if alive(pid)]
    assert f"{desk_alone.STATE}/" not in Path("/proc/self/mountinfo").read_text()
    assert "rexec-" not in subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    assert not list(Path("/run/netns").glob("rexec-*"))
    assert {path.name for path in desk_alone.STATE.iterdir()} <= {"lock"}
    assert not SYSTEM_SSH_CONFIG.exists()
    desk_alone.down()


OTHER = """
import sys
from tests import apart, desk
with apart.entered():
    desk.up()
    desk.run("alpha", ["touch", "/root/other"])
    print(desk.STATE, *(desk.pid(name) for name in desk.HOSTS), flush=True)
    sys.stdin.read()
"""


def other_run() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OTHER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_two_runs_have_a_desk_each(desk: ModuleType) -> None:
    with other_run() as process:
        assert process.stdin is not None and process.stdout is not None
        state, *hosts = process.stdout.readline().split()
        assert state == str(desk.STATE)
        assert not {int(pid) for pid in hosts} & {desk.pid(name) for name in HOSTS}
        assert ssh("alpha", "ls /root/other")[0] == 2
        process.stdin.close()
        assert process.wait(60) == 0
    assert not [pid for pid in hosts if alive(int(pid))]
    assert ssh("alpha", "hostname") == (0, "alpha\n", "")


def test_what_a_killed_run_leaves_goes_with_the_next(desk: ModuleType) -> None:
    with other_run() as process:
        assert process.stdout is not None
        hosts = [int(pid) for pid in process.stdout.readline().split()[1:]]
        process.kill()
    assert all(map(alive, hosts))
    before = set(apart.RUNS.iterdir())
    with other_run() as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert not [pid for pid in hosts if alive(pid)]
        assert len(before - set(apart.RUNS.iterdir())) >= 1
        process.communicate()
    assert ssh("alpha", "hostname") == (0, "alpha\n", "")


CLOSED = """
mount -t tmpfs tmpfs /mnt
mknod -m 600 /mnt/fuse c 10 229
mount --bind /mnt/fuse /dev/fuse
"$@"
stat -c %a /dev/fuse
"""
OPEN = """
import os, pwd
from tests import apart
from tests.desk_hosts import SUBMIT_USER
with apart.entered():
    os.setuid(pwd.getpwnam(SUBMIT_USER).pw_uid) if os.fork() == 0 else os._exit(os.wait()[1])
    os.close(os.open("/dev/fuse", os.O_RDWR))
    os._exit(0)
"""


def test_dev_fuse_is_open_to_the_ordinary_user_in_a_run_and_as_it_was_outside() -> None:
    argv = ["unshare", "--mount", "sh", "-ec", CLOSED, "sh", sys.executable, "-c", OPEN]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "600\n", "")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(leftovers, "PATIENCE", 0.2)
    yield


@pytest.mark.parametrize(
    ("mess", "mend"),
    [
        (
            "setsid sleep 1000 >/dev/null 2>&1 & echo $! >/run/desk-test",
            "kill $(cat /run/desk-test); rm /run/desk-test",
        ),
        ("touch /tmp/left", "rm /tmp/left"),
        ("touch /home/alice/.left", "rm /home/alice/.left"),
        ("mount -t tmpfs tmpfs /mnt", "umount /mnt"),
    ],
    ids=["process", "temporary file", "file", "mount"],
)
def test_what_is_left_on_a_host_is_seen(
    desk: ModuleType, nothing_left: Check, impatient: None, mess: str, mend: str
) -> None:
    with pytest.raises(AssertionError, match="\nalpha: "), nothing_left("alpha-alice"):
        desk.run("alpha", ["sh", "-c", mess])
    desk.run("alpha", ["sh", "-c", mend])


@pytest.mark.parametrize("user", ["root", SUBMIT_USER])
def test_what_is_left_here_is_seen(
    desk: ModuleType,
    nothing_left: Check,
    impatient: None,
    processes_end: list[subprocess.Popen[bytes]],
    user: str,
) -> None:
    message = rf"here: process \d+ of {user}: sleep 1000"
    with pytest.raises(AssertionError, match=message), nothing_left("local"):
        processes_end.append(as_login(user, ["sleep", "1000"]))


def test_a_run_that_leaves_nothing_passes(desk: ModuleType, nothing_left: Check) -> None:
    with nothing_left("alpha"):
        assert ssh("alpha-alice", "touch /tmp/a; sleep 0.2; rm /tmp/a")[0] == 0
