"""The work that is done while the link is cut, and once without: what is once only, streams, and real programs.

``python3 mixed_work.py`` in an empty directory: for each line of its input it does one round, and says its sum; the
line `end` ends it. Whatever is done twice, lost, or out of order is an error, another sum, or another file.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

GIT = {
    "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z", "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b", "GIT_CONFIG_NOSYSTEM": "1",
}  # fmt: skip


def git(*words: str) -> None:
    """Call git in the directory `repo`."""
    subprocess.run(["git", *words], cwd="repo", env={**os.environ, **GIT}, check=True, stdout=subprocess.DEVNULL)


def some(number: int, size: int) -> bytes:
    """Make bytes that follow from the number."""
    return hashlib.shake_128(b"%d" % number).digest(size)


def once(number: int) -> None:
    """Do what fails if it is done twice."""
    os.mkdir(f"made-{number}")
    os.close(os.open(f"made-{number}/new", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    os.rename(f"made-{number}/new", f"made-{number}/old")
    os.link(f"made-{number}/old", f"made-{number}/other")
    os.unlink(f"made-{number}/old")
    if number > 1:
        os.unlink(f"made-{number - 1}/other")
        os.rmdir(f"made-{number - 1}")


def commits(number: int) -> None:
    """Commit a new file, and a changed one."""
    Path("repo", f"file-{number}").write_bytes(some(number, 3000))
    with open("repo/all", "a", encoding="ascii") as file:
        file.write(f"{number}\n")
    git("add", ".")
    git("commit", "-q", "-m", f"{number}")


def rows(number: int, db: sqlite3.Connection) -> int:
    """Insert some rows, a transaction each; return how many there are."""
    for k in range(5):
        with db:
            db.execute("insert into numbers values (?, ?)", (number * 100 + k, some(k, 200)))
    return int(db.execute("select count(*) from numbers").fetchone()[0])


def packs(number: int) -> str:
    """Pack files, and unpack them; return the sum of what came out."""
    for k in range(20):
        Path("tree", f"{k}").write_bytes(some(number * 20 + k, 4000 + 997 * k))
    subprocess.run(["tar", "cf", "tree.tar", "tree"], check=True)
    subprocess.run(["tar", "xf", "tree.tar", "-C", "copy"], check=True)
    os.unlink("tree.tar")  # it has times
    found = hashlib.sha256()
    for k in range(20):
        found.update(Path("copy/tree", f"{k}").read_bytes())
    return found.hexdigest()


def main() -> None:
    """Do a round for each line of input."""
    os.mkdir("repo")
    os.mkdir("tree")
    os.mkdir("copy")
    git("init", "-q", "-b", "main")
    db = sqlite3.connect("numbers.db")
    db.execute("create table numbers (n integer primary key, data blob)")
    log = open("log", "ab", buffering=0)  # noqa: SIM115 - open while the job lives, as a daemon's log is
    big = open("big", "w+b")  # noqa: SIM115 - and this has no name any more
    os.unlink("big")
    for number, line in enumerate(sys.stdin, 1):
        if line == "end\n":
            break
        once(number)
        commits(number)
        count, packed = rows(number, db), packs(number)
        for k in range(50):
            log.write(b"%d %d\n" % (number, k))
        big.seek(0)
        big.write(some(number, 3 << 20))
        big.seek(1 << 20)
        print(number, line.strip(), count, packed, hashlib.sha256(big.read()).hexdigest(), flush=True)
    db.close()


if __name__ == "__main__":
    main()
