"""One run after another is served by one process, in one root on the far host: each is as if it were the only one."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from remoteio.wire.coherence import TTL
from tests import desk
from tests.desk_hosts import SUBMIT_USER
from tests.program import Rexec
from tests.until import HANG, until

FAR = "alpha-far20"
AT_ONCE = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 2)  # what knows FUSE_EXPIRE_ONLY
long = pytest.mark.long(lambda **_: True)


class Runs:
    """Runs on one host, of one user, with a cache and a log of their own."""

    def __init__(self, rexec: Rexec, directory: Path, on: str) -> None:
        self.rexec, self.dir, self._on, self._log = rexec, directory, on, directory / "log"
        self.env = {"XDG_CACHE_HOME": str(directory / "cache"), "REXEC_KEEP": "1h"}

    def start(self, *argv: str, **more: Any) -> Any:
        return self.rexec.start(
            ["--json-log", self._log, "--on", self._on, *argv], as_user=SUBMIT_USER, env=self.env, cwd=self.dir, **more
        )

    def __call__(self, *argv: str, status: int = 0, stdin: bytes = b"") -> bytes:
        with self.start(*argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            said, error = process.communicate(stdin, timeout=HANG)
        assert process.returncode == status, error
        return bytes(said)

    def how(self) -> str:
        """How the agent of the last run was found."""
        events = [json.loads(line) for line in self._log.read_text().splitlines()]
        return str([event["runtime"] for event in events if event["event"] == "reached"][-1])

    def rest(self) -> None:
        """Wait until the next run is one of those after the first of a session."""

        def stays() -> bool:
            time.sleep(TTL)  # for which, with an older kernel, it is not given another, where a connection waits
            self("true")
            return self.how() == "stays"

        until(stays, "a run is served as those before it were", within=HANG)
        time.sleep(TTL + 0.1)

    def again(self, *argv: str, status: int = 0, stdin: bytes = b"") -> bytes:
        """Run it so."""
        self.rest()
        said = self(*argv, status=status, stdin=stdin)
        assert self.how() == "stays"
        return said


@pytest.fixture
def on() -> str:
    return FAR


@pytest.fixture
def runs(rexec: Rexec, place: Callable[[str], Path], on: str) -> Iterator[Runs]:
    found = Runs(rexec, place(SUBMIT_USER), on)
    yield found
    with rexec.start(["disconnect"], as_user=SUBMIT_USER, env=found.env) as ending:
        assert not ending.wait(HANG)


def residents(runs: Runs) -> list[psutil.Process]:
    """Those of these runs: other tests have their own."""
    own = f"XDG_CACHE_HOME={runs.env['XDG_CACHE_HOME']}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended while we looked
        if b"shim.submit.resident" in line and own in environment:
            found.append(psutil.Process(int(entry.name)))
    return found


def test_statuses_signals_and_streams_are_each_run_s_own(runs: Runs) -> None:
    assert runs.again("sh", "-c", "cat; exit 3", status=3, stdin=b"given") == b"given"
    assert runs("sh", "-c", "kill -TERM $$", status=-signal.SIGTERM) == b""
    large = os.urandom(1 << 20) * 3
    assert runs.again("cat", stdin=large) == large
    assert runs.again("sh", "-c", "echo $$; umask; pwd").split()[2] == os.fsencode(runs.dir)
    assert runs("no-such-command", status=127) == b""
    assert runs.again("echo", "one more") == b"one more\n"


@pytest.mark.parametrize("on", [FAR, "alpha-alice"])
def test_a_run_sees_what_was_changed_here_before_it_began(runs: Runs) -> None:
    at = runs.dir / "file"
    at.write_text("0\n")
    runs.rest()
    changes: list[Callable[[str], object]] = [
        lambda text: at.write_text(text),
        lambda text: (at.with_name("new").write_text(text), at.with_name("new").rename(at)),
        lambda text: (at.unlink(), at.write_text(text)),
    ]
    used = set()
    for k in range(12):
        text = f"{k} changed\n"
        changes[k % 3](text)
        if k % 4 == 3:
            time.sleep(TTL + 0.1)
        told = runs("sh", "-c", "cat file; stat -c %s file; ls")
        assert told.split(b"\n")[:2] == [text[:-1].encode(), b"%d" % len(text)]
        used.add(runs.how())
        (runs.dir / f"there{k}").touch()
        if k:
            (runs.dir / f"there{k - 1}").unlink()
        assert b"there%d\n" % k not in told and (k < 1 or b"there%d\n" % (k - 1) in told)
    assert used == {"stays"} if AT_ONCE else "stays" in used
    runs.rest()
    for k in range(4):  # what is looked up once is under no lease, and holds in the kernel there for the TTL
        new = runs.dir / f"new{k}"
        for text in ("short", "and longer"):
            new.write_text(text)
            assert runs("stat", "-c", "%s", new.name) == b"%d\n" % len(text)
            assert runs.how() == "stays" or not AT_ONCE


@long
def test_nothing_of_a_job_is_seen_by_the_next(runs: Runs) -> None:
    """But what it has left in files; not its processes, its memory that others may share, nor its environment."""
    leaves = "import os, subprocess, time; open('/dev/shm/left', 'w').write('x'); "
    leaves += "subprocess.Popen(['sleep', '1000'], start_new_session=True); os.environ['LEFT'] = 'x'"
    shared = "import ctypes; c = ctypes.CDLL(None); print(c.shmget(4711, 4096, 0o1600), c.shmget(4711, 1, 0))"
    runs.again("python3", "-c", f"{leaves}; {shared}")
    said = runs.again("sh", "-c", "ls /dev/shm; ps ax -o args; env").decode()
    assert "left" not in said and "sleep 1000" not in said and "LEFT" not in said
    told = runs.again("python3", "-c", "import ctypes; print(ctypes.CDLL(None).shmget(4711, 1, 0))")
    assert told == b"-1\n"


@long
@pytest.mark.parametrize("on", [FAR, "alpha-alice"])
def test_what_a_job_has_made_and_locked_is_the_next_one_s_as_anything_here(runs: Runs) -> None:
    """It may go on in what was made, and has no more rights there than a first job would have."""
    hook, at = runs.dir / "repo/.git/hooks/pre-commit", runs.dir / "repo/file"
    runs.rest()
    session = [each.pid for each in residents(runs)]
    runs("sh", "-c", "git init -q repo; echo exit 0 >repo/.git/hooks/pre-commit; mkdir repo/a; echo 1 >repo/file")
    assert hook.read_text() == "exit 0\n"
    locks = "import fcntl; f = open('repo/file', 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print(f.read(), end='')"
    assert runs("python3", "-c", locks) == b"1\n"
    writes = f"echo evil >{hook} || echo >{hook}.2 || cat {hook}"
    assert runs("sh", "-c", f"({writes}) 2>&-") == b"exit 0\n"
    assert hook.read_text() == "exit 0\n" and not Path(f"{hook}.2").exists()
    for number in range(3):
        at.write_text(f"here {number}\n")
        (runs.dir / f"repo/a/{number}").touch()
        assert runs("python3", "-c", locks) == b"here %d\n" % number
        told = runs("sh", "-c", f"cat repo/file; echo there >repo/a/there{number}; mkdir repo/a/d{number}; ls repo/a")
        assert told.split()[:2] == [b"here", b"%d" % number]
        assert sorted(os.listdir(runs.dir / "repo/a")) == sorted(map(os.fsdecode, told.split()[2:]))
    assert [each.pid for each in residents(runs)] == session


def test_access_lists_are_seen_as_they_are_though_one_is_asked_for_of_all(runs: Runs) -> None:
    many = runs.dir / "many"
    many.mkdir()
    for number in range(40):
        (many / str(number)).touch()

    def modes(listing: bytes) -> list[tuple[bytes, bytes]]:
        return [(line.split()[0], line.split()[-1]) for line in listing.splitlines()[1:]]

    runs.rest()
    for given in (1, 17, 38):
        assert modes(runs("ls", "-l", str(many))) == modes(subprocess.check_output(["ls", "-l", many]))
        subprocess.run(["setfacl", "-m", "u:1:r", many / str(given)], check=True)
    told = modes(runs("ls", "-l", str(many)))
    assert [name for mode, name in told if mode.endswith(b"+")] == [b"1", b"17", b"38"]


def test_an_access_list_that_is_taken_away_is_gone_though_the_file_has_another_name(runs: Runs) -> None:
    """The kernel there keeps access lists of its own accord, and a job that sets one has changed the mode."""
    old, new = runs.dir / "old", runs.dir / "new"
    old.write_text("contents")
    subprocess.run(["setfacl", "-m", "u:1:r", old], check=True)
    subprocess.run(["chown", f"{SUBMIT_USER}:", old], check=True)
    runs.rest()
    for _ in range(3):
        assert b"user:" in runs("sh", "-c", "cat old >&2; getfacl -cn old")
    old.rename(new)
    subprocess.run(["setfacl", "-b", new], check=True)
    time.sleep(TTL + 0.1)
    assert runs("getfacl", "-cn", "new") == subprocess.check_output(["getfacl", "-cn", new])
    mode = runs("sh", "-c", "setfacl -m u:1:rwx new; setfacl -b new; stat -c %a new").strip()
    assert mode == b"%o" % stat.S_IMODE(new.stat().st_mode)


def _found(top: Path) -> list[bytes]:
    return sorted(subprocess.check_output(["find", "tree"], cwd=top).split())


def _change(top: Path, step: int) -> None:
    """Do something to names in the tree, of which each step sees others."""
    a, b = top / f"tree/{step % 7}", top / f"tree/{(step + 3) % 7}"
    (a / f"new{step}").touch()
    (b / f"new{step - 3}").unlink(missing_ok=True)
    (a / "file").rename(a / f"file{step}")
    (a / f"file{step}").rename(a / "file")
    (a / "sub").rename(b / f"moved{step}")
    (a / "sub").mkdir()
    (a / f"sub/of{step}").touch()


@long
def test_directories_that_are_walked_again_and_again_are_listed_as_they_are(runs: Runs) -> None:
    """By one run after the other, and within one: the kernel there keeps listings, until names in them change."""
    for number in range(7):
        (runs.dir / f"tree/{number}/sub").mkdir(parents=True)
        (runs.dir / f"tree/{number}/file").touch()
    subprocess.run(["chown", "-R", f"{SUBMIT_USER}:", runs.dir / "tree"], check=True)
    runs.rest()
    for step in range(4):
        for _ in range(3):
            assert sorted(runs("find", "tree").split()) == _found(runs.dir)
            time.sleep(TTL)
        _change(runs.dir, step)
        time.sleep(TTL + 0.1)
    own = "find tree; touch tree/1/own; rm tree/2/file; mkdir tree/3/own; mv tree/3/sub tree/3/other; find tree"
    before, said = _found(runs.dir), runs("sh", "-c", own).split()
    assert sorted(said[: len(before)]) == before and sorted(said[len(before) :]) == _found(runs.dir)
    again = f"while read word; do find tree; find tree; echo end; sleep {TTL + 0.2}; find tree; echo end; done"
    with runs.start("sh", "-c", again, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:

        def said_next() -> list[bytes]:
            return sorted(line.strip() for line in iter(process.stdout.readline, b"end\n"))

        for step in range(4, 9):
            process.stdin.write(b"go\n")
            process.stdin.flush()
            assert said_next() == sorted(2 * _found(runs.dir))
            _change(runs.dir, step)
            assert said_next() == _found(runs.dir)


@pytest.mark.parametrize("how", ["-r", "-a"])
def test_a_tree_is_copied_as_it_is_without_a_round_trip_for_each_file(runs: Runs, how: str) -> None:
    for number in range(90):
        (runs.dir / f"tree/{number % 3}").mkdir(parents=True, exist_ok=True)
        (file := runs.dir / f"tree/{number % 3}/{number}").write_bytes(os.urandom(number * 50))
        file.chmod(0o644 | number)
        os.utime(file, (number, number))
    (runs.dir / "tree/large").write_bytes(os.urandom(1 << 20))
    subprocess.run(["chown", "-R", f"{SUBMIT_USER}:", runs.dir / "tree"], check=True)
    subprocess.run(["setfacl", "-m", "u:1:r", runs.dir / "tree/1/85"], check=True)
    runs.rest()
    runs("cp", how, "tree", "copy")
    subprocess.run(["diff", "-r", "tree", "copy"], cwd=runs.dir, check=True)
    if how == "-a":
        differ = subprocess.run(["rsync", "-rlptnAci", "tree/", "copy"], cwd=runs.dir, check=True, capture_output=True)
        assert not differ.stdout
    runs("true")
    events = [json.loads(line) for line in runs._log.read_text().splitlines()]
    *_, copied, after = [each for each in events if each["event"] == "ended"]
    assert copied["trips"] < 60, "of 91 files"
    assert after["received"] + after["sent"] < 1 << 17 < copied["received"], "each run is told what was its own"


def test_signals_go_to_the_job_and_a_rexec_that_is_killed_takes_it_along(runs: Runs) -> None:
    runs.rest()
    script = "trap 'echo caught; exit 7' TERM; echo begun; while :; do sleep 0.05; done"
    with runs.start("sh", "-c", script, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"begun\n"
        process.terminate()
        assert process.stdout.read() == b"caught\n" and process.wait(HANG) == 7
    runs.rest()
    with runs.start("sh", "-c", "echo begun; exec sleep 4712", stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"begun\n"
        process.kill()
    until(lambda: not any("sleep 4712" in line for line in desk.processes("alpha").values()), "the job has ended")
    assert runs("echo", "goes on") == b"goes on\n"


@long
def test_a_connection_that_breaks_is_made_again_under_a_later_run(runs: Runs) -> None:
    runs.rest()
    with runs.start("sh", "-c", "echo begun; read word; echo $word; cat file", stdin=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"begun\n"
        keepers = [each.parent() for each in residents(runs)]
        for carrier in [each for keeper in keepers if keeper for each in keeper.children() if each.name() == "ssh"]:
            carrier.kill()
        (runs.dir / "file").write_text("as it is now")
        said, _ = process.communicate(b"heard\n", timeout=HANG)
    assert (said, process.returncode) == (b"heard\nas it is now", 0)


def test_what_a_run_has_made_is_held_by_nobody_when_it_has_ended(runs: Runs) -> None:
    runs.again("dd", "if=/dev/zero", "of=made", "bs=64k", "count=4", "status=none")
    made = str(runs.dir / "made")

    def held() -> list[str]:
        fds = [fd for each in residents(runs) for fd in Path(f"/proc/{each.pid}/fd").iterdir()]
        return [name for name in map(os.readlink, fds) if name == made]

    until(lambda: not held(), "nobody holds what is removed here")


@long
def test_a_resident_that_is_killed_is_a_lost_job_and_the_next_run_goes_on(runs: Runs) -> None:
    runs.rest()
    argv = ("sh", "-c", "echo begun; exec sleep 4713")
    with runs.start(*argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"begun\n"
        for each in residents(runs):
            each.kill()
        _, error = process.communicate(timeout=HANG)
    assert process.returncode == 125 and b"lost" in error
    assert b"the process here that served its files was killed; alpha" in error and b"is told to end the job" in error
    until(lambda: not any("sleep 4713" in line for line in desk.processes("alpha").values()), "the job has ended")
    assert runs("echo", "goes on") == b"goes on\n"
    runs.rest()


@long
def test_runs_at_once_and_with_other_rights_are_served_apart(runs: Runs) -> None:
    runs.rest()
    argv = ("sh", "-c", "echo begun; read word; echo $word")
    with runs.start(*argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one:
        assert one.stdout.readline() == b"begun\n"
        assert runs("echo", "beside") == b"beside\n" and runs.how() != "stays"
        said, _ = one.communicate(b"heard\n", timeout=HANG)
    assert said == b"heard\n"
    runs.rest()
    (runs.dir / "secret").write_text("x")
    hidden = ("--hide", str(runs.dir / "secret"), "ls")
    assert b"secret" not in runs(*hidden) and runs.how() != "stays"
    assert b"secret" in runs.again("ls")


@long
def test_a_run_that_is_no_run_for_a_session_has_the_connection_that_waits(runs: Runs) -> None:
    """Also where no session has begun, and for longer than a connection is let go of in."""
    runs("true")
    only = ("--only", "sh", "-c", "sleep 13; echo done")
    until(lambda: runs(*only) == b"done\n" and runs.how() == "waits", "the connection is given to it", within=HANG)
    runs.rest()
