"""What the kernel of a session's host keeps for a minute is as it is at home, whoever has changed it.

Each change is made to files of its own, to all at once. The job has looked at all of them before, and again after the
TTL: that it was answered by its host, from leases, for KEPT_BY_KERNEL.
"""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remoteio.wire.coherence import TTL
from tests.mounted import mounted
from tests.until import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts as root")


def write(at: Path) -> None:
    (at / "file").write_text("longer than it was before")


def append(at: Path) -> None:
    with (at / "file").open("a") as f:
        f.write("more")


def replace(at: Path) -> None:
    (at / "new").write_text("another")
    (at / "new").rename(at / "file")


def restore(at: Path) -> None:
    """As `write`, but for its size and its modification time."""
    before = os.stat(at / "file")
    (at / "file").write_bytes(b"x" * before.st_size)
    os.utime(at / "file", ns=(before.st_atime_ns, before.st_mtime_ns))


def exchange(at: Path) -> None:
    (at / "file").rename(at / "third")
    (at / "other").rename(at / "file")
    (at / "third").rename(at / "other")


def link_over(at: Path) -> None:
    (at / "link").unlink()
    (at / "link").symlink_to("other")


def directory_to_file(at: Path) -> None:
    (at / "within/deep").unlink()
    (at / "within").rmdir()
    (at / "within").write_text("a file now")


def move_directory(at: Path) -> None:
    (at / "within").rename(at / "moved")
    (at / "within").mkdir()
    (at / "within/deep").write_text("not the one that was here")


CHANGES: list[Callable[[Path], object]] = [
    write, append, replace, restore, exchange, link_over, directory_to_file, move_directory,
    lambda at: (at / "file").unlink(),
    lambda at: (at / "file").chmod(0o640),
    lambda at: os.chown(at / "file", 7, 8),
    lambda at: os.utime(at / "file", ns=(5, 5)),
    lambda at: os.truncate(at / "file", 3),
    lambda at: (at / "file").rename(at / "renamed"),
    lambda at: os.link(at / "file", at / "second"),
    lambda at: (at / "absent").write_text("no more"),
    lambda at: (at / "within/deep").unlink(),
    lambda at: (at / "within").chmod(0o700),
    lambda at: (at / "within/deep").rename(at / "deep"),
    lambda at: (at / "within").rename(at / "renamed"),
    lambda at: (at / "within/new").mkdir(),
]  # fmt: skip
NAMES = ["file", "other", "absent", "renamed", "second", "link", "within", "within/deep", "deep", "moved"]
Sight = dict[str, object]


def sight(at: Path) -> Sight:
    """What one who looks at names, and reads what they lead to, sees of one of these directories."""
    found: Sight = {".": sorted(os.listdir(at))}
    for name in NAMES:
        try:
            st = os.lstat(at / name)
        except OSError as e:
            found[name] = e.errno
            continue
        what: object = None
        if stat.S_ISLNK(st.st_mode):
            what = os.readlink(at / name)
        elif stat.S_ISDIR(st.st_mode):
            what = sorted(os.listdir(at / name))
        else:
            what = (at / name).read_bytes()
        size = 0 if stat.S_ISDIR(st.st_mode) else st.st_size
        found[name] = (st.st_mode, st.st_nlink, st.st_uid, st.st_gid, size, st.st_mtime_ns, what)
    return found


def place(top: Path, number: int, who: str) -> Path:
    return top / f"{who}-{number}"


def differing(here: Path, there: Path) -> dict[str, tuple[Sight, Sight]]:
    pairs = ((each.name, sight(each), sight(there / each.name)) for each in sorted(here.iterdir()))
    return {name: (home, job) for name, home, job in pairs if home != job}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Where home has these directories, and where the job has them: all of it is kept by its kernel."""
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    for at in (place(here, number, who) for number in range(len(CHANGES)) for who in ("home", "job", "both")):
        (at / "within").mkdir(parents=True)
        for name in ("file", "other", "within/deep"):
            (at / name).write_text(f"{name} of {at.name}")
        (at / "link").symlink_to("file")
    with mounted(here, there):
        for _ in range(3):
            assert not differing(here, there)
            time.sleep(TTL)
        yield here, there


def test_a_change_at_home_is_seen_within_the_ttl(served: tuple[Path, Path]) -> None:
    here, there = served
    for number, change in enumerate(CHANGES):
        change(place(here, number, "home"))
    until(lambda: not differing(here, there), "it is seen", within=TTL + 0.5)


def test_a_change_of_the_job_is_seen_at_once_and_one_at_home_after_it_within_the_ttl(served: tuple[Path, Path]) -> None:
    """The kernel has done it by itself; what it was told of a name it may hold for another by then."""
    here, there = served
    for number, change in enumerate(CHANGES):
        change(place(there, number, "job"))
        change(place(there, number, "both"))
        assert sight(place(there, number, "job")) == sight(place(here, number, "job"))
    time.sleep(0.2)
    for number in range(len(CHANGES)):
        for each in (place(here, number, "both") / name for name in NAMES):
            if each.is_file() and not each.is_symlink():
                each.unlink()
                each.write_text("another in its place")
    until(lambda: not differing(here, there), "it is seen", within=TTL + 0.5)


def test_what_is_beside_a_file_that_the_job_locks_is_seen_as_it_is(served: tuple[Path, Path]) -> None:
    here, there = served
    locks = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX)"
    for number, change in enumerate(CHANGES):
        at = place(there, number, "job")
        subprocess.run(["/usr/bin/python3", "-c", locks, at / "other"], check=True)
        change(place(here, number, "job"))
    until(lambda: not differing(here, there), "it is seen", within=TTL + 0.5)


def test_what_is_mounted_over_a_name_is_seen(served: tuple[Path, Path]) -> None:
    here, there = served
    within = place(here, 0, "home") / "within"
    subprocess.run(["mount", "-t", "tmpfs", "none", within], check=True)
    try:
        (within / "deep").write_text("mounted")
        until(
            lambda: (place(there, 0, "home") / "within/deep").read_text() == "mounted", "it is seen", within=TTL + 0.5
        )
    finally:
        subprocess.run(["umount", "-l", within], check=True)


@pytest.mark.parametrize("count", [100, 1000])
def test_what_others_change_of_many_files_is_asked_for_together(tmp_path: Path, count: int) -> None:
    """As `git checkout` does: also in a directory that is too large to be listed for who looks at each."""
    here, there, asked = tmp_path / "here", tmp_path / "there", tmp_path / "asked"
    here.mkdir()
    there.mkdir()
    asked.touch()
    names = [f"{k:04}" for k in range(count)]
    for name in names:
        (here / name).write_text(name)
    with mounted(here, there, asked=asked):
        for _ in range(3):
            assert {os.stat(there / name).st_mode & 0o777 for name in names} == {0o644}
            time.sleep(TTL)
        for mode in (0o640, 0o600):
            for name in names:
                (here / name).chmod(mode)
            time.sleep(TTL + 0.2)
            before = len(asked.read_text().split())
            assert {os.stat(there / name).st_mode & 0o777 for name in names} == {mode}
            assert len(asked.read_text().split()) - before < 20 + count // 50
            time.sleep(TTL)


def test_who_reads_what_others_have_written_to_many_files_has_them_fetched(tmp_path: Path) -> None:
    here, there, asked = tmp_path / "here", tmp_path / "there", tmp_path / "asked"
    here.mkdir()
    there.mkdir()
    asked.touch()
    names = [f"{k:04}" for k in range(500)]
    with mounted(here, there, asked=asked):
        for text in ("first", "another", "the third"):
            for name in names:
                (here / name).write_text(f"{text} of {name}")
            time.sleep(TTL + 0.2)
            before = len(asked.read_text().split())
            assert sorted(os.listdir(there)) == names
            assert [os.stat(there / name).st_size for name in names] == [len(text) + 8] * len(names)
            assert [(there / name).read_text() for name in names] == [f"{text} of {name}" for name in names]
            opened = asked.read_text().split()[before:].count("open")
            assert opened < 150, "some while what is under way is learned; the rest came ahead"


def test_what_is_opened_after_it_was_made_longer_is_read_to_its_end(tmp_path: Path) -> None:
    """Also by who has not looked at it since, where others beside it were asked for, and it with them."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    names = [f"{k:03}" for k in range(40)]
    for name in names:
        (here / name).write_text("short")
    with mounted(here, there):
        for text in ("much longer", "as long as it is now"):
            time.sleep(TTL + 0.1)
            assert {os.stat(there / name).st_size for name in names} == {5}
            time.sleep(0.1)
            for name in names:
                (here / name).write_text(text)
            time.sleep(0.1)
            assert sorted(os.listdir(there)) == names
            assert {(there / name).read_text() for name in names} == {text}
            for name in names:
                (here / name).write_text("short")
