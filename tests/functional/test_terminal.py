"""A job with a terminal, and the person's own terminal afterwards: in tmux, key by key."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import ModuleType

import psutil
import pytest

from shim.wire import lease
from tests.program import MARK, Combo
from tests.screen import Screen
from tests.until import until

# The other ways to run differ in nothing that these tests look at; test_filesystem.py takes them all.
pytestmark = pytest.mark.where(lambda combo="local-root", **_: combo in ("user-alice", "local-root"))


@pytest.fixture
def screen(combo: Combo) -> Iterator[Screen]:
    shown = Screen(combo.as_user, combo.dir)
    yield shown
    shown.close()


@pytest.fixture
def rx(combo: Combo) -> str:
    return f"{combo.rexec.path} --on {combo.on}"


def rexec_here(combo: Combo) -> psutil.Process:
    return next(p for p in psutil.process_iter(["cmdline"]) if str(combo.rexec.path) in (p.info["cmdline"] or ()))


def running(*argv: str) -> bool:
    name, _, session = MARK.partition("=")
    return any(
        p.info["cmdline"] == list(argv) and (p.info["environ"] or {}).get(name) == session
        for p in psutil.process_iter(["cmdline", "environ"])
    )


def test_a_terminal_by_default(combo: Combo, screen: Screen, rx: str) -> None:
    shown = screen.run(f"{rx} sh -c 'tty; stty size; test -t 0 -a -t 1 -a -t 2 && echo three; ls -l /dev/pts'")
    assert "/dev/pts/0" in shown
    assert "30 100" in shown
    assert "three" in shown
    assert "not a tty" in screen.run(f"{rx} --no-tty sh -c 'tty; true'")


def test_standard_error_stays_apart_where_it_is_no_terminal(combo: Combo, screen: Screen, rx: str) -> None:
    screen.run(f"{rx} sh -c 'echo out; echo err >&2; test -t 2 || echo apart' 2>errors")
    assert (combo.dir / "errors").read_bytes() == b"err\n"
    assert "apart" in screen.text()


def test_settings_travel_and_resize_follows(screen: Screen, rx: str) -> None:
    screen.run("stty intr ^X")
    assert "intr = ^X" in screen.run(f"{rx} stty -a")
    screen.run("stty intr ^C")
    screen.type(f"{rx} sh -c 'trap \"stty size\" WINCH; echo up; while :; do sleep 0.1; done'")
    screen.wait("^up$")
    screen.resize(77, 21)
    screen.wait("^21 77$")
    screen.key("C-c")
    screen.wait(r"^READY>$")


def test_ctrl_c_ends_the_job_and_the_loop(screen: Screen, rx: str) -> None:
    screen.type(f"for n in 1 2 3; do {rx} sh -c 'echo up; exec sleep 1000'; done; echo not-this")
    screen.wait("^up$")
    screen.key("C-c")
    screen.wait(r"^READY>$")
    assert screen.text().count("up\n") == 1
    assert "\nnot-this" not in screen.text()
    screen.type(f"bash -c 'for n in 1 2 3; do {rx} sleep 1000; done'")
    until(lambda: running("sleep", "1000"), "the job runs")
    screen.key("C-c")
    screen.wait("C\nREADY>$")
    assert "130" in screen.run("echo $?")


@pytest.mark.where(lambda combo, option: (combo == "user-alice") == (option == ""))
@pytest.mark.parametrize("option", ["", "--no-tty"])
def test_ctrl_z_and_fg(screen: Screen, rx: str, option: str) -> None:
    before = screen.settings()
    screen.type(f"{rx} {option} sh -c 'echo up; while :; do sleep 0.2; echo tick >&2; done'")
    screen.wait("^tick$")
    screen.key("C-z")
    screen.wait("Stopped")
    screen.wait(r"^READY>$")
    assert screen.settings() == before
    stopped = 0 if option else lease.AGENT + 1  # longer than the host waits; without a terminal: test_signals.py
    screen.type(f"clear; sleep {stopped}; fg")
    screen.wait("^tick$")
    screen.key("C-c")
    screen.wait(r"^READY>$")
    assert screen.settings() == before


def test_background_and_back(combo: Combo, screen: Screen, rx: str) -> None:
    before = screen.settings()
    screen.type(f"{rx} sh -c 'read line; echo got $line; sleep 1; echo $line >done' &")
    until(lambda: running("sh", "-c", "read line; echo got $line; sleep 1; echo $line >done"), "the job runs")
    shown = screen.run("echo typed to the shell")
    assert "typed to the shell" in shown
    assert "Running" in screen.run("sleep 2; jobs")
    assert screen.settings() == before
    screen.type("fg")
    screen.wait("^fg|READY> fg")
    screen.type("hello")
    screen.wait("^got hello")
    screen.wait(r"^READY>$")
    assert (combo.dir / "done").read_text() == "hello\n"
    assert screen.settings() == before


def test_no_tty_in_the_background_is_not_stopped(screen: Screen, rx: str) -> None:
    screen.type(f"{rx} --no-tty sh -c 'sleep 1; echo over' &")
    screen.wait("over$")
    assert "status 0" in screen.run("wait $!; echo status $?")


def test_a_terminal_that_is_closed_is_hung_up_for_the_job(combo: Combo, screen: Screen, rx: str) -> None:
    hears = "trap 'trap \"\" HUP; echo heard >told' HUP; echo up; until [ -s told ]; do sleep 0.1; done"
    (combo.dir / "job").write_text(f"{hears}; seq 100000; echo $? >>told; read line; echo $? >>told\n")
    screen.type(f"{rx} sh job")
    screen.wait("^up$")
    screen.close()
    until(lambda: (combo.dir / "told").exists() and len((combo.dir / "told").read_text().split()) == 3, "it has ended")
    assert (combo.dir / "told").read_text() == "heard\n1\n1\n"


def test_vim(combo: Combo, screen: Screen, rx: str) -> None:
    before = screen.settings()
    screen.type(f"{rx} vim -u NONE -N file")
    screen.wait("^~$")
    screen.key("i")
    screen.type("first line")
    screen.key("Escape")
    screen.resize(60, 20)
    screen.key("C-z")
    screen.wait("Stopped")
    screen.type("fg")
    screen.wait("^first line$")
    screen.type(":wq")
    screen.wait(r"^READY>$")
    assert (combo.dir / "file").read_text() == "first line\n\n"
    screen.resize(100, 30)
    until(lambda: screen.settings() == before, "its settings are those of before")  # tmux resizes it a moment later


def test_less_python_and_top(combo: Combo, screen: Screen, rx: str) -> None:
    (combo.dir / "long").write_text("".join(f"line {n}\n" for n in range(1000)))
    screen.type(f"{rx} less long")
    screen.wait("^line 0$")
    screen.key("G")
    screen.wait("^line 999$")
    screen.key("q")
    screen.wait(r"^READY>$")
    screen.type(f"{rx} /usr/bin/python3")
    screen.wait("^>>>$")
    screen.type("print(6 * 7, flush=True)")
    screen.wait("^42$")
    screen.key("Up")
    screen.wait(r">>> print\(6 \* 7, flush=True\)$")
    screen.key("C-c")
    screen.wait("KeyboardInterrupt")
    screen.key("C-d")
    screen.wait(r"^READY>$")
    screen.type(f"{rx} top")
    screen.wait("PID USER")
    screen.key("q")
    screen.wait(r"^READY>$")


def test_a_shell_inside_has_job_control(screen: Screen, rx: str) -> None:
    screen.type(f"{rx} env PS1='THERE> ' bash --norc --noprofile")
    screen.wait("^THERE>$")
    screen.type("sleep 1000")
    until(lambda: running("sleep", "1000"), "sleep runs")  # before that ^Z is the shell's, which ignores it
    screen.key("C-z")
    screen.wait("Stopped")
    assert "no job control" not in screen.text()
    # `wait` alone says nothing of a job that has ended before it: bash(1) tells its status all the same by its number
    screen.type("bg; jobs; kill %1; wait %1; echo ended $?")
    screen.wait("^ended 143$")
    screen.key("C-d")
    screen.wait(r"^READY>$")


@pytest.mark.parametrize("victim", ["job", "agent", "rexec"])
def test_the_terminal_is_restored_whatever_happens(
    combo: Combo, desk: ModuleType, screen: Screen, rx: str, victim: str
) -> None:
    before = screen.settings()
    screen.type(f"{rx} sh -c 'stty raw -echo; echo up; sleep 1000'")
    screen.wait("^ *up")
    here = rexec_here(combo)
    if victim == "rexec":
        here.send_signal(signal.SIGTERM)
    else:
        processes = desk.processes("alpha").items() if combo.on != "local" else [
            (p.pid, " ".join(p.cmdline())) for p in here.children(recursive=True)
        ]  # fmt: skip
        pids = [pid for pid, line in processes if "sh -c stty raw" in line and "bash -c" not in line]
        found = psutil.Process(min(pids))
        if victim == "agent":  # of this very job: others' may wait there
            found = [each for each in found.parents() if "-ISc" in " ".join(each.cmdline())][-1]
        found.kill()
    screen.wait(r"READY>$")
    screen.run("true")
    assert screen.settings() == before
