"""`from shim import …` in programs of their own, as root and as an ordinary user, on this machine and on hosts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import shim
from tests.job_commands import USER, Mover
from tests.program import Combo, as_login
from tests.reachable import Copy

MANUAL = Path(__file__).parents[2] / "docs/python.md"
# What a process has for all its threads; `before` and `after` are compared.
STATE = """
import os, resource, signal, sys, threading, time

def state():
    return {
        "handlers": [signal.getsignal(n) for n in sorted(signal.valid_signals())],
        "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "wakeup": _wakeup(),
        "umask": next(line for line in open("/proc/self/status") if line.startswith("Umask")),
        "limits": [resource.getrlimit(getattr(resource, n)) for n in dir(resource) if n.startswith("RLIMIT_")],
        "cwd": os.getcwd(),
        "environment": dict(os.environ),
        "path": list(sys.path),
        "descriptors": sorted(os.readlink(f"/proc/self/fd/{n}") for n in _open()),
    }

def _wakeup():
    found = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(found)
    return found

def _open():
    names = []
    for name in os.listdir("/proc/self/fd"):
        try:
            os.stat(int(name))
        except OSError:
            continue  # the one that reads this very directory
        names.append(name)
    return names

def alone():
    until = time.monotonic() + 60
    while len(threading.enumerate()) > 1 and time.monotonic() < until:
        time.sleep(0.02)
    return [thread.name for thread in threading.enumerate()[1:]]
"""


class Program:
    """Runs Python programs with what is installed, as `user`, and gives what they print."""

    def __init__(self, copy: Copy, user: str, directory: Path, env: dict[str, str]) -> None:
        self._copy, self._user, self._dir, self._env = copy, user, directory, env

    def __call__(self, text: str, *words: str) -> str:
        at = self._dir / "program.py"
        # what hangs says where
        at.write_text(f"import faulthandler\nfaulthandler.dump_traceback_later(100, exit=True)\n{text}")
        with as_login(self._user, [self._copy.python, at, *words], cwd=self._dir, env=self._env) as process:
            out, err = process.communicate(timeout=110)
        assert (process.returncode, err) == (0, b""), err.decode()
        return out.decode()


@pytest.fixture
def program(combo: Combo, reached: Copy) -> Program:
    return Program(reached, combo.as_user, combo.dir, {"ON": combo.on})


@pytest.fixture
def moving(mover: Mover, reached: Copy) -> Program:
    return Program(reached, mover.user, mover.dir, {**mover.env, "FIRST": mover.hosts[0], "SECOND": mover.hosts[1]})


def test_a_command_is_run_and_nothing_of_the_process_is_changed(program: Program) -> None:
    out = program(
        STATE
        + """
import signal
from shim import CannotStart, CommandFailed, run

on = os.environ["ON"]
signal.signal(signal.SIGUSR1, lambda *_: None)
os.umask(0o027)
before = state()
for _ in range(2):
    done = run(["sh", "-c", 'umask; cat; echo "$A $PWD" >&2; exit 3'], on=on, stdin=b"given", env={"A": "1"}, cwd="/")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"0027\\ngiven", b"1 /\\n"), done
    assert done.host == on
assert run(["sh", "-c", "kill -9 $$"], on=on).returncode == -9
with open("out", "w") as out, open("program.py") as given:
    out.write("before\\n")
    done = run(["wc", "-l"], on=on, stdin=given, stdout=out)
    assert done.stdout is None and done.stderr == b""
assert open("out").read().split() == ["before", str(len(open("program.py").readlines()))]
large = os.urandom(1 << 20) * 5
assert run(["cat"], on=on, stdin=large).stdout == large
assert run(["true"], on=on, stdin=large).returncode == 0
assert run(["sh", "-c", "echo done > made; cat made"], on=on, sync=False).stdout == b"done\\n"
assert open("made").read() == "done\\n"
try:
    run(["sh", "-c", "echo out; echo err >&2; exit 7"], on=on, check=True)
except CommandFailed as error:
    assert (error.returncode, error.stdout, error.stderr) == (7, b"out\\n", b"err\\n")
    print(error)
try:
    run(["no-such-program"], on=on)
except CannotStart as error:
    print(error.code, error)
print(alone())
after = state()
for name in before:
    assert before[name] == after[name], (name, before[name], after[name])
"""
    )
    on = out.split()[2]
    assert out == f"sh on {on} ended with status 7\n127 no-such-program: command not found\n[]\n"


@pytest.mark.where(lambda combo: combo in ("user-alice", "local-root"))
def test_several_commands_at_a_time_from_threads(program: Program) -> None:
    """Each waits for the two others to have begun."""
    text = """
from concurrent.futures import ThreadPoolExecutor
from shim import run

def one(n):
    script = f"echo {n}; : >begun{n}; for k in 0 1 2; do while [ ! -e begun$k ]; do sleep .05; done; done"
    return run(["sh", "-c", script], on=os.environ["ON"])

with ThreadPoolExecutor(3) as pool:
    print(*[done.stdout.decode().strip() for done in pool.map(one, range(3))])
print(alone())
"""
    assert program(STATE + text) == "0 1 2\n[]\n"


@pytest.mark.where(lambda combo: combo in ("user-alice", "local-user"))
def test_an_exception_ends_the_command_on_the_host(program: Program) -> None:
    """The fixture `combo` sees that nothing of it is left there."""
    text = """
from shim import run

def interrupt():
    while not os.path.exists("begun"):
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGINT)

before = state()
threading.Thread(target=interrupt).start()
try:
    run(["sh", "-c", ": >begun; sleep 600"], on=os.environ["ON"])
except KeyboardInterrupt:
    print("interrupted", alone())
assert before["descriptors"] == state()["descriptors"]
"""
    assert program(STATE + text) == "interrupted []\n"


JOB = """
from shim import JobError, JobStopped, RequestRefused, WaitTimeout, job, jobs, start

first, second = os.environ["FIRST"], os.environ["SECOND"]
before = state()
script = "read line; echo $line; while [ ! -e go ]; do sleep .05; done; echo end; exit 4"
made = start(["sh", "-c", script], hosts=[first, second], owner="none", every="10m", stdin=b"given\\n")
try:
    made.wait(0)
except WaitTimeout as error:
    print(str(error).rpartition(" ")[0])
for event in made.events(follow=True):
    if event.kind == "execute":
        break
made.checkpoint()
print(made.state, made.host == first, made.report().image is not None)
print(made.vacate(to=second) == f"the job goes on on {second}", made.host == second, made.report().moves)
made.hold()
print(made.state)
print(made.release() == f"the job goes on on {first}")
try:
    made.vacate(to="nowhere.invalid")
except RequestRefused:
    print("refused")
open("go", "w").close()
print(made.wait(60), made.wait(0), made.state, made.stdout.read_text().split(), made.stderr.read_text() == "")
print([event.kind for event in made.events()][-1], job(made.id) == made, jobs() == [made])
try:
    made.kill()
except JobError as error:
    print(error)
os.unlink("go")
made.restart(hosts=second)
while made.state != "running":
    time.sleep(0.1)
print(made.host == second)
made.kill()
print(made.wait(60), alone())
after = state()
for name in before:
    assert before[name] == after[name], (name, before[name], after[name])
"""


def test_a_job_is_started_moved_and_waited_for(moving: Program) -> None:
    assert moving(STATE + JOB).splitlines() == [
        "job 1 has not ended in time: it is",
        "running True True",
        "True True 1",
        "held",
        "True",
        "refused",
        "4 4 exit 4 ['given', 'end'] True",
        "end True True",
        "job 1 has ended: exit 4",
        "True",
        "-9 []",
    ]


STOPPED = """
from shim import JobFailed, JobStopped, job, start

def supervisor():
    # it is given the name of our program; what it has open it shows to nobody
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline") as words:
                if int(name) != os.getpid() and os.path.abspath(sys.argv[0]) in words.read().split("\\0"):
                    return int(name)
        except OSError:
            continue  # it has ended

def end():
    while (pid := supervisor()) is None:
        time.sleep(0.1)
    os.kill(pid, signal.SIGTERM)

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # a supervisor that inherited this would not hear it
made = start(["sleep", "600"], hosts=os.environ["FIRST"], owner="none")
while made.state != "running":
    time.sleep(0.1)
threading.Timer(0.5, end).start()
try:
    made.wait()
except JobStopped as error:
    print(error)
assert made.restart() == ()
while made.state != "running":
    time.sleep(0.1)
made.kill()
print(made.wait())
lost = start(["no-such-program"], hosts=os.environ["FIRST"], owner="none")
try:
    lost.wait(60)
except JobFailed as error:
    print(error.code, error)
"""


@USER
def test_a_job_whose_supervisor_ends_is_not_waited_for(moving: Program) -> None:
    out = moving(STATE + STOPPED).splitlines()
    assert out[0].startswith("job 1 has no supervisor: ") and out[0].endswith("from its last image")
    assert out[1:] == ["-9", "127 no-such-program: command not found"]


def test_the_manual_s_example_runs_and_is_typed(moving: Program, reached: Copy, tmp_path: Path) -> None:
    """Each of its Python blocks, one after the other, as one program; the types are those that are installed."""
    blocks = re.findall(r"^```python\n(.*?)^```$", MANUAL.read_text(), re.M | re.S)
    assert len(blocks) > 3
    text = "".join(blocks)
    (tmp_path / "example.py").write_text(text)
    checked = subprocess.run(
        [
            sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}/cache",
            f"--python-executable={reached.python}", "example.py",
        ],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout
    for name, host in (("alpha", "FIRST"), ("beta", "SECOND")):
        text = text.replace(f'"{name}"', f"os.environ[{host!r}]")
    assert "nowhere.invalid" in moving(text)


BAD = {
    'run("true")': "the command is one text, 'true': give its words in a list, or have a shell read it, "
    "['sh', '-c', TEXT]",
    "run([])": "the command is []: give a list of words, a program in front",
    "run(['echo', 1])": "word 1 of the command is 1: give a str, bytes or a path",
    r"run(['echo', 'a\0b'])": "word 1 of the command is 'a\\x00b': no program can be given a NUL",
    "run(['true'], on='a,b')": "on is 'a,b': give the name of one host, as for ssh, or 'local'",
    "run(['true'], env=['A=1'])": "env is ['A=1']: give a dict of names and values",
    "run(['true'], env={'A=B': '1'})": "env has the name 'A=B': a name is not empty and has no =",
    "run(['true'], env={'A': 1})": "env['A'] is 1: give a str, bytes or a path",
    "run(['true'], stdin='text')": "stdin is 'text': give an open file of this machine's",
    "run(['true'], stdout=-3)": "stdout is -3, which is not open",
    "run(['true'], on='local', cwd='/no/such')": "/no/such is no directory; name one that exists",
    "run(['true'], on='local', scratch='/tmp')": "scratch is '/tmp': give a list",
    "run(['true'], on='local', read='/tmp')": "read is '/tmp': give a list",
    "run(['true'], on='local', only=1)": "only is 1: give True or False",
    "run(['true'], on='local', trust='some')": "trust is 'some': give one of full, home, project, and with only=True "
    "none",
    "run(['true'], on='local', only=True, trust='full')": "trust is 'full': give one of full, home, project, and with "
    "only=True none",
    "start(['true'], disk='much')": "disk is 'much': give bytes, a size such as '10G', or 'all'",
    "start(['true'], disk=1.5)": "disk is 1.5: give bytes, a size such as '10G', or 'all'",
    "start(['true'], hosts=[])": "hosts is []: give a list of names of hosts, or 'any'",
    "start(['true'], every=-1)": "every is -1: give seconds, 0 or more",
    "start(['true'], every='soon')": 'every = "soon" is not a duration; write for example "15m", "10s" or "1h30m".',
    "start(['true'], keep=0)": "keep is 0: give a whole number, 1 or more",
    "start(['true'], owner=None)": "owner is None: give the name of a policy",
    "job('7')": "there is no job 7: see `rexec jobs`",
    "job('x')": "'x' is no job's id, which is a number: see `rexec jobs`",
    "hosts('two words')": "'two words' is no host; name one as for ssh, [user@]host, or `local`",
}


@pytest.mark.parametrize("call", BAD)
def test_what_cannot_be_meant_is_refused_at_once(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    with pytest.raises(shim.RexecError) as refused:
        eval(call, {name: getattr(shim, name) for name in ("hosts", "job", "run", "start")})
    assert str(refused.value) == BAD[call]
    assert shim.jobs() == []


def test_every_name_is_there_for_programs_and_for_type_checkers() -> None:
    stub = (Path(shim.__file__).parent / "__init__.pyi").read_text()
    assert re.findall(r"^from (\S+) import (\w+) as \2$", stub, re.M) == [
        (module, name) for module, names in shim._MODULES.items() for name in sorted(names)
    ]
    for name in shim.__all__:
        found = getattr(shim, name)
        assert found.__doc__ and found.__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        vars(shim)["__getattr__"]("nothing")


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    """As on a host, where there is nothing else of it."""
    program = "import sys; sys.path.insert(0, sys.argv[1]); before = set(sys.modules); import shim; dir(shim)"
    done = subprocess.run(
        [sys.executable, "-ISc", f"{program}; print(*sorted(set(sys.modules) - before))", MANUAL.parents[1]],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "shim\n"
