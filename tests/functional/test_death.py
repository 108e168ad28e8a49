"""Whatever dies, whenever: within five seconds nothing of the job is left on the execute host, nor here.

Of a network that is silent, and of an rexec that was killed where there is one: once the lease is over
(shim/wire/lease.py). That a job outlives its ssh is in test_reconnect.py.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from shim.wire import lease
from tests.leftovers import GONE_WITHIN, Left
from tests.program import Combo, Rexec
from tests.until import HANG, soon, stop, until

# The other ways to run differ in nothing that these tests look at; test_filesystem.py takes them all.
pytestmark = pytest.mark.where(lambda combo="local-root", **_: combo in ("user-alice", "local-root"))

Check = Callable[[str], AbstractContextManager[Left]]
BUSY = "while :; do dd if=/dev/zero of=big bs=64k count=64 conv=notrunc 2>&1; cat big; ls -l /usr/bin; done >/dev/null"
JOBS = {"idle": "sleep 1000", "busy": BUSY, "many": "for n in 1 2 3 4 5 6; do (" + BUSY + ") & done; setsid sleep 1000"}


def tree(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def seen(on: str, desk: ModuleType, here: psutil.Process | None = None) -> list[psutil.Process]:
    """What runs of the runtime there now, outermost first; on `local` only what `here` started."""
    if on == "local":
        assert here is not None
        found = [p for p in here.children(recursive=True) if "-ISc" in words(p)]
    else:
        found = []
        for number, line in desk.processes(on.partition("-")[0]).items():
            with suppress(psutil.NoSuchProcess):  # it has ended since they were listed
                found += [psutil.Process(number)] if "-ISc" in line else []
        found = [p for p in found if not words(p)[0].endswith("sh")]
    depths = [(_depth(p), p.pid, p) for p in found]
    return [p for depth, _, p in sorted(depths, key=lambda each: each[:2]) if depth]


def _depth(process: psutil.Process) -> int:
    """How many processes are above it; 0: it has ended while we looked."""
    try:
        return len(process.parents())
    except psutil.NoSuchProcess:
        return 0


def shipped(on: str, desk: ModuleType, here: psutil.Process) -> list[psutil.Process]:
    """Agent, keeper and init of the one job there, outermost first; those of an earlier one may just be ending."""

    def three() -> list[psutil.Process] | None:
        found = seen(on, desk, here)
        return found if len(found) == 3 else None

    return until(three, "agent, keeper and init") or []


def words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline() or [""]
    except psutil.NoSuchProcess:
        return [""]


def started(combo: Combo, job: str, lease: str = "40m") -> subprocess.Popen[bytes]:
    process = combo.popen(["sh", "-c", f"echo up; {job}"], options=["--lease", lease])
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    time.sleep(0.3)  # into the thick of it
    return process


@pytest.mark.where(lambda combo, job, who: combo == "user-alice" or (job != "many" and combo != "user-root"))
@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("who", ["rexec", "agent", "keeper", "init"])
def test_killed(combo: Combo, desk: ModuleType, who: str, job: str, nothing_left: Check) -> None:
    def killed() -> float:
        with nothing_left(combo.on) as left:
            process = started(combo, JOBS[job], "1s" if who == "rexec" and combo.on != "local" else "40m")
            here = psutil.Process(process.pid)
            agent, keeper, init = shipped(combo.on, desk, here)
            victim = {"rexec": here, "agent": agent, "keeper": keeper, "init": init}[who]
            victim.kill()
            status = process.wait(HANG)
            assert process.stderr is not None
            said = process.stderr.read().decode()
            if who == "rexec":
                assert status == -signal.SIGKILL
            else:
                assert status == 125
                assert said.startswith("rexec: ")
                assert said.count("\n") == 1
            process.stdout.close()  # type: ignore[union-attr]
            process.stderr.close()
        return left.took

    soon(killed, GONE_WITHIN, tries=3)


@pytest.mark.where(lambda combo: combo == "user-alice")
def test_rexec_killed_long_before_its_lease_is_over(combo: Combo, nothing_left: Check) -> None:
    """Its host waits for 40 minutes where a line is cut: whoever was left here says that nobody comes."""

    def killed() -> float:
        with nothing_left(combo.on) as left:
            process = started(combo, JOBS["idle"])
            until(lambda: waits(process.pid), "somebody is left who waits for its end")
            process.kill()
            process.wait(HANG)
            process.stdout.close()  # type: ignore[union-attr]
            process.stderr.close()  # type: ignore[union-attr]
        return left.took

    def waits(number: int) -> bool:
        return any("shim.submit.hosts.orphaned" in " ".join(words(each)) for each in psutil.Process(number).children())

    soon(killed, GONE_WITHIN, tries=3)


@pytest.mark.parametrize("delay", [0.05, 0.15, 0.25, 0.35, 0.45, 0.6])
def test_rexec_killed_while_it_starts(combo: Combo, delay: float, nothing_left: Check) -> None:
    def killed() -> float:
        options = ["--lease", "1s"]
        with nothing_left(combo.on) as left, combo.popen(["sh", "-c", JOBS["busy"]], options=options) as process:
            time.sleep(delay)
            process.kill()
            process.wait(HANG)
        return left.took

    soon(killed, GONE_WITHIN, tries=3)


@pytest.mark.long(lambda **_: True)  # that nothing TCP needs is longer than the leases is in test_lease.py
@pytest.mark.parametrize("seconds", [2.0, 2.8, lease.SILENCE])
def test_a_silence_of_the_network_is_no_end(
    rexec: Rexec, desk_alone: ModuleType, place: Callable[[str], Path], seconds: float
) -> None:
    """What TCP sends again comes long after the network is back: it has doubled the time between its tries by then."""
    combo = Combo(rexec, as_user="rexecuser", on="beta-alice", dir=place("rexecuser"))
    processes = []
    for _ in range(10):  # each at another moment of the pulse
        processes.append(combo.popen(["sh", "-c", "echo up; while [ ! -e end ]; do sleep .1; done; echo done"]))
        time.sleep(0.1)
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
    desk_alone.silence("beta")
    time.sleep(seconds)
    desk_alone.heal("beta")
    time.sleep(lease.HOME)  # whoever gives up has done so
    (combo.dir / "end").touch()
    assert [process.communicate(timeout=HANG) for process in processes] == [(b"done\n", b"")] * len(processes)


@pytest.mark.long(lambda **_: True)
@pytest.mark.parametrize("on, job", [("beta", "idle"), ("beta-alice", "busy")])
def test_cable_pulled(
    rexec: Rexec, desk_alone: ModuleType, place: Callable[[str], Path], on: str, job: str, nothing_left: Check
) -> None:
    combo = Combo(rexec, as_user="rexecuser", on=on, dir=place("rexecuser"))
    with nothing_left(on):
        process = started(combo, JOBS[job], "15s")
        desk_alone.cut("beta")
        until(lambda: not seen(on, desk_alone), "the job is gone from a host nobody hears", within=15 + lease.AGENT)
        assert process.poll() is None, "home gives up later than the host"
        assert process.wait(lease.HOME + 15 + 2 * lease.LOST) == 125
        err = process.communicate()[1]
        assert err.startswith(f"rexec: lost {on}, and the job with it: it has been out of touch for its lease".encode())
        assert err.count(b"\n") == 1
        desk_alone.heal("beta")


@pytest.mark.long(lambda **_: True)  # to who is here a cable that is pulled is the same
def test_power_cut(rexec: Rexec, desk_alone: ModuleType, place: Callable[[str], Path]) -> None:
    combo = Combo(rexec, as_user="rexecuser", on="beta-alice", dir=place("rexecuser"))
    process = started(combo, "sleep 1000")
    desk_alone.power_off("beta")
    desk_alone.power_on("beta")
    assert process.wait(4 * lease.HOME) == 125
    assert process.communicate()[1].startswith(b"rexec: lost beta-alice, and the job with it: ")


def test_scratch_goes_with_whoever_was_killed(combo: Combo, desk: ModuleType, nothing_left: Check) -> None:
    (combo.dir / "private").mkdir()
    if combo.on != "local":  # the directory's copy in the overlay that is the host's disk is none of rexec's
        desk.run("alpha", ["sh", "-c", "mkdir /var/tmp/x && rmdir /var/tmp/x"])
    for who in range(4):
        with nothing_left(combo.on):
            job = "mkdir private/deep; echo x >private/deep/file; chmod 0 private/deep; echo up; sleep 1000"
            options = ["--lease", "1s", "--scratch", str(combo.dir / "private")]
            process = combo.popen(["sh", "-c", job], options=options)
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            assert list((combo.dir / "private").iterdir()) == []
            (
                psutil.Process(process.pid) if who == 3 else shipped(combo.on, desk, psutil.Process(process.pid))[who]
            ).kill()
            process.communicate(timeout=HANG)


# Its page is to be written out before the lock is given up. It is changed before home stands still too: the first
# change may have to wait until other dirty pages are written (balance_dirty_pages in mm/page-writeback.c). And all that
# it does then is done once before: what of the interpreter was not executed yet is read from home.
UNLOCKS = """
import fcntl, mmap, os, signal
file = open("held", "w+b")
file.truncate(4096)
page = mmap.mmap(file.fileno(), 4096)
page[0]
fcntl.lockf(file, fcntl.LOCK_EX)
page[0] = 1
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
for last in (False, True):
    if last:
        print("up", flush=True)
    else:
        os.kill(os.getpid(), signal.SIGUSR1)
    signal.sigwait([signal.SIGUSR1])
    page[0] = 2
    fcntl.lockf(file, fcntl.LOCK_UN)
    fcntl.lockf(file, fcntl.LOCK_EX)
    page[0] = 1
"""


def test_an_agent_that_is_killed_while_the_kernel_waits_for_it(
    combo: Combo, desk: ModuleType, nothing_left: Check
) -> None:
    """A thread of it has the page written out, which the agent itself would pass on: it cannot end by itself."""
    with nothing_left(combo.on):
        process = combo.popen(["/usr/bin/python3", "-c", UNLOCKS], options=["--sync"])  # home has its locks
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        here = psutil.Process(process.pid)
        agent, _, init = shipped(combo.on, desk, here)
        stop(here.pid)
        try:
            job = next(p for p in init.children() if UNLOCKS in words(p))
            job.send_signal(signal.SIGUSR1)
            until(lambda: any("launder" in stack or "writeback" in stack for stack in stacks(agent)), "a thread waits")
            agent.kill()
            until(lambda: len(stacks(agent)) < 2, "all threads of the agent end", within=HANG)
        finally:
            here.resume()
        assert process.wait(HANG) == 125
        process.stdout.close()
        assert process.stderr is not None
        process.stderr.close()


def stacks(process: psutil.Process) -> list[str]:
    """Where each of its threads is in the kernel."""
    found = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            found.append((task / "stack").read_text())
    return found
