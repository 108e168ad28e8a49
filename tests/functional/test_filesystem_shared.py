"""The job's files are this machine's files: what either does, the other sees, and locks hold between them."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.program import Combo
from tests.stuck import stuck
from tests.talk import PYTHON, Talk
from tests.until import soon, until

TTL = 1.0  # seconds: docs/consistency.md
SOON = 2 * TTL
pytestmark = pytest.mark.parametrize("combo", ["local-root", "user-alice"], indirect=True)


@pytest.fixture
def job(combo: Combo) -> Iterator[Talk]:
    with Talk(combo, ["--lease", "1s"]) as talk:  # one test kills rexec, and the host is to know soon
        yield talk


@pytest.fixture
def here(combo: Combo) -> Path:
    return combo.dir


def give(path: Path, text: str, combo: Combo) -> Path:
    """A file of the job's user."""
    path.write_text(text)
    os.chown(path, combo.uid, -1)
    return path


def test_what_was_written_here_is_read_at_the_next_open(job: Talk, here: Path, combo: Combo) -> None:
    f = give(here / "f", "one", combo)
    for k in range(20):
        assert job("get('f')") == f.read_text()
        with f.open("a") as more:
            more.write(f" {k}")
        assert job("get('f')") == f.read_text()
        f.write_text(f"other {k}")
        assert job("os.stat('f') and get('f')") == f"other {k}"
        f.write_text("a" * 9)
        assert job("open('f', 'rb').seek(0, 2)") == 9


def test_a_replaced_file_is_another_at_the_next_open(job: Talk, here: Path, combo: Combo) -> None:
    give(here / "f", "old", combo)
    for k in range(20):
        assert job("os.stat('f').st_size") == (here / "f").stat().st_size
        give(here / "g", f"new {k}", combo).rename(here / "f")
        assert job("get('f')") == f"new {k}"  # the stale node is looked up again, and the job never sees ESTALE
    (here / "f").unlink()
    assert job("says(open, 'f')") == "ENOENT"


def test_names_and_attributes_follow_within_the_ttl(job: Talk, here: Path, combo: Combo) -> None:
    f = give(here / "f", "x", combo)
    (here / "l").symlink_to("f")
    assert job("os.readlink('l'), get('l'), says(os.stat, 'none')") == ["f", "x", "ENOENT"]
    give(here / "none", "", combo)
    (here / "l").unlink()
    (here / "l").symlink_to("elsewhere")
    f.chmod(0o640)
    os.truncate(f, 1000)
    assert job("sorted(os.listdir('.'))") == ["f", "l", "none"]
    job(f"time.sleep({TTL + 0.1})")
    assert job("says(os.stat, 'none'), os.readlink('l'), os.stat('f').st_size, os.stat('f').st_mode & 0o777") == [
        "fine", "elsewhere", 1000, 0o640,
    ]  # fmt: skip
    f.unlink()
    f.mkdir()
    until(lambda: job("os.path.isdir('f')"), "the file has become a directory", within=SOON)


def test_what_the_job_writes_is_here_when_write_returns(job: Talk, here: Path) -> None:
    job("fd = os.open('f', os.O_RDWR | os.O_CREAT)")
    job("os.write(fd, b'at once')")
    assert (here / "f").read_text() == "at once"
    job("view = mmap.mmap(fd, 7); view[:2] = b'AT'; view.flush()")
    assert (here / "f").read_text() == "AT once"
    job("view[3:] = b'ONCE'; view.close(); os.close(fd)")
    job("os.rename('f', 'g')")
    assert os.listdir(here) == ["g"]
    until(lambda: (here / "g").read_text() == "AT ONCE", "a mapping is written back when it is closed")


def test_a_working_directory_is_moved_from_under_the_job(job: Talk, here: Path, combo: Combo) -> None:
    (here / "d/in").mkdir(parents=True)
    shutil.chown(here / "d", combo.as_user), shutil.chown(here / "d/in", combo.as_user)
    give(here / "d/in/f", "inside", combo)
    job("os.chdir('d/in')")
    (here / "d").rename(here / "e")
    assert job("os.listdir('.'), get('f')") == [["f"], "inside"]
    job("put('new', 'written')")
    assert (here / "e/in/new").read_text() == "written"
    (here / "e/in").rename(here / "e/out")
    job("put('newer', 'written')")
    assert (here / "e/out/newer").read_text() == "written"


def test_both_append_at_once(job: Talk, here: Path, combo: Combo) -> None:
    log = give(here / "log", "", combo)
    job.tell(
        "fd = os.open('log', os.O_WRONLY | os.O_APPEND);"
        "[os.write(fd, b'%s %d\\n' % (b'j' * 30, k)) for k in range(1000)]"
    )
    with log.open("ab", buffering=0) as f:
        for k in range(1000):
            f.write(b"%s %d\n" % (b"h" * 30, k))
    job.answer()
    lines = log.read_text().splitlines()
    for letter in "jh":
        assert [line for line in lines if line[0] == letter] == [f"{letter * 30} {k}" for k in range(1000)]


TAKE = {
    "record": ("fcntl.lockf(fd, fcntl.LOCK_EX{})", lambda fd, how: fcntl.lockf(fd, how)),
    "whole": ("fcntl.flock(fd, fcntl.LOCK_EX{})", lambda fd, how: fcntl.flock(fd, how)),
}
RELEASE = {"record": "fcntl.lockf(f, fcntl.LOCK_UN)", "whole": "fcntl.flock(f, fcntl.LOCK_UN)"}


@pytest.mark.parametrize("kind", TAKE)
def test_locks_hold_between_the_job_and_this_machine(job: Talk, here: Path, combo: Combo, kind: str) -> None:
    there, take = TAKE[kind]
    job("fd = os.open('f', os.O_RDWR | os.O_CREAT)")
    with (here / "f").open("r+b") as f:
        take(f, fcntl.LOCK_EX)
        assert job(f"says(lambda: {there.format(' | fcntl.LOCK_NB')})") == "EAGAIN"
        if kind == "record":
            asked = (
                "struct.unpack('=hh4xqqi4x', fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack('=hh4xqqi4x', 1, 0, 0, 0, 0)))"
            )
            assert job(asked) == [fcntl.F_WRLCK, 0, 0, 0, 0]  # its holder has no number over there
        job.tell(there.format(""))
        assert job.quiet(0.5)
        take(f, fcntl.LOCK_UN)
        job.answer()
        with pytest.raises(OSError, match="temporarily unavailable"):
            take(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        job("os.close(fd)")
        until(lambda: _takes(take, f), "the job's close lets go")


def _takes(take: object, f: object) -> bool:
    try:
        take(f, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[operator]
    except OSError as e:
        assert e.errno in (errno.EAGAIN, errno.EACCES)
        return False
    return True


@pytest.mark.parametrize("kind", TAKE)
def test_interrupt_reaches_a_job_that_waits_for_a_lock(job: Talk, here: Path, combo: Combo, kind: str) -> None:
    there, take = TAKE[kind]
    job("fd = os.open('f', os.O_RDWR | os.O_CREAT)")
    with (here / "f").open("r+b") as f:
        take(f, fcntl.LOCK_EX)
        job.tell(there.format(""))
        assert job.quiet(0.3)
        job.process.send_signal(signal.SIGINT)
        assert job.process.wait(timeout=60) in (-signal.SIGINT, 128 + signal.SIGINT)


@pytest.mark.parametrize("kind", TAKE)
def test_kill_lets_go_of_locks(job: Talk, here: Path, combo: Combo, kind: str) -> None:
    there, take = TAKE[kind]
    job("fd = os.open('f', os.O_RDWR | os.O_CREAT); child = os.fork()")
    job.process.kill()
    with (here / "f").open("r+b") as f:
        until(lambda: _takes(take, f), "rexec is killed, and with it the lock", within=5)
    assert there


@pytest.mark.parametrize("first", [True, False], ids=["first-lock", "later-lock"])
def test_under_a_lock_the_files_beside_it_are_seen_as_they_are(
    job: Talk, here: Path, combo: Combo, first: bool
) -> None:
    """As sqlite keeps its log beside the file that it locks: what one wrote oneself says nothing of it any more."""
    data = here / "data"
    data.write_bytes(b"-" * 100)
    os.chown(data, combo.uid, -1)
    job("data = os.open('data', os.O_RDWR)")
    job("lock = open('lock', 'w')")
    if not first:
        job("fcntl.lockf(lock, fcntl.LOCK_EX); fcntl.lockf(lock, fcntl.LOCK_UN)")
    for turn in (b"1", b"2", b"3"):
        job(f"os.pwrite(data, {turn!r} * 100, 0)")
        assert job("os.pread(data, 10, 0).decode()") == turn.decode() * 10
        with data.open("r+b") as file:
            file.write(b"h")
        assert job("(fcntl.lockf(lock, fcntl.LOCK_EX), os.pread(data, 3, 0).decode())")[1] == "h" + turn.decode() * 2
        job("fcntl.lockf(lock, fcntl.LOCK_UN)")


@pytest.mark.parametrize("first", [True, False], ids=["first-lock", "later-lock"])
def test_two_machines_change_one_page_each_under_its_lock(job: Talk, here: Path, combo: Combo, first: bool) -> None:
    """As with the index of sqlite's log: what is written back is what was changed, not the page around it."""
    size = 3 * mmap.PAGESIZE + 100
    shared = here / "shared"
    shared.write_bytes(bytes(size))
    os.chown(shared, combo.uid, -1)
    job("import mmap; f = open('shared', 'r+b')")
    if not first:
        job("fcntl.lockf(f, fcntl.LOCK_EX, 1, 3); m = mmap.mmap(f.fileno(), 0); m[50] = 1")
    with shared.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        for turn in range(1, 4):
            job("fcntl.lockf(f, fcntl.LOCK_EX, 1, 0); m = mmap.mmap(f.fileno(), 0)")
            fcntl.lockf(file, fcntl.LOCK_EX, 1, 1)
            for at in (100, 4100, size - 9):
                assert job(f"m[{at}], m[{at + 1}]") == [turn - 1, turn - 1]
                job(f"m[{at}] = {turn}")
                mapped[at + 1] = turn
            fcntl.lockf(file, fcntl.LOCK_UN, 1, 1)
            job("fcntl.lockf(f, fcntl.LOCK_UN, 1, 0)")
            assert [mapped[at + k] for at in (100, 4100, size - 9) for k in (0, 1)] == [turn] * 6


def _add(path: Path, who: str, count: int, start: int = 0) -> None:
    db = sqlite3.connect(path, timeout=60, isolation_level=None)
    for k in range(start, start + count):
        db.execute("begin immediate")
        db.execute("insert into t values (?, ?)", (who, k))
        db.execute("update n set n = n + 1")
        db.execute("commit")
    db.close()


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate"])
def test_two_machines_write_one_database(job: Talk, here: Path, combo: Combo, mode: str) -> None:
    path = here / "db"
    db = sqlite3.connect(path, timeout=60, isolation_level=None)
    assert db.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
    db.execute("create table t (who, k)")
    db.execute("create table n (n)")
    db.execute("insert into n values (0)")
    for name in os.listdir(here):
        os.chown(here / name, combo.uid, -1)
    job(
        "def add(who, count):\n"
        "    db = sqlite3.connect('db', timeout=60, isolation_level=None)\n"
        "    for k in range(count):\n"
        "        db.execute('begin immediate')\n"
        "        db.execute('insert into t values (?, ?)', (who, k))\n"
        "        db.execute('update n set n = n + 1')\n"
        "        db.execute('commit')\n"
    )
    job.tell("add('there', 100)")
    _add(path, "here", 100)
    job.answer(60)
    assert db.execute("pragma integrity_check").fetchone() == ("ok",)
    assert db.execute("select n from n").fetchone() == (200,)
    assert db.execute("select who, count(*) from t group by who order by who").fetchall() == [
        ("here", 100),
        ("there", 100),
    ]
    db.close()
    assert job("sqlite3.connect('db').execute('pragma integrity_check').fetchone()") == ["ok"]


def test_a_program_that_runs_here_is_busy_there(job: Talk, here: Path, combo: Combo) -> None:
    shutil.copy("/bin/sleep", here / "sleep")
    os.chown(here / "sleep", combo.uid, -1)
    with subprocess.Popen([here / "sleep", "60"]) as process:
        until(lambda: os.readlink(f"/proc/{process.pid}/exe").startswith(str(here)), "it runs")
        assert job("says(os.open, 'sleep', os.O_WRONLY)") == "ETXTBSY"
        process.kill()
    (here / "script").write_text("#!/bin/sh\necho fresh\n")
    (here / "script").chmod(0o755)
    assert job("subprocess.run(['./script'], capture_output=True).stdout.decode()") == "fresh\n"


@pytest.mark.timeout(300)  # each of them is made, looked at and removed
@pytest.mark.long(lambda **_: True)  # test_moving_directories.py reads one of thousands
@pytest.mark.where(lambda combo: combo == "local-root")
def test_a_directory_of_100000(job: Talk, here: Path, combo: Combo) -> None:
    many = here / "many"
    many.mkdir()
    for k in range(100_000):
        os.close(os.open(many / f"{k}", os.O_CREAT | os.O_WRONLY))
    shutil.chown(many, combo.as_user)
    job("listing = os.scandir('many'); first = [next(listing).name for _ in range(1000)]")
    gone = {str(k) for k in range(50_000, 51_000)}
    for name in gone:
        (many / name).unlink()
    for k in range(1000):
        (many / f"new{k}").touch()
    seen = job("first + [e.name for e in listing]")
    assert len(seen) == len(set(seen))
    assert {str(k) for k in range(100_000)} - gone <= set(seen)
    assert job("len(os.listdir('many'))") == 100_000
    for k in range(80_000):
        (many / f"{k}").unlink(missing_ok=True)
    job.tell("subprocess.run(['rm', '-rf', 'many'], check=True).returncode")
    assert job.answer(280) == 0
    assert not many.exists()


def test_a_small_disk_is_full(job: Talk, here: Path, combo: Combo) -> None:
    tiny = here / "tiny"
    tiny.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=1m,uid={combo.uid},mode=755", "tiny", tiny], check=True)
    try:
        assert job("says(put, 'tiny/f', 'x' * (3 << 20))") == "ENOSPC"
        assert job("os.statvfs('tiny').f_bavail, os.statvfs('tiny').f_blocks") == [0, 256]
        assert (tiny / "f").stat().st_size <= 1 << 20
        assert job("says(os.unlink, 'tiny/f'), says(put, 'tiny/g', 'fits'), says(put, 'h', '')") == ["fine"] * 3
        assert job("says(os.rename, 'tiny/g', 'g'), says(os.link, 'h', 'tiny/h')") == ["EXDEV", "EXDEV"]
        # one device for the job, so the numbers of two must not meet: tar and rsync would take files for hard links
        assert job("os.stat('tiny').st_dev == os.stat('.').st_dev")
        assert job("os.stat('tiny/g').st_ino") != (tiny / "g").stat().st_ino
        assert job("[e.inode() == os.lstat(e.path).st_ino for e in os.scandir('tiny')]") == [True]
        assert job("subprocess.run(['mv', 'tiny/g', 'moved']).returncode, get('moved')") == [0, "fits"]
    finally:
        subprocess.run(["umount", "-l", tiny], check=True)


def looked(job: Talk) -> float:
    before = time.monotonic()
    assert job("get('f')") == "alive"
    return time.monotonic() - before


def test_a_read_that_never_ends_stalls_nobody_and_can_be_killed(job: Talk, here: Path, combo: Combo) -> None:
    (here / "dead").mkdir()
    give(here / "f", "alive", combo)
    with stuck(here / "dead") as asked:
        for k, how in enumerate(("INT", "TERM", "KILL"), 1):
            job(f"child = subprocess.Popen(['cat', 'dead/{k}'])")
            assert asked.wait(60)
            asked.clear()
            soon(lambda: looked(job), 2.0)
            assert job(f"child.send_signal(signal.SIG{how}) or child.wait(timeout=60)") == -signal.Signals[f"SIG{how}"]
        assert job("get('f')") == "alive"


@pytest.mark.parametrize("kind", TAKE)
def test_a_job_gets_its_turn_of_a_lock_that_is_never_free(job: Talk, here: Path, combo: Combo, kind: str) -> None:
    """Two that hold it by turns give it to each other at once: who asks now and then finds it taken, for seconds.

    Counted in turns of theirs: a busy machine makes all three slow. Who has just had it waits a little, for a kernel
    with much else to do wakes those who wait too late to get it before that one has it again.
    """
    give(here / "f", "", combo)
    program = (
        "import fcntl, os, time\n"
        "f, count = open('f', 'r+'), open('count', 'ab', buffering=0)\n"
        "while True:\n"
        f"    {TAKE[kind][0].format('').replace('fd', 'f')}; count.write(b'x'); time.sleep(.02); {RELEASE[kind]}\n"
        "    time.sleep(.002)\n"
    )
    job("fd = os.open('f', os.O_RDWR)")
    release = RELEASE[kind].replace("(f,", "(fd,")
    loops = [subprocess.Popen([PYTHON, "-c", program], cwd=here) for _ in range(2)]
    try:
        once = f"says(lambda: {TAKE[kind][0].format(' | fcntl.LOCK_NB')})"
        until(lambda: job(f"({once}, {release})[0]") == "EAGAIN", "they have it")
        before = (here / "count").stat().st_size
        for _ in range(5):
            job(f"({TAKE[kind][0].format('')}, {release})")
        turns = (here / "count").stat().st_size - before
        assert turns < 100  # a dozen as a rule; who asks every 50 ms finds it free after thousands, if ever
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
