"""The link breaks, and nobody notices: streams, files and locks are as if it never had."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from shim.wire import lease
from tests.program import Combo, Rexec
from tests.until import stop, until

Check = Callable[[str], AbstractContextManager[object]]
ECHO = 'while read line; do echo "$line" >>log; echo "$line"; done; echo "it has ended" >&2; exit 7'


@pytest.fixture
def remote(rexec: Rexec, place: Callable[[str], Path], nothing_left: Check) -> Iterator[Combo]:
    with nothing_left("alpha-alice"):
        yield Combo(rexec, as_user="rexecuser", on="alpha-alice", dir=place("rexecuser"))


def carriers(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The ssh programs that carry its session now."""
    found = []
    for each in psutil.Process(process.pid).children():
        with suppress(psutil.NoSuchProcess):
            if each.name() == "ssh" and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each)
    return found


def cut_here(process: subprocess.Popen[bytes], desk: ModuleType) -> None:
    for each in carriers(process):
        each.kill()


def cut_there(process: subprocess.Popen[bytes], desk: ModuleType) -> None:
    """As where sshd is started anew with its sessions, or the machine drops the connection."""
    for number, line in desk.processes("alpha").items():
        if line.startswith("sshd") and "alice" in line:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


def tell(process: subprocess.Popen[bytes], line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.flush()


def read(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.parametrize("cut", [cut_here, cut_there])
def test_a_job_goes_on_through_cuts_as_if_there_were_none(
    remote: Combo, desk: ModuleType, cut: Callable[[subprocess.Popen[bytes], ModuleType], None]
) -> None:
    with remote.popen(["sh", "-c", ECHO], stdin=subprocess.PIPE) as process:
        for number in range(3):
            for k in range(3):
                tell(process, b"line %d %d\n" % (number, k))
                got = read(process)
                assert got == b"line %d %d\n" % (number, k), process.communicate()
            cut(process, desk)
            tell(process, b"said while it was cut\n")
            assert read(process) == b"said while it was cut\n"
        out, err = process.communicate(b"the last\n", timeout=60)
        assert (process.returncode, out, err) == (7, b"the last\n", b"it has ended\n")
    expected = "".join(
        "".join(f"line {number} {k}\n" for k in range(3)) + "said while it was cut\n" for number in range(3)
    )
    assert (remote.dir / "log").read_text() == expected + "the last\n"


def away(process: subprocess.Popen[bytes], desk: ModuleType) -> None:
    """Nothing of alpha can be reached, and its ssh has ended."""
    desk.cut("alpha")
    cut_here(process, desk)


LOCKED = """
import fcntl, os, sqlite3, sys
db = sqlite3.connect("numbers.db")
db.execute("create table numbers (n integer primary key)")
gone = open("gone", "w+")
os.unlink("gone")
lock = open("lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
for number, line in enumerate(sys.stdin):
    with db:
        db.execute("insert into numbers values (?)", (number,))
    gone.write(line)
    os.mkdir(f"made-{number}")
    os.close(os.open(f"new-{number}", os.O_CREAT | os.O_EXCL))
    os.rename(f"new-{number}", f"old-{number}")
    print(number, flush=True)
gone.seek(0)
print(gone.read(), db.execute("select count(*), sum(n) from numbers").fetchone(), flush=True)
"""


def test_what_may_be_done_once_only_is_done_once_and_locks_stay(remote: Combo, desk: ModuleType) -> None:
    """An error of EEXIST or ENOENT would end the job: a request that was answered before the cut and done again."""
    taken = ["flock", "--nonblock", "lock", "true"]
    with remote.popen(
        ["python3", "-c", LOCKED], stdin=subprocess.PIPE, env={"PYTHONDONTWRITEBYTECODE": "1"}
    ) as process:
        for number in range(8):
            tell(process, b"x\n")
            if number % 2:
                cut_here(process, desk)  # in the middle of it
                assert remote.here(taken).returncode == 1
            assert read(process) == b"%d\n" % number
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, b"x\n" * 8 + b" (8, 28)\n", b"")
    assert remote.here(taken).returncode == 0
    assert {path.name for path in remote.dir.iterdir()} == {
        "numbers.db", "lock", *(f"{name}-{k}" for name in ("made", "old") for k in range(8)),
    }  # fmt: skip


def test_a_bulk_of_bytes_is_the_same_after_cuts_in_its_middle(remote: Combo, desk: ModuleType) -> None:
    """Both ways at once, with large frames under way."""
    data = os.urandom(1 << 20) * 24
    with remote.popen(["tee", "copy"], stdin=subprocess.PIPE) as process:
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(process.communicate(data)[0]))
        reader.start()
        copy = remote.dir / "copy"
        for share in (4, 3, 2):
            until(lambda share=share: copy.exists() and copy.stat().st_size > len(data) // share, "it is under way")  # type: ignore[misc]
            cut_here(process, desk)
        reader.join(60)
        assert process.returncode == 0
    assert got == [data] and copy.read_bytes() == data


def test_ctrl_c_ends_a_job_out_of_touch_at_once(remote: Combo, desk_alone: ModuleType) -> None:
    log = remote.dir / "log"
    options = ["--lease", "3s", "--json-log", str(log)]
    with remote.popen(["sh", "-c", "echo up; exec sleep 1000"], options=options) as process:
        assert read(process) == b"up\n"
        away(process, desk_alone)
        until(lambda: '"away"' in log.read_text(), "the cut is noticed")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == -signal.SIGINT
        said = process.communicate()[1].decode()
        there = f"nobody can tell alpha-alice, which ends the job itself within {lease.AGENT:.0f} s"
        assert said == f"rexec: the job has ended here; {there}\n"
    desk_alone.heal("alpha")


def test_a_person_is_told_once_that_the_host_is_away_and_that_it_is_back(remote: Combo, desk_alone: ModuleType) -> None:
    ours, theirs = os.openpty()
    with remote.popen(["sh", "-c", ECHO], stdin=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        tell(process, b"before\n")
        assert read(process) == b"before\n"
        away(process, desk_alone)
        said = b""
        while b"up to 40 min" not in said:
            said += os.read(ours, 4096)
        desk_alone.heal("alpha")
        tell(process, b"x\n")
        assert read(process) == b"x\n"
        while b"goes on" not in said:
            said += os.read(ours, 4096)
        assert process.communicate(b"")[0] == b""
    left = said.rpartition(b"\r\033[K")[2]  # what took long to start was said, and taken away again
    assert left.startswith(b"rexec: out of touch with ") and left.count(b"\n") == 2
    os.close(ours)


@pytest.mark.long(lambda **_: True)
@pytest.mark.parametrize("how", ["silence", "cut"])
def test_a_line_that_is_dead_for_20_seconds_costs_them_and_little_more(
    remote: Combo, desk_alone: ModuleType, how: str
) -> None:
    with remote.popen(["sh", "-c", ECHO], stdin=subprocess.PIPE) as process:
        tell(process, b"before\n")
        assert read(process) == b"before\n"
        getattr(desk_alone, how)("alpha")
        time.sleep(20)
        tell(process, b"x\n")
        desk_alone.heal("alpha")
        began = time.monotonic()
        assert read(process) == b"x\n"
        assert time.monotonic() - began < 6
        assert process.communicate(b"")[1] == b"it has ended\n"
    # The old sshd is told by TCP that its peer has gone when that tries again, which it does ever more seldom.
    there = desk_alone.processes("alpha").items()
    old = {number for number, line in there if line.startswith("sshd") and "alice" in line}
    until(lambda: not old & desk_alone.processes("alpha").keys(), "the old sshd has ended")


@pytest.mark.long(lambda **_: True)
def test_an_agent_that_was_stopped_for_longer_than_home_waits_goes_on(remote: Combo, desk: ModuleType) -> None:
    with remote.popen(["sh", "-c", ECHO], stdin=subprocess.PIPE) as process:
        tell(process, b"before\n")
        assert read(process) == b"before\n"
        (job,) = (number for number, line in desk.processes("alpha").items() if line.startswith("sh -c while read"))
        # there may be other tests' agents
        (agent,) = filter(is_outermost, (each.pid for each in psutil.Process(job).parents() if is_shipped(each)))
        stop(agent)
        time.sleep(lease.HOME + 10)
        os.kill(agent, signal.SIGCONT)
        tell(process, b"x\n")
        assert read(process) == b"x\n"
        assert process.communicate(b"")[1] == b"it has ended\n"


def is_shipped(process: psutil.Process) -> bool:
    return "-ISc" in process.cmdline()


def is_outermost(number: int) -> bool:
    """Is it the agent, and neither its keeper nor init nor a shell on the way there?"""
    parent = psutil.Process(number).parent()
    words = psutil.Process(number).cmdline()
    return parent is not None and "-ISc" not in " ".join(parent.cmdline()) and not words[0].endswith("sh")


def test_without_a_lease_a_job_ends_with_its_connection(remote: Combo, desk: ModuleType) -> None:
    with remote.popen(["sh", "-c", ECHO], stdin=subprocess.PIPE, options=["--lease", "0"]) as process:
        tell(process, b"before\n")
        assert read(process) == b"before\n"
        cut_here(process, desk)
        assert process.wait(60) == 125
        said = process.communicate()[1].decode()
    assert said.startswith("rexec: lost alpha-alice, and the job with it: ") and said.count("\n") == 1
