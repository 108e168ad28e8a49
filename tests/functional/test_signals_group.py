"""A signal for a whole process group is the job's, whatever carries its words: it hears of it once, and has the last.

`timeout` sends one, as do a terminal's keys, a shell that hangs up, and `kill -- -PGID` in a script.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import ModuleType

import psutil
import pytest

from checkpoint.submit import obtain_criu
from tests.desk_root import give_criu
from tests.program import Combo, as_login
from tests.screen import Screen
from tests.until import until

pytestmark = pytest.mark.where(lambda combo="root-root", **_: combo in ("root-root", "user-alice", "local-user"))
ONE = pytest.mark.where(lambda combo, **_: combo == "user-alice")

# Prints what it hears of, one signal a line, and ends with 7 at the second one; sigwait, so that none goes unheard.
LISTENER = """
import signal, sys
heard = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
signal.pthread_sigmask(signal.SIG_BLOCK, heard)
print("up", flush=True)
for _ in range(2):
    print(signal.Signals(signal.sigwait(heard)).name, flush=True)
print("last words", flush=True)
sys.exit(7)
"""
LAST_WORDS = "trap 'echo last words; exit 7' INT TERM HUP QUIT; echo up; while :; do sleep 0.1; done"
# What people name as ProxyCommand is often a program that sets its handlers whatever it was started with.
PROXY = """
import os, select, signal, socket, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, lambda *_: os._exit(1))
far = socket.create_connection((sys.argv[1], int(sys.argv[2])))
while True:
    for end in select.select([0, far], [], [])[0]:
        data = os.read(0, 65536) if end == 0 else far.recv(65536)
        if not data:
            os._exit(0)
        far.sendall(data) if end == 0 else os.write(1, data)
"""
Way = Callable[[str], Combo]


@pytest.fixture(autouse=True)
def criu_kept(combo: Combo, kept: obtain_criu.Bundle) -> None:
    """What --checkpoint sends to the host, where the combination's own configuration has it: see `environment`."""
    give_criu(kept, combo.dir / "data", combo.as_user)


@pytest.fixture
def way(combo: Combo, desk: ModuleType) -> Iterator[Way]:
    """way(name) is the combination by another way to its host: `plain`, `proxy`, `jump`, `shared` or `paramiko`."""
    with ExitStack() as stack:

        def take(name: str) -> Combo:
            if name == "plain":
                return combo
            options: list[str] = []
            if name == "jump":
                options = ["-o", "ProxyJump=alpha-alice"]
            elif name in ("proxy", "paramiko"):
                (combo.dir / "proxy.py").write_text(PROXY)
                address = desk.HOSTS["alpha"].address
                options = ["-o", f"ProxyCommand=/usr/bin/python3 {combo.dir}/proxy.py {address} 22"]
            elif name == "shared":
                options = ["-o", f"ControlPath={combo.dir}/control"]
                shared(combo, stack)
            _configure(combo, combo.on, options)
            return Combo(combo.rexec, combo.as_user, "there", combo.dir)

        yield take


def shared(combo: Combo, stack: ExitStack) -> None:
    """A connection that was there before, as with ControlMaster and ControlPersist."""
    argv = ["ssh", "-N", "-o", "ControlMaster=yes", "-o", f"ControlPath={combo.dir}/control", combo.on]
    master = stack.enter_context(as_login(combo.as_user, argv, stderr=subprocess.DEVNULL))
    stack.callback(master.kill)  # ssh looks for a SIGTERM before it waits: one that comes in between is seen next time
    until((combo.dir / "control").exists, "the shared connection stands")


def _configure(combo: Combo, ssh: str, options: list[str]) -> None:
    """Name the host `there` in a configuration of the combination's own: see `environment`."""
    file = combo.dir / "config" / "rexec" / "hosts.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"[host.there]\nssh = {ssh!r}\noptions = {options!r}\n")


def environment(combo: Combo, *, without_ssh: bool = False) -> dict[str, str]:
    found = {f"XDG_{name}_HOME": str(combo.dir / name.lower()) for name in ("STATE", "DATA", "CONFIG")}
    return {**found, "PATH": "/nowhere"} if without_ssh else found


def start(
    combo: Combo, script: list[str], *, way: str = "plain", checkpoint: bool = False, lease: str = "40m"
) -> subprocess.Popen[bytes]:
    options = ["--checkpoint", "--owner", "none"] if checkpoint else ["--lease", lease]
    return combo.popen(script, options=options, env=environment(combo, without_ssh=way == "paramiko"))


PYTHON = "/usr/bin/python3"


def under_timeout(combo: Combo, checkpoint: bool, *timeout: str) -> subprocess.Popen[bytes]:
    options = ["--checkpoint", "--owner", "none"] if checkpoint else []
    argv = ["timeout", *timeout, combo.rexec.path, "--on", combo.on, *options, "--", "/bin/sh", "-c", LAST_WORDS]
    return as_login(combo.as_user, argv, cwd=combo.dir, env=environment(combo))


@ONE
@pytest.mark.parametrize("preserve", [["--preserve-status"], []], ids=["its-status", "124"])
def test_timeout(combo: Combo, preserve: list[str]) -> None:
    with under_timeout(combo, False, *preserve, "6") as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (7 if preserve else 124, b"up\nlast words\n"), err


@pytest.mark.parametrize("checkpoint", [False, True], ids=["plain", "checkpoint"])
def test_timeout_that_is_ended_itself(combo: Combo, checkpoint: bool) -> None:
    """It passes on what it gets, as what it sends when the time is over: to its child, then to the whole group."""
    with under_timeout(combo, checkpoint, "--preserve-status", "100") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.terminate()
        assert process.stdout.read() == b"last words\n"
        assert process.wait(60) == 7


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT"])
@pytest.mark.parametrize("checkpoint", [False, True], ids=["plain", "checkpoint"])
@pytest.mark.parametrize("by", ["plain", "proxy", "jump", "shared", "paramiko"])
@pytest.mark.where(
    lambda combo, name, by, checkpoint: (
        (name == "TERM" or combo == "user-alice")
        if by == "plain"
        else (combo == "user-alice" and name == "INT" and (by == "shared" or not checkpoint))
    )
)
def test_a_signal_to_the_group(combo: Combo, way: Way, by: str, checkpoint: bool, name: str) -> None:
    """The job hears of it once, goes on, and has its say and its status in the end."""
    with start(way(by), [PYTHON, "-c", LISTENER], way=by, checkpoint=checkpoint) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n", process.stderr and process.stderr.read()
        os.killpg(process.pid, getattr(signal, f"SIG{name}"))
        assert process.stdout.readline() == f"SIG{name}\n".encode()
        os.killpg(process.pid, signal.SIGUSR1)
        assert process.stdout.read() == b"SIGUSR1\nlast words\n"
        assert process.wait(60) == 7


@ONE
@pytest.mark.parametrize("by", ["plain", "proxy", "shared"])
def test_stopped_with_its_group(combo: Combo, way: Way, by: str) -> None:
    with start(way(by), [PYTHON, "-c", LISTENER], way=by) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        os.killpg(process.pid, signal.SIGTSTP)
        here = psutil.Process(process.pid)
        until(lambda: here.status() == psutil.STATUS_STOPPED, "rexec stops as its job does")
        os.killpg(process.pid, signal.SIGCONT)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.stdout.readline() == b"SIGTERM\n"
        os.killpg(process.pid, signal.SIGTERM)
        assert process.stdout.read() == b"SIGTERM\nlast words\n"
        assert process.wait(60) == 7


@ONE
@pytest.mark.parametrize("by", ["plain", "jump"])
def test_nothing_is_left_of_a_killed_group(combo: Combo, way: Way, by: str) -> None:
    with start(way(by), [PYTHON, "-c", LISTENER], way=by, lease="1s") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL  # and the combination looks for what is left


# at a terminal


@pytest.fixture
def screen(combo: Combo) -> Iterator[Screen]:
    shown = Screen(combo.as_user, combo.dir)
    for name, value in environment(combo).items():
        shown.run(f"export {name}={value}")
    shown.run(f'rexec() {{ {combo.rexec.path} "$@"; }}; export -f rexec')
    yield shown
    shown.close()


@ONE
@pytest.mark.parametrize("options", ["--no-tty", "--no-tty --checkpoint --owner none"], ids=["plain", "checkpoint"])
def test_ctrl_c_in_a_script(combo: Combo, screen: Screen, way: Way, options: str) -> None:
    on = way("shared").on
    (combo.dir / "job").write_text(LAST_WORDS)
    screen.type(f"bash -c 'rexec --on {on} {options} sh job; echo status=$?'")
    screen.wait("^up$")
    screen.key("C-c")
    screen.wait("last words\nstatus=7$")


@pytest.fixture
def asking(combo: Combo, desk: ModuleType) -> None:
    """`--on there` logs in with a key whose passphrase has to be typed."""
    key = combo.dir / "key"
    shutil.copy(desk.STATE / "keys" / combo.as_user, key)
    key.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "a secret", "-f", key], check=True)
    shutil.chown(key, combo.as_user, combo.as_user)
    options = ["-F", "none", "-i", str(key), "-o", "IdentitiesOnly=yes", "-o", "HostKeyAlias=rexec-desk-alpha"]
    options += ["-o", f"UserKnownHostsFile={desk.STATE}/known_hosts"]
    user = "root" if combo.as_user == "root" else "alice"
    _configure(combo, f"{user}@{desk.HOSTS['alpha'].address}", options)


KINDS = pytest.mark.parametrize("kind", ["", "--checkpoint --owner none"], ids=["plain", "checkpoint"])
ASKED = "passphrase.*: ?$"


@ONE
@KINDS
def test_a_passphrase_and_the_keys_that_stop_and_go_on(asking: None, screen: Screen, kind: str) -> None:
    before = screen.settings()
    screen.type(f"clear; rexec --on there {kind} sh -c 'read line; echo got $line'")
    screen.wait(ASKED)
    screen.key("C-z")
    screen.wait("Stopped")
    assert "typed" in screen.run("echo typed to the shell")
    screen.type("clear; fg")
    screen.wait(ASKED)
    screen.type("a secret")
    screen.type("a line for the job")
    screen.wait("^got a line for the job$")
    screen.wait("READY>$")
    assert "secret" not in screen.text()
    assert screen.settings() == before


@ONE
@KINDS
def test_a_passphrase_in_the_background(asking: None, screen: Screen, kind: str) -> None:
    screen.type(f"clear; rexec --on there {kind} echo it runs &")
    screen.wait("READY>$")
    until(lambda: "Stopped" in screen.run("jobs"), "it is stopped")
    screen.type("clear; fg")
    screen.wait(ASKED)
    screen.type("a secret")
    screen.wait("^it runs")


@ONE
@KINDS
def test_ctrl_c_while_ssh_asks_ends_all(asking: None, screen: Screen, kind: str) -> None:
    before = screen.settings()
    screen.type(f"clear; bash -c 'rexec --on there {kind} true; echo not-this'")
    screen.wait(ASKED)
    screen.key("C-c")
    screen.wait("READY>$")
    assert "\nstatus=130" in screen.run("echo status=$?")
    assert "\nnot-this" not in screen.text()
    assert screen.settings() == before


@ONE
def test_ctrl_backslash_while_ssh_asks_ends_rexec(asking: None, screen: Screen) -> None:
    screen.type("clear; (ulimit -c 0; rexec --on there true); echo status=$?")
    screen.wait(ASKED)
    screen.key("C-\\")
    screen.wait("^status=131$")


def rexec_here(combo: Combo) -> psutil.Process:
    return next(p for p in psutil.process_iter(["cmdline"]) if str(combo.rexec.path) in (p.info["cmdline"] or ()))


@ONE
@KINDS
@pytest.mark.parametrize("name", ["TERM", "HUP"])
def test_what_ends_rexec_while_ssh_asks_gives_the_terminal_back(
    combo: Combo, asking: None, screen: Screen, kind: str, name: str
) -> None:
    before = screen.settings()
    screen.type(f"clear; bash -c 'rexec --on there {kind} true; read -p go-on: line; stty -a >after; echo read $line'")
    screen.wait(ASKED)
    rexec_here(combo).send_signal(getattr(signal, f"SIG{name}"))
    screen.wait("go-on:$")
    screen.type("something")
    screen.wait("^(go-on:)?read something$")
    screen.wait("READY>$")
    assert " echo " in (combo.dir / "after").read_text()
    assert screen.settings() == before


@ONE
def test_a_rexec_that_is_killed_while_ssh_asks_leaves_a_script_its_terminal(
    combo: Combo, asking: None, screen: Screen
) -> None:
    """Not at once: nobody is left but the one that watches for it."""
    back = "until set $(ps -o pgid=,tpgid= -p $$); [ $1 = $2 ]; do sleep 0.1; done"
    screen.type(f"clear; bash -c 'rexec --on there true; {back}; read -p go-on: line; echo read $line'")
    screen.wait(ASKED)
    rexec_here(combo).kill()
    screen.wait("go-on:$")
    screen.type("something")
    screen.wait("^read something$")


@ONE
def test_a_key_after_the_passphrase_ends_all(combo: Combo, desk: ModuleType, asking: None, screen: Screen) -> None:
    """The host is slow, and ssh, which has the keys still, ends with a status that says nothing."""
    file, slow = combo.dir / "config" / "rexec" / "hosts.toml", "/tmp/slow-python"
    file.write_text(file.read_text() + f"python = '{slow}'\n")
    desk.run("alpha", ["sh", "-c", f"printf '#!/bin/sh\\ncat >/dev/null\\n' >{slow}; chmod +x {slow}"])
    try:
        screen.type("clear; bash -c 'rexec --on there true; echo not-this'")
        screen.wait(ASKED)
        screen.type("a secret")
        until(lambda: any(f"/bin/sh {slow}" in line for line in desk.processes("alpha").values()), "ssh is in")
        screen.key("C-c")
        screen.wait("READY>$")
    finally:
        desk.run("alpha", ["rm", slow])
    assert "\nnot-this" not in screen.text()
    assert "\nstatus=130" in screen.run("echo status=$?")


@ONE
def test_paramiko_s_question_is_ended_like_ssh_s(combo: Combo, asking: None, screen: Screen) -> None:
    screen.type("clear; bash -c 'trap : INT; PATH=/nowhere rexec --on there true; /bin/stty -a >after; echo went on'")
    screen.wait("passphrase for .*: ?$")
    screen.key("C-c")
    screen.wait("went on$")
    assert " echo " in (combo.dir / "after").read_text()
