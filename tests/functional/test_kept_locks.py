"""Locks that home leaves to the host, as nobody there has the file open: few round trips, and nobody can tell."""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.program import Combo
from tests.real_programs import well
from tests.talk import PYTHON, Talk
from tests.until import HANG, until

pytestmark = pytest.mark.parametrize("combo", ["local-root", "user-alice"], indirect=True)


@pytest.fixture
def job(combo: Combo) -> Iterator[Talk]:
    with Talk(combo, ["--lease", "1s"]) as talk:  # one test kills rexec, and the host is to know soon
        yield talk


@pytest.fixture
def here(combo: Combo) -> Path:
    return combo.dir


LOCKS = """
import fcntl, sys
with open("locked", "w+") as f:
    for k in range(int(sys.argv[1])):
        fcntl.lockf(f, fcntl.LOCK_EX, 1, k % 5)
        fcntl.lockf(f, fcntl.LOCK_SH, 1, 7)
        fcntl.lockf(f, fcntl.LOCK_UN, 1, k % 5)
        fcntl.lockf(f, fcntl.LOCK_UN, 1, 7)
"""


def _trips(combo: Combo, *command: object) -> int:
    log = combo.dir / "log"
    log.unlink(missing_ok=True)
    well(combo.run([str(each) for each in command], options=["--json-log", log]))
    (ended,) = [event for event in map(json.loads, log.read_text().splitlines()) if event["event"] == "ended"]
    return int(ended["trips"])


def test_locks_on_a_file_that_nobody_else_has_open_ask_nothing(combo: Combo, here: Path) -> None:
    few, many = (_trips(combo, PYTHON, "-c", LOCKS, each) for each in (10, 1000))
    assert many < few + 400, "4,000 locks; some are asked for where the job stands still for a while"


TRANSACTIONS = """
import sqlite3, sys
db = sqlite3.connect("db", timeout=60, isolation_level=None)
for k in range(int(sys.argv[1])):
    db.execute("begin immediate")
    db.execute("insert into t values ('there', ?)", (k,))
    db.execute("update n set n = n + 1")
    db.execute("commit")
"""


def _database(path: Path, combo: Combo) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        assert db.execute("pragma journal_mode=wal").fetchone() == ("wal",)
        db.executescript("create table t (who, k); create table n (n); insert into n values (0)")
    os.chown(path, combo.uid, -1)


def test_a_transaction_of_sqlite_asks_nothing(combo: Combo, here: Path) -> None:
    _database(here / "db", combo)
    few, many = (_trips(combo, PYTHON, "-c", TRANSACTIONS, each) for each in (10, 300))
    assert many < few + 600, "each of 290 made 16 round trips"


def test_who_comes_while_the_job_writes_has_his_turns_and_no_row_is_lost(job: Talk, here: Path, combo: Combo) -> None:
    """He has nothing open when the job begins, and opens and closes the database for each row."""
    _database(here / "db", combo)
    job(
        "def add(count):\n"
        "    global db\n"  # it stays open, and so its log stays
        "    db = sqlite3.connect('db', timeout=60, isolation_level=None)\n"
        "    for k in range(count):\n"
        "        db.execute('begin immediate')\n"
        "        db.execute(\"insert into t values ('there', ?)\", (k,))\n"
        "        db.execute('update n set n = n + 1')\n"
        "        db.execute('commit')\n"
    )
    job.tell("add(200)")
    until(lambda: (here / "db-wal").exists() and (here / "db-wal").stat().st_size > 40_000, "it writes", within=HANG)
    for k in range(30):
        with closing(sqlite3.connect(here / "db", timeout=60, isolation_level=None)) as db:
            os.chown(here / "db-wal", combo.uid, -1)
            os.chown(here / "db-shm", combo.uid, -1)
            db.execute("begin immediate")
            db.execute("insert into t values ('here', ?)", (k,))
            db.execute("update n set n = n + 1")
            db.execute("commit")
            (rows, n) = db.execute("select (select count(*) from t), n from n").fetchone()
            assert rows == n
    job.answer(HANG)
    with closing(sqlite3.connect(here / "db", isolation_level=None)) as db:
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
        assert db.execute("select n from n").fetchone() == (230,)
        assert db.execute("select who, count(*) from t group by who order by who").fetchall() == [
            ("here", 30),
            ("there", 200),
        ]


def _take(path: Path, first: int = 0, kind: int = fcntl.LOCK_EX) -> bool:
    """Lock a byte of a file as a program does that has just opened it."""
    with path.open("r+b") as file:
        try:
            fcntl.lockf(file, kind | fcntl.LOCK_NB, 1, first)
        except OSError as e:
            assert e.errno in (errno.EAGAIN, errno.EACCES)
            return False
        return True


def _file(path: Path, combo: Combo, size: int = 8192) -> Path:
    path.write_bytes(bytes(size))
    os.chown(path, combo.uid, -1)
    return path


def test_what_the_job_holds_nobody_gets_and_what_it_said_that_it_gave_up_he_does(
    job: Talk, here: Path, combo: Combo
) -> None:
    f = _file(here / "f", combo)
    job("f = open('f', 'r+b')")
    for turn in range(5):
        job("[fcntl.lockf(f, how, 1, at) for at in range(3) for how in (fcntl.LOCK_EX, fcntl.LOCK_UN, fcntl.LOCK_SH)]")
        job("fcntl.lockf(f, fcntl.LOCK_UN, 1, 0); fcntl.lockf(f, fcntl.LOCK_EX, 1, 1)")
        assert _take(f, 0) and _take(f, 3), turn
        assert not _take(f, 1) and not _take(f, 1, fcntl.LOCK_SH), turn
        assert not _take(f, 2) and _take(f, 2, fcntl.LOCK_SH), turn
        job("fcntl.lockf(f, fcntl.LOCK_UN)")
        assert _take(f, 1) and _take(f, 2), turn
        job("f.close(); f = open('f', 'r+b')")


def test_who_opens_the_file_while_the_job_says_nothing_gets_what_it_gave_up(
    job: Talk, here: Path, combo: Combo
) -> None:
    f = _file(here / "f", combo)
    job("f = open('f', 'r+b')")
    job.tell(
        "while not os.path.exists('stop'): fcntl.lockf(f, fcntl.LOCK_EX, 1, 0); fcntl.lockf(f, fcntl.LOCK_UN, 1, 0)"
    )
    with f.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 1, 0)  # waits for his turn
        assert job.quiet(0.1)
        fcntl.lockf(file, fcntl.LOCK_UN, 1, 0)
    (here / "stop").touch()
    job.answer()


def test_what_was_changed_under_a_lock_is_here_before_the_job_says_so(job: Talk, here: Path, combo: Combo) -> None:
    """By a mapping, which is written back when the lock is given up; told by the job's output, and by another file."""
    f = _file(here / "f", combo)
    (here / "other").mkdir()
    os.chown(here / "other", combo.uid, -1)
    job(
        "def change(value):\n"
        "    global f, m\n"
        "    f = open('f', 'r+b'); m = mmap.mmap(f.fileno(), 0)\n"
        "    fcntl.lockf(f, fcntl.LOCK_EX, 1, 0)\n"
        "    for at in (10, 5000): m[at] = value\n"
        "    fcntl.lockf(f, fcntl.LOCK_UN, 1, 0)\n"
    )
    for value in range(1, 6):
        job(f"change({value})")
        assert {f.read_bytes()[at] for at in (10, 5000)} == {value}
        job("m.close(); f.close()")
    for value in range(6, 11):
        told = here / "other" / str(value)
        job.tell(f"change({value}); os.mkdir('other/{value}'); sys.stdin.readline()")  # and says nothing so far
        until(told.exists, "it has told so", within=HANG)
        assert {f.read_bytes()[at] for at in (10, 5000)} == {value}
        job.tell("")
        job.answer()
        job("m.close(); f.close()")


def test_what_was_changed_by_a_mapping_of_a_new_file_is_here_when_he_who_waits_has_the_lock(
    job: Talk, here: Path, combo: Combo
) -> None:
    """The job has made it beside a locked one, as sqlite makes its `-shm`: nobody else has had it open before."""
    _file(here / "f", combo)
    job(
        "f = open('f', 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX, 1, 0)\n"
        "def change(name):\n"
        "    global new, m\n"
        "    new = open(name, 'w+b'); new.truncate(8192); new.flush(); m = mmap.mmap(new.fileno(), 0)\n"
        "    fcntl.lockf(new, fcntl.LOCK_EX, 1, 0)\n"
        "    for at in (10, 5000): m[at] = 1\n"
        "    fcntl.lockf(new, fcntl.LOCK_UN, 1, 0)\n"
    )
    for k in range(8):
        name = here / f"shm{k}"
        job.tell(f"change({name.name!r}); sys.stdin.readline()")  # and says nothing so far
        until(lambda name=name: name.exists() and name.stat().st_size == 8192, "it is made", within=HANG)
        with name.open("r+b") as file:
            while True:
                fcntl.lockf(file, fcntl.LOCK_EX, 1, 0)
                data = file.read()
                fcntl.lockf(file, fcntl.LOCK_UN, 1, 0)
                if data[5000]:  # else he came before the job
                    break
                file.seek(0)
        assert data[10] == 1, "one was changed before the other, under the same lock"
        job.tell("")
        job.answer()
        job("m.close(); new.close()")


def test_what_lies_beside_is_as_it_was_when_the_lock_was_given_up(job: Talk, here: Path, combo: Combo) -> None:
    """Its names, its attributes and what is in it, all of which the job has looked at within that second."""
    f, log = _file(here / "f", combo), _file(here / "log", combo, 10)
    job(
        "f = open('f', 'r+b'); log = open('log', 'r+b', buffering=0)\n"
        "def look():\n"
        "    names = [name for name in ('log', 'none', 'new') if os.path.exists(name)]\n"
        "    return names, os.stat('log').st_size, os.pread(log.fileno(), 100, 0), open('log', 'rb').read()\n"
        "def locked():\n"
        "    fcntl.lockf(f, fcntl.LOCK_EX, 1, 0)\n"
        "    seen = look()\n"
        "    os.pwrite(log.fileno(), b'job', 0)\n"
        "    fcntl.lockf(f, fcntl.LOCK_UN, 1, 0)\n"
        "    return seen\n"
    )
    for turn in range(8):
        job("locked(); look(); locked(); look()")
        with f.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX, 1, 0)
            held = log.read_bytes()
            assert held.startswith(b"job")
            with log.open("ab") as more:
                more.write(b"+%d" % turn)
            held += b"+%d" % turn
            if turn % 2:
                (here / "new").unlink()
            else:
                (here / "new").touch()
            fcntl.lockf(file, fcntl.LOCK_UN, 1, 0)
        names = ["log", "new"] if not turn % 2 else ["log"]
        job(f"seen = locked(); assert seen == ({names}, {len(held)}, {held!r}, {held!r}), seen")


BOTH = """
import fcntl, os, sys
f = os.open("f", os.O_RDWR)
for child in range(int(sys.argv[1])):
    if os.fork() == 0:
        if sys.argv[2] == "again":
            f = os.open("f", os.O_RDWR)
        for k in range(100):
            fcntl.lockf(f, fcntl.LOCK_EX, 8, 0)
            os.pwrite(f, b"%08d" % (int(os.pread(f, 8, 0)) + 1), 0)
            fcntl.lockf(f, fcntl.LOCK_UN, 8, 0)
        os._exit(0)
while True:
    try:
        assert os.wait()[1] == 0
    except ChildProcessError:
        break
print(os.pread(f, 8, 0).decode())
"""


@pytest.mark.parametrize("how", ["inherited", "again"])
def test_processes_of_the_job_keep_each_other_out(combo: Combo, here: Path, how: str) -> None:
    (here / "f").write_text("00000000")
    os.chown(here / "f", combo.uid, -1)
    assert well(combo.run([PYTHON, "-c", BOTH, "2", how])).decode() == "00000200\n"
    assert (here / "f").read_text() == "00000200"


REFUSED = """
import fcntl, os
f = os.open("f", os.O_RDWR)
there, here = os.pipe(), os.pipe()
def tries():
    try:
        fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
    except BlockingIOError:
        return b"n"
    return b"y"
if os.fork() == 0:
    while os.read(there[0], 1) == b"?":
        os.write(here[1], tries())
        fcntl.lockf(f, fcntl.LOCK_UN, 1, 0)
    os._exit(0)
for k in range(30):
    fcntl.lockf(f, fcntl.LOCK_EX, 1, 0)
    os.write(there[1], b"?")
    assert os.read(here[0], 1) == b"n", "held by its parent"
    fcntl.lockf(f, fcntl.LOCK_UN, 1, 0)
    os.write(there[1], b"?")
    assert os.read(here[0], 1) == b"y", "given up by its parent"
os.write(there[1], b"!")
assert os.wait()[1] == 0
"""


def test_what_one_process_of_the_job_gives_up_the_next_gets_at_once(combo: Combo, here: Path) -> None:
    _file(here / "f", combo)
    well(combo.run([PYTHON, "-c", REFUSED]))


def test_the_locks_of_a_job_that_is_killed_are_free(job: Talk, here: Path, combo: Combo) -> None:
    f = _file(here / "f", combo)
    job("f = open('f', 'r+b')")
    job.tell("while True: fcntl.lockf(f, fcntl.LOCK_EX, 1, 0); fcntl.lockf(f, fcntl.LOCK_UN, 1, 0)")
    with f.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        assert mapped[0] == 0
        job.process.kill()
        job.process.wait()
        fcntl.lockf(file, fcntl.LOCK_EX)
