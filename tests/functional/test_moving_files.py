"""A job's files that others change too: what they write stays, whether the job is held, parked, moved or lost."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from tests.job_commands import LONG, PYTHON, USER, Mover, again, give, here, kept, said, well
from tests.until import until

pytestmark = USER


@LONG
def test_a_database_that_is_filled_while_the_job_is_held(mover: Mover) -> None:
    job = mover.submit(
        "sh", "-c", "sqlite3 w.db 'create table t(x)'; echo made; while [ ! -e go ]; do sleep .05; done; sqlite3 w.db "
        "'select count(*) from t'",
    )  # fmt: skip
    said(mover, job, "made\n")
    mover.verb("hold", job)
    fill = "with recursive c(n) as (select 1 union all select n + 1 from c where n < 4000) "
    here(mover, "sqlite3", "w.db", f"insert into t {fill} select hex(randomblob(50)) from c")
    filled = (mover.dir / "w.db").read_bytes()
    assert len(filled) > 400_000
    mover.verb("release", job)
    mover.running(job)
    assert (mover.dir / "w.db").read_bytes() == filled
    (mover.dir / "go").touch()
    assert well(mover, job) == "made\n4000\n"
    assert here(mover, "sqlite3", "w.db", "pragma integrity_check") == "ok\n"
    assert not kept(mover, job)


WAL = """
import os, sqlite3, time
db = sqlite3.connect("w.db", isolation_level=None)
db.execute("pragma journal_mode=wal")
db.execute("create table t(x)")
db.execute("insert into t values ('job')")
reader = open("text")
print(reader.readline(), end="", flush=True)
print("open", flush=True)
while not os.path.exists("go"):
    time.sleep(.05)
print(db.execute("select count(*) from t").fetchone()[0], flush=True)
db.execute("insert into t values ('job')")
print(reader.read(), end="")
"""


@LONG
def test_a_database_that_the_job_keeps_open_is_written_to_while_it_is_held(mover: Mover) -> None:
    """Its log grows, and so does a file that the job only reads; another's mode changes: the job is not parked."""
    text = mover.dir / "text"
    text.write_text("one\n")
    job = mover.submit(PYTHON, "-c", WAL)
    said(mover, job, "open\n")
    mover.verb("hold", job)
    grown = (mover.dir / "w.db-wal").stat().st_size
    here(mover, "sqlite3", "w.db", "insert into t select value from generate_series(1, 3000)")
    assert (mover.dir / "w.db-wal").stat().st_size > grown
    with text.open("a") as file:
        file.write("two\n")
    (mover.dir / "w.db").chmod(0o600)
    assert "the job goes on on" in mover.verb("release", job)
    (mover.dir / "go").touch()
    assert well(mover, job) == "one\nopen\n3001\ntwo\n"
    assert here(mover, "sqlite3", "w.db", "pragma integrity_check; select count(*) from t") == "ok\n3002\n"


@LONG
def test_what_the_job_overwrote_itself_is_put_back(mover: Mover) -> None:
    """And with --force it goes on with the file that somebody has put in the place of one that it holds open."""
    script = "import os, time\nf = open('other', 'w+b', 0)\nf.write(bytes(100))\n"
    script += "while not os.path.exists('go'):\n    time.sleep(.05)\n"
    script += "f.seek(0)\nprint(f.read(5), flush=True)\nf.seek(0)\nf.write(b'%d' % time.time_ns())\n"
    script += "while not os.path.exists('end'):\n    time.sleep(.05)\n"
    job = mover.submit(PYTHON, "-c", script)
    mover.verb("checkpoint", job)
    (mover.dir / "go").touch()
    until(lambda: (mover.dir / "other").read_bytes() != bytes(100), "it writes")
    again(mover, job)
    said(mover, job, f"{bytes(5)}\n")
    assert not kept(mover, job)
    mover.verb("hold", job)
    (mover.dir / "new").write_bytes(bytes(200))
    give(mover, mover.dir / "new")
    (mover.dir / "new").rename(mover.dir / "other")
    assert "job is parked" in mover.verb("release", job)
    assert "other has been replaced by another file since image " in str(mover.job(job)["why"])
    mover.verb("restart", job, "--force")
    (mover.dir / "end").touch()
    assert mover.ended(job) == "done"
    assert (mover.dir / "other").stat().st_size == 200


def test_a_database_is_whole_after_a_lost_host(mover: Mover) -> None:
    """The job closed it before its image, and others have filled it since."""
    job = mover.submit(
        "sh", "-c", "sqlite3 w.db 'create table t(x)'; echo made; while [ ! -e go ]; do sleep .05; done",
    )  # fmt: skip
    said(mover, job, "made\n")
    mover.verb("checkpoint", job)
    with closing(sqlite3.connect(mover.dir / "w.db")) as db, db:
        db.executemany("insert into t values (?)", [("x" * 100,)] * 4000)
    again(mover, job)
    (mover.dir / "go").touch()
    well(mover, job)
    assert here(mover, "sqlite3", "w.db", "pragma integrity_check; select count(*) from t") == "ok\n4000\n"


WAYS = """
import mmap, os, time
names = "append offset copied allocated longer | emptied shortened mapped removed renamed".split()
fds = {name: os.open(name, os.O_RDWR | os.O_CREAT | (os.O_APPEND if name == "append" else 0)) for name in names}
for fd in fds.values():
    os.write(fd, bytes(100))
def wait(name):
    while not os.path.exists(name):
        time.sleep(.05)
def add():
    os.write(fds["append"], b"own")
    os.fchmod(fds["append"], 0o600)
    os.utime("append", (1, 1))
    os.link("append", "link")
    os.unlink("link")
    os.setxattr("append", "user.a", b"b")
    os.removexattr("append", "user.a")
    os.write(fds["append"], b"more")
    os.pwrite(fds["offset"], b"own", 100)
    os.pwrite(fds["offset"], b"!", 101)
    os.copy_file_range(fds["append"], fds["copied"], 3, 100, 100)
    os.posix_fallocate(fds["allocated"], 100, 50)
    os.ftruncate(fds["longer"], 150)
def destroy():
    open("emptied", "w").close()
    os.truncate("shortened", 50)
    with mmap.mmap(fds["mapped"], 100) as page:
        page[5] = 7
    os.unlink("removed")
    os.rename("renamed", "another")
print("open", flush=True)
wait("go")
add()
print("added", flush=True)
wait("destroy")
destroy()
print("destroyed", flush=True)
wait("end")
"""


def test_every_way_to_change_a_file(mover: Mover) -> None:
    """All of it is taken back, for the job does it again, be it that it adds to a file or destroys it."""
    job = mover.submit(PYTHON, "-c", WAYS)
    said(mover, job, "open\n")
    mover.verb("checkpoint", job)
    (mover.dir / "go").touch()
    for _ in range(2):
        said(mover, job, "added\n")
        again(mover, job)
    said(mover, job, "added\n")
    until(lambda: (mover.dir / "longer").stat().st_size == 150, "it has added all again")
    added = {"append": b"ownmore", "offset": b"o!n", "copied": b"own", "allocated": bytes(50), "longer": bytes(50)}
    assert {name: (mover.dir / name).read_bytes()[100:] for name in added} == added
    (mover.dir / "destroy").touch()
    for _ in range(2):
        said(mover, job, "destroyed\n")
        until(lambda: not (mover.dir / "renamed").exists(), "it has done all again")
        again(mover, job)
    (mover.dir / "end").touch()
    well(mover, job)
    assert (mover.dir / "another").read_bytes() == bytes(100) and not (mover.dir / "removed").exists()
    assert (mover.dir / "emptied").read_bytes() == b"" and (mover.dir / "shortened").read_bytes() == bytes(50)
    assert (mover.dir / "mapped").read_bytes() == bytes(5) + b"\7" + bytes(94)
    assert not kept(mover, job)


HOLDS = """
import os, time
os.mkdir("d")
with open("d/db", "w") as file:
    file.write("this is the old database")
file = open("d/db", "r+b", buffering=0)
print("open", flush=True)
while not os.path.exists("go"):
    time.sleep(.02)
file.write(b"J" * 20)
print("written")
"""


@pytest.mark.parametrize("what", ["replaced", "directory renamed"])
def test_a_file_that_is_moved_away_here_just_before_a_hold(mover: Mover, what: str) -> None:
    """The job's kernel takes the old name for the file's for a second: nothing could go on from such an image."""
    db, aside = mover.dir / "d/db", mover.dir / "aside"
    moved = db if what == "replaced" else db.parent
    job = mover.submit(PYTHON, "-c", HOLDS)
    said(mover, job, "open\n")
    moved.rename(aside)
    if what == "replaced":
        db.write_text("this is the new database")
    _, _, why = mover.verb_fails("hold", job)
    # by the host, if a second had passed
    assert f"{db}, which the job has open, has been renamed or replaced at home: put it back" in why or "criu" in why
    assert mover.job(job)["state"] == "running"
    if what == "replaced":
        assert db.read_text() == "this is the new database"
    aside.rename(moved)
    # what the job's kernel was told of the name may stand for a second
    until(lambda: mover.verb_fails("hold", job)[0] == 0, "it can be held")
    mover.verb("release", job)
    (mover.dir / "go").touch()
    assert well(mover, job) == "open\nwritten\n"
    assert db.read_bytes() == b"J" * 20 + b"base"


AWAY = """
import os, time
for name in ("linked", "replaced", "stays", "out/A", "back/A"):
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    with open(name, "w") as f:
        f.write("precious")
def wait(name):
    while not os.path.exists(name):
        time.sleep(.05)
def new(name):
    with open(name, "w") as f:
        f.write("new")
print("open", flush=True)
wait("go")
os.link("linked", "linked.old")
os.unlink("linked")
new("linked")
os.link("replaced", "replaced.old")
new("tmp")
os.rename("tmp", "replaced")
os.link("stays", "link")
os.rename("link", "another")
os.unlink("another")
os.rename("out", "out.old")
os.mkdir("out")
new("out/A")
os.rename("back", "away")
os.rename("away", "back")
print("away", flush=True)
wait("end")
"""


@LONG
def test_what_the_job_put_in_another_place_is_back_before_it_does_that_again(mover: Mover) -> None:
    """It gave the file another name first, or renamed a directory: what the image saw is only there by then."""
    job = mover.submit(PYTHON, "-c", AWAY)
    said(mover, job, "open\n")
    for _ in range(2):  # the second time none of the files is known to the generation that runs
        mover.verb("vacate", job)
        mover.running(job)
    (mover.dir / "go").touch()
    said(mover, job, "away\n")
    again(mover, job)
    (mover.dir / "end").touch()
    assert well(mover, job) == "open\naway\n", "it could do all that again"
    for name in ("linked.old", "replaced.old", "out.old/A", "stays", "back/A"):
        assert (mover.dir / name).read_text() == "precious"
    assert [(mover.dir / name).read_text() for name in ("linked", "replaced", "out/A")] == ["new"] * 3
    assert not kept(mover, job)


LINKED = """
import os, time
os.mkdir("new")
mail = open("mail", "w")
mail.write("first\\n")
mail.flush()
os.link("mail", "new/mail")
os.unlink("mail")
print("open", flush=True)
while not os.path.exists("go"):
    time.sleep(.05)
mail.write("last\\n")
"""


@pytest.mark.long(lambda **_: True)
def test_a_file_whose_name_was_removed_while_it_has_another(mover: Mover) -> None:
    """Each host is told by what name the file is to be had; what is its old name by now is another file."""
    job = mover.submit(PYTHON, "-c", LINKED)
    said(mover, job, "open\n")
    mover.verb("hold", job)
    (mover.dir / "mail").write_text("another\n")
    mover.verb("release", job)
    mover.running(job)
    mover.verb("vacate", job)
    (mover.dir / "go").touch()
    assert well(mover, job) == "open\n"
    assert [(mover.dir / name).read_text() for name in ("mail", "new/mail")] == ["another\n", "first\nlast\n"]
