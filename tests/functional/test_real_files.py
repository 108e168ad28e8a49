"""Whole trees and databases: git, sqlite, tar and rsync, compared with what the same commands do here."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys

import pytest

from remoteio.wire.coherence import AHEAD
from tests.functional import planted_tree
from tests.program import Combo, as_login
from tests.real_programs import EACH, give, well

PYTHON = os.path.realpath(getattr(sys, "_base_executable", sys.executable))


GIT_JOB = """
git clone -q src dst
cd dst
git mv dir7 moved
for i in 1 2 3 4 5; do echo "line $i" >>dir$i/file$i; done
rm -r dir9
git add -A
git commit -q -m second
git gc -q --prune=now
git fsck --full --strict
git status --porcelain
git log --format=%s
"""


@pytest.mark.timeout(300)  # git looks at each file ten times, with a round trip each, and once more here
@pytest.mark.where(lambda combo, files: combo == "user-alice")
@pytest.mark.long(lambda combo, files: files > 1000)
@pytest.mark.parametrize("files", [1000, 5000])
def test_git_on_a_repository_of_thousands_of_files(combo: Combo, files: int) -> None:
    names = random.Random(3)
    for number in range(files):
        file = combo.dir / f"src/dir{number % 50}/file{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"%d\n" % number + names.randbytes(names.randrange(2000)).hex().encode())
    give(combo, combo.dir / "src")
    (combo.dir / "gitconfig").write_text("[user]\n\tname = Job\n\temail = job@example.org\n[gc]\n\tauto = 0\n")
    env = {"GIT_CONFIG_GLOBAL": str(combo.dir / "gitconfig")}

    def here(script: str) -> bytes:
        with as_login(combo.as_user, ["sh", "-ec", script], cwd=combo.dir, env=env, stderr=subprocess.PIPE) as process:
            out, err = process.communicate()
        return well(subprocess.CompletedProcess(script, process.returncode, out, err))

    here("cd src; git init -q; git add -A; git commit -q -m first")
    assert well(combo.run(["sh", "-ec", GIT_JOB], env=env, timeout=280)) == b"second\nfirst\n"
    assert here("cd dst; git status --porcelain; git fsck --full --strict; git log --format=%s") == b"second\nfirst\n"
    # The same by git here, from the same source: the same tree, to its hash.
    here("cp -a src again; mv dst there; mv again src.again; " + GIT_JOB.replace("clone -q src", "clone -q src.again"))
    assert here("git -C dst rev-parse HEAD^{tree}") == here("git -C there rev-parse HEAD^{tree}")


WRITER = """
import sqlite3, sys
name, many = sys.argv[1], int(sys.argv[2])
db = sqlite3.connect("shared.db", timeout=60, isolation_level=None)
print("ready", flush=True)
sys.stdin.readline()
for number in range(many):
    db.execute("BEGIN IMMEDIATE")
    (value,) = db.execute("SELECT value FROM counter").fetchone()
    db.execute("UPDATE counter SET value = ?", (value + 1,))
    db.execute("INSERT INTO rows VALUES (?, ?, ?)", (name, number, "x" * (number % 700)))
    db.execute("COMMIT")
    if number % 10 == 0:
        (rows, value) = db.execute("SELECT (SELECT count(*) FROM rows), value FROM counter").fetchone()
        assert rows == value, (rows, value)
assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
db.close()
"""


@EACH
@pytest.mark.long(lambda combo, mode: combo != "user-alice")
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_sqlite_with_a_writer_at_each_end(
    combo: Combo, mode: str, processes_end: list[subprocess.Popen[bytes]]
) -> None:
    many = 150
    with sqlite3.connect(combo.dir / "shared.db") as db:
        assert db.execute(f"PRAGMA journal_mode={mode}").fetchone() == (mode,)
        db.execute("CREATE TABLE counter (value INTEGER)")
        db.execute("CREATE TABLE rows (writer TEXT, number INTEGER, filler TEXT)")
        db.execute("INSERT INTO counter VALUES (0)")
    db.close()
    give(combo, combo.dir)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    there = combo.popen([PYTHON, "-c", WRITER, "there", str(many)], **pipes)
    here = as_login(combo.as_user, [PYTHON, "-c", WRITER, "here", str(many)], cwd=combo.dir, **pipes)
    processes_end += [there, here]
    for writer in (there, here):
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    for writer in (there, here):
        assert writer.stdin is not None
        writer.stdin.write(b"go\n")
        writer.stdin.flush()
    for writer in (there, here):
        out, err = writer.communicate(timeout=100)
        assert (writer.returncode, out, err) == (0, b"", b""), err.decode()
    query = "SELECT value FROM counter; SELECT writer, count(*) FROM rows GROUP BY writer; PRAGMA integrity_check;"
    for look in (combo.here, combo.run):
        assert well(look(["sqlite3", "shared.db", query])).decode() == f"{2 * many}\nhere|{many}\nthere|{many}\nok\n"


TAR_JOB = """
tar --format=posix --xattrs --xattrs-include='*' -S -C tree -cf all.tar .
mkdir copy
tar --xattrs --xattrs-include='*' -S -C copy -xpf all.tar
"""
RSYNC_JOB = "rsync -aHXS tree/ copy/"


@pytest.mark.timeout(300)  # some 100,000 operations, each with a round trip, on a machine that may have other work
@pytest.mark.where(
    lambda combo, job, files: (combo, files) in (
        {("user-alice", 600), ("user-alice", 10_000)} if job == TAR_JOB else {("root-root", 600), ("root-root", 3_000)}
    )
)  # fmt: skip
@pytest.mark.long(lambda combo, job, files: files > 1000)
@pytest.mark.parametrize("files", [600, 3_000, 10_000])
@pytest.mark.parametrize("job", [TAR_JOB, RSYNC_JOB], ids=["tar", "rsync"])
def test_a_tree_of_thousands_of_files_is_copied(combo: Combo, job: str, files: int) -> None:
    program = shutil.copy(planted_tree.__file__, combo.dir)
    well(combo.here([PYTHON, program, "tree", str(files)]))
    before = planted_tree.described(combo.dir / "tree")
    assert len(before) > files
    well(combo.run(["sh", "-ec", job], timeout=280))
    after = planted_tree.described(combo.dir / "copy")
    assert after.keys() == before.keys()
    differ = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    assert not differ, list(differ.items())[:5]


def test_what_a_job_cost_is_counted(combo: Combo) -> None:
    """Each file is new to the host, and too large to be fetched ahead; the clock's seconds are not a processor's."""
    for number in range(40):
        (combo.dir / f"file{number}").write_bytes(b"x\n" + bytes(AHEAD))
    job = "for each in file*; do read -r x <$each; done; while [ $((i += 1)) -lt 30000 ]; do :; done; sleep 0.3"
    log = combo.dir / "log"
    done = combo.run(["sh", "-c", job], options=["-v", "--json-log", str(log)])
    assert done.returncode == 0, done.stderr
    said = json.loads(log.read_text().splitlines()[-1])
    assert 0 < said["cpu"] < said["seconds"] - 0.3
    assert said["waits"]["contents"]["trips"] >= 40 and said["trips"] == sum(w["trips"] for w in said["waits"].values())
    assert 0 < said["waits"]["names"]["seconds"] < said["waited"] < said["seconds"] and said["saved"] > 0
    assert b" of processor time; for files it waited " in done.stderr
