"""How a job ends, seen from the shell that started rexec; and the signals that reach it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from shim.wire import lease
from tests.program import Combo, as_login
from tests.until import until

# The other ways to run differ in nothing that these tests look at; test_filesystem.py takes them all.
pytestmark = pytest.mark.where(lambda combo="local-root", **_: combo in ("user-alice", "local-root"))

PYTHON = "/usr/bin/python3"
# Says which of the named signals reach it. sigwait, since a signal just before a pause would go unheard.
LISTENER = """
import signal, sys
heard = {getattr(signal, name) for name in sys.argv[1:]}
signal.pthread_sigmask(signal.SIG_BLOCK, heard)
print("ready", flush=True)
while True:
    print(signal.Signals(signal.sigwait(heard)).name, flush=True)
"""


def test_every_exit_code_comes_back(combo: Combo) -> None:
    for code in (0, 1, 2, 77, 124, 125, 126, 127, 128, 130, 255) if combo.on == "local" else (0, 255):
        assert combo.run(["sh", "-c", f"exit {code}"]).returncode == code


@pytest.mark.where(lambda combo, name: combo.startswith("local") or name in ("SIGKILL", "SIGINT"))
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM", "SIGINT", "SIGPIPE", "SIGABRT", "SIGUSR1"])
def test_rexec_dies_of_the_signal_the_job_died_of(combo: Combo, name: str) -> None:
    number = getattr(signal, name)
    done = combo.run(["sh", "-c", f"ulimit -c 0; kill -{int(number)} $$"])
    assert (done.returncode, done.stdout, done.stderr) == (-number, b"", b"")


def test_a_shell_sees_128_and_the_signal(combo: Combo) -> None:
    line = f"{combo.rexec.path} --on {combo.on} sh -c 'kill -TERM $$'; echo $?"
    with as_login(combo.as_user, ["bash", "-c", line], cwd=combo.dir) as process:
        assert process.communicate(timeout=60)[0] == b"143\n"


@pytest.mark.where(lambda combo, name: combo.startswith("local") or name in ("SIGTERM", "SIGUSR1"))
@pytest.mark.parametrize(
    "name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGALRM"]
)
def test_signals_reach_the_job(combo: Combo, name: str) -> None:
    with combo.popen([PYTHON, "-c", LISTENER, name, "SIGCONT"]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for _ in range(2):  # twice: it is passed on, and does not end rexec itself
            process.send_signal(getattr(signal, name))
            assert process.stdout.readline() == f"{name}\n".encode()
        process.send_signal(signal.SIGCONT)
        assert process.stdout.readline() == b"SIGCONT\n"
        process.send_signal(signal.SIGUSR1 if name == "SIGTERM" else signal.SIGTERM)
        assert process.wait(60) < 0


def test_signals_reach_the_whole_process_group(combo: Combo) -> None:
    shell = f"{PYTHON} -c '{LISTENER}' SIGUSR1 & trap 'echo shell' USR1; echo up; wait; wait; wait"
    with combo.popen(["sh", "-c", shell]) as process:
        assert process.stdout is not None
        assert {process.stdout.readline(), process.stdout.readline()} == {b"up\n", b"ready\n"}
        process.send_signal(signal.SIGUSR1)
        assert {process.stdout.readline(), process.stdout.readline()} == {b"SIGUSR1\n", b"shell\n"}
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM


@pytest.mark.where(lambda combo: combo == "user-alice")
def test_stopped_and_continued(combo: Combo) -> None:
    count = "import time\nfor n in range(10000): print(n, flush=True); time.sleep(0.05)"
    with combo.popen([PYTHON, "-c", count]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"0\n"
        process.send_signal(signal.SIGTSTP)
        here = psutil.Process(process.pid)
        until(lambda: here.status() == psutil.STATUS_STOPPED, "rexec stops as its job does")
        os.set_blocking(process.stdout.fileno(), False)
        while process.stdout.read():
            pass
        time.sleep(lease.AGENT + 1)  # longer than the host waits: a stopped job is not a lost one
        assert not process.stdout.read()
        os.set_blocking(process.stdout.fileno(), True)
        process.send_signal(signal.SIGCONT)
        assert process.stdout.readline()
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM


def test_ctrl_c_ends_a_shell_s_loop(combo: Combo) -> None:
    # `exec`: a dash that is hit while it forks goes on with a child that was not, at home too
    loop = f"for n in 1 2 3; do {combo.rexec.path} --on {combo.on} sh -c 'echo up; exec sleep 1000'; done; echo after"
    with as_login(combo.as_user, ["bash", "-c", loop], cwd=combo.dir) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does: the shell and rexec get it both
        assert process.wait(60) == -signal.SIGINT
        assert process.stdout.read() == b""


def caught(process: subprocess.Popen[bytes]) -> set[int]:
    """The signals that a process has handlers for: SigCgt of proc_pid_status(5)."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    mask = int(re.search(r"^SigCgt:\s*(\S+)$", status, re.MULTILINE)[1], 16)
    return {number for number in range(1, 65) if mask >> number - 1 & 1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_there_is_a_job_ends_rexec(combo: Combo, number: signal.Signals) -> None:
    for delay in (0, 0.1, 0.25, 0.4):
        with combo.popen(["sleep", "1000"]) as process:
            # Python itself ends with status 1 at an interrupt before any program of its own is begun.
            until(lambda: signal.SIGTERM in caught(process), "rexec runs")
            time.sleep(delay)  # at whatever stage of the start that is
            process.send_signal(number)
            assert process.wait(60) == -number


def test_an_ignored_signal_stays_ignored(combo: Combo) -> None:
    argv = ["nohup", str(combo.rexec.path), "--on", combo.on, "sh", "-c", "echo up; read line; echo $line"]
    with as_login(combo.as_user, argv, cwd=combo.dir, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGHUP)
        process.stdin.write(b"still here\n")
        process.stdin.close()
        assert process.stdout.read() == b"still here\n"
        assert process.wait(60) == 0


def test_what_the_job_leaves_running_ends_with_it(combo: Combo) -> None:
    done = combo.run(["sh", "-c", "setsid sleep 1000 & setsid nohup sleep 1000 >/dev/null 2>&1 & echo done"])
    assert (done.returncode, done.stdout) == (0, b"done\n")


def test_a_job_may_catch_what_would_end_it(combo: Combo) -> None:
    with combo.popen(["sh", "-c", "trap 'echo caught; exit 7' TERM; echo up; while :; do sleep 0.1; done"]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.terminate()
        assert process.wait(60) == 7
        assert process.stdout.read() == b"caught\n"
