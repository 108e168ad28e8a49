"""A job's files that others change too: what they write stays, whether the job is held, parked, moved or lost."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest

from tests.job_commands import PYTHON, Mover, give, here, kill_ssh, said, supervisors, well
from tests.until import until

pytestmark = pytest.mark.where(lambda **params: params["mover"] == "user")

# Appends to `log`, which it holds open, until there is a file of its name followed by -end
APPEND = "exec 5>>log; i=0; while [ ! -e {name}-end ]; do i=$((i+1)); echo {name} $i >&5; sleep .05; done"


def append(mover: Mover, name: str = "job") -> str:
    job = mover.submit("sh", "-c", APPEND.format(name=name))
    until(lambda: (mover.dir / "log").exists(), "it begins", within=30)
    return job


def others(mover: Mover, *lines: str) -> list[str]:
    """A program here appends to the log."""
    with (mover.dir / "log").open("a") as log:
        for line in lines:
            print("others", line, file=log)
    return [f"others {line}" for line in lines]


def log_lines(mover: Mover) -> list[str]:
    """Whole lines only: the job may be in the middle of one."""
    return (mover.dir / "log").read_text().rpartition("\n")[0].split("\n")


def of(name: str, lines: list[str]) -> list[int]:
    """The numbers that `name` has said, in the order of the log."""
    return [int(line.split()[1]) for line in lines if line.startswith(f"{name} ")]


def more(mover: Mover, name: str = "job", n: int = 10) -> None:
    """It appends that many lines more."""
    now = len(of(name, log_lines(mover)))
    until(lambda: len(of(name, log_lines(mover))) >= now + n, f"{name} goes on", within=30)


def end(mover: Mover, job: str, name: str = "job") -> list[str]:
    """Have it end; the whole log."""
    (mover.dir / f"{name}-end").touch()
    assert mover.ended(job) == "done", mover.verb("log", job)
    return log_lines(mover)


def again(mover: Mover, job: str) -> None:
    """It is lost with its link, and goes on."""
    generation = int(str(mover.job(job)["generation"]))
    kill_ssh(mover, job)
    until(lambda: mover.job(job)["generation"] > generation, "another generation", within=30)
    mover.running(job)


def kept(mover: Mover, job: str) -> list[Path]:
    """The copies of what could not be told apart, each of which the log names."""
    words = mover.verb("log", job)
    return [Path(path) for path in re.findall(r"it stays as it is, a copy of it as it is now is (\S+),", words)]


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


def test_a_shared_log_while_the_job_is_held_and_at_each_retry(mover: Mover) -> None:
    data = mover.dir / "other"
    job = mover.submit("sh", "-c", f"exec 6>other; {APPEND.format(name='job')}")
    more(mover)
    mover.verb("hold", job)
    expected = others(mover, "held")
    data.rename(mover.dir / "aside")
    data.touch()
    assert "job is parked" in mover.verb("release", job)
    assert str(mover.job(job)["why"]).startswith(f"{data} has been replaced by another file since image ")
    for n in range(3):
        expected += others(mover, f"parked {n}")
        assert "job is parked" in mover.verb("restart", job)
        assert [line for line in log_lines(mover) if line.startswith("others")] == expected
    (mover.dir / "aside").rename(data)
    mover.verb("restart", job)
    more(mover)
    lines = end(mover, job)
    assert [line for line in lines if line.startswith("others")] == expected
    assert of("job", lines) == list(range(1, len(of("job", lines)) + 1))
    assert not kept(mover, job)


def test_logs_after_the_host_lost_its_power(mover: Mover, desk_alone: ModuleType) -> None:
    """A log of the job's own has each line once; in one that others write to, too, nothing is lost, and it is named."""
    script = "exec 4>>own; exec 5>>log; i=0; while [ ! -e job-end ]; do i=$((i+1)); echo job $i >&4; echo job $i >&5; "
    job = mover.submit("sh", "-c", script + "sleep .05; done; echo job end >&4")
    more(mover)
    mover.verb("checkpoint", job)
    more(mover)
    expected = others(mover, "before")
    more(mover)
    host = str(mover.job(job)["host"])
    desk_alone.power_off(host.partition("-")[0])
    until(lambda: mover.job(job)["state"] != "running", "it is lost", within=30)
    at_loss = log_lines(mover)
    expected += others(mover, "lost")
    until(lambda: mover.job(job)["generation"] >= 2, "another generation", within=60)
    mover.running(job)
    expected += others(mover, "on the other host")
    more(mover)
    lines = end(mover, job)
    assert lines[: len(at_loss)] == at_loss
    assert [line for line in lines if line.startswith("others")] == expected
    own = (mover.dir / "own").read_text().splitlines()
    assert own == [*(f"job {n}" for n in range(1, len(own))), "job end"]
    (copy,) = kept(mover, job)
    assert copy.parent == mover.path(job, "kept") and copy.name.startswith(f"log.job{job}-image")
    assert copy.read_text().splitlines()[: len(at_loss)] == at_loss
    assert f"both the job and others have changed {mover.dir}/log since image " in mover.verb("log", job)


def test_a_log_that_others_wrote_to_before_the_job_did_has_each_line_once(mover: Mover) -> None:
    """Its image is of a job that writes nothing just then."""
    script = "exec 5>>log; echo job 1 >&5; while [ ! -e go ]; do sleep .05; done; " + APPEND.format(name="job")
    job = mover.submit("sh", "-c", script.replace("i=0", "i=1"))
    until(lambda: (mover.dir / "log").exists() and log_lines(mover) == ["job 1"], "it has begun")
    mover.verb("checkpoint", job)
    expected = others(mover, "first")
    (mover.dir / "go").touch()
    more(mover)
    again(mover, job)
    more(mover)
    lines = end(mover, job)
    assert [line for line in lines if line.startswith("others")] == expected
    assert of("job", lines) == list(range(1, len(of("job", lines)) + 1))
    assert not kept(mover, job)


def test_two_jobs_that_append_to_one_log(mover: Mover) -> None:
    names = ("one", "two")
    jobs = [append(mover, name) for name in names]
    for name, job in zip(names, jobs):
        more(mover, name)
        mover.verb("checkpoint", job)
    for name in names:
        more(mover, name)
    mover.verb("hold", jobs[1])
    more(mover, "one")
    mover.verb("release", jobs[1])
    more(mover, "two")
    before = log_lines(mover)
    again(mover, jobs[0])
    more(mover, "one")
    lines = end(mover, jobs[0], "one")
    lines = end(mover, jobs[1], "two")
    assert lines[: len(before)] == before
    assert of("two", lines) == list(range(1, len(of("two", lines)) + 1)), "the other job's"
    assert set(of("one", lines)) == set(range(1, max(of("one", lines)) + 1))
    assert len(kept(mover, jobs[0])) == 1 and not kept(mover, jobs[1])


def test_nothing_is_cut_where_the_supervisor_was_killed(mover: Mover) -> None:
    job = append(mover)
    more(mover)
    mover.verb("checkpoint", job)
    more(mover)
    for pid in supervisors(mover, job):
        os.kill(pid, signal.SIGKILL)
    until(lambda: mover.job(job)["state"] == "stopped", "it is stopped")
    expected = others(mover, "after")
    before = (mover.dir / "log").read_text()
    _, _, words = mover.verb_fails("restart", job)
    assert f"it is not known who has added to {mover.dir}/log since image " in words
    mover.running(job)
    more(mover)
    lines = end(mover, job)
    assert "\n".join(lines).startswith(before)
    assert [line for line in lines if line.startswith("others")] == expected
    (copy,) = kept(mover, job)
    assert copy.read_text() == before


def test_a_job_that_was_killed_goes_on_with_each_line_once(mover: Mover) -> None:
    """By its user, who has its supervisor end in order: what it knows is in the job's record."""
    job = append(mover)
    more(mover)
    mover.verb("checkpoint", job)
    more(mover)
    mover.verb("kill", job)
    assert mover.ended(job) == "signal 9"
    mover.verb("restart", job)
    more(mover)
    lines = end(mover, job)
    assert of("job", lines) == list(range(1, len(of("job", lines)) + 1))
    assert not kept(mover, job)


def test_nothing_is_cut_before_a_host_has_taken_the_job(mover: Mover) -> None:
    """And what is cut then is kept until the job has added it again."""
    job = append(mover)
    more(mover)
    mover.verb("checkpoint", job)
    more(mover)
    hosts = mover.dir / "config" / "rexec" / "hosts.toml"
    hosts.parent.mkdir(parents=True, exist_ok=True)
    hosts.write_text("[hosts.alpha")
    kill_ssh(mover, job)
    until(lambda: mover.job(job)["state"] == "parked", "it is parked", within=30)
    before = log_lines(mover)
    assert "hosts.toml" in str(mover.job(job)["why"])
    hosts.unlink()
    mover.verb("kill", job)
    assert mover.ended(job) == "signal 9"
    assert log_lines(mover) == before
    mover.verb("restart", job)
    mover.running(job)
    taken = re.findall(r", (\d+) bytes, is taken back, for it adds that again: (\S+)", mover.verb("log", job))
    ((size, copy),) = taken
    assert Path(copy).stat().st_size == int(size)
    assert "\n".join(before).endswith(Path(copy).read_text().rstrip("\n"))
    until(lambda: len(log_lines(mover)) > len(before), "it has added all of it again", within=30)
    lines = end(mover, job)
    assert lines[: len(before)] == before
    assert of("job", lines) == list(range(1, len(lines) + 1))
    assert not kept(mover, job) and not Path(copy).exists()


def test_what_the_job_overwrote_itself_is_named_and_kept_if_it_is_forced_on(mover: Mover) -> None:
    """And goes on with the file that somebody has put in the place of one that it holds open."""
    script = "import os, time\nf = open('other', 'w+b', 0)\nf.write(bytes(100))\n"
    script += "while not os.path.exists('end'):\n    f.seek(0)\n"
    script += "    f.write(b'%d' % time.time_ns())\n    time.sleep(.05)"
    job = mover.submit(PYTHON, "-c", script)
    mover.verb("checkpoint", job)
    was = (mover.dir / "other").read_bytes()
    until(lambda: (mover.dir / "other").read_bytes() != was, "it writes on")
    kill_ssh(mover, job)
    until(lambda: mover.job(job)["state"] == "parked", "it is parked", within=30)
    assert str(mover.job(job)["why"]).startswith(f"{mover.dir}/other has been changed since image ")
    was = (mover.dir / "other").read_bytes()
    mover.verb("restart", job, "--force")
    (copy,) = kept(mover, job)
    assert copy.read_bytes() == was
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
    """Whatever only adds to a file is taken back, for the job does it again; what destroys something is named."""
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
    said(mover, job, "destroyed\n")
    kill_ssh(mover, job)
    until(lambda: mover.job(job)["state"] == "parked", "it is parked", within=30)
    assert re.match(f"{mover.dir}/emptied has been .* image \\d+ was made and 4 more: ", str(mover.job(job)["why"]))
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
    until(lambda: mover.verb_fails("hold", job)[0] == 0, "it can be held", within=10)
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


def test_what_the_job_put_in_another_place_is_not_destroyed_by_its_doing_it_again(mover: Mover) -> None:
    """It gave the file another name first, or renamed a directory: what the image saw is only there by now."""
    job = mover.submit(PYTHON, "-c", AWAY)
    said(mover, job, "open\n")
    for _ in range(2):  # the second time none of the files is known to the generation that runs
        mover.verb("vacate", job)
        mover.running(job)
    (mover.dir / "go").touch()
    said(mover, job, "away\n")
    kill_ssh(mover, job)
    until(lambda: mover.job(job)["state"] == "parked", "it is parked", within=30)
    why = str(mover.job(job)["why"])
    assert re.match(f"{mover.dir}/linked has been replaced by another file since image \\d+ was made and 2 more: ", why)
    for name in ("linked.old", "replaced.old", "out.old/A", "stays", "back/A"):
        assert (mover.dir / name).read_text() == "precious"
    mover.verb("restart", job, "--force")
    (mover.dir / "end").touch()
    mover.ended(job)
    assert [copy.read_text() for copy in kept(mover, job)] == ["new"] * 3


SENT = """
import os, time
def wait(name):
    while not os.path.exists(name):
        time.sleep(.01)
def add(line):
    with open("log", "a") as log:
        log.write(line)
add("before\\n")
print("open", flush=True)
wait("fill")
data = [os.urandom(1 << 20) for _ in range(256)]
print("filled", flush=True)
wait("go")
add("after\\n")
print("added", flush=True)
wait("end")
"""


def test_what_is_added_to_a_file_while_the_image_is_sent_came_after_it(mover: Mover) -> None:
    """To one of an earlier generation: that is looked at when the job stands still, as those of this one are."""
    job = mover.submit(PYTHON, "-c", SENT)
    said(mover, job, "open\n")
    mover.verb("hold", job)
    mover.verb("release", job)
    (mover.dir / "fill").touch()
    said(mover, job, "open\nfilled\n")
    images = mover.dir / "state" / "rexec" / "images" / job
    with ThreadPoolExecutor(1) as pool:
        saved = pool.submit(mover.verb, "checkpoint", job)
        until(lambda: any(part.stat().st_size for part in images.glob("*.part")), "the image comes", within=30)
        (mover.dir / "go").touch()
        said(mover, job, "open\nfilled\nadded\n")
        assert not saved.done()
        saved.result()
    again(mover, job)
    said(mover, job, "open\nfilled\nadded\n")
    until(lambda: (mover.dir / "log").read_text() == "before\nafter\n", "it is added once")
    (mover.dir / "end").touch()
    well(mover, job)
    assert (mover.dir / "log").read_text() == "before\nafter\n"
    assert not kept(mover, job)
