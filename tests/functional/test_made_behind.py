"""What a job makes is told to it before it is made here, and is here as it was told, or the job hears of it."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remoteio.submit.export.files import OpenFiles
from remoteio.submit.export.leases import Leases
from remoteio.submit.export.more_made import MoreMade
from remoteio.submit.export.names import Names
from remoteio.wire.coherence import TTL
from tests.held_home import HeldHome
from tests.mounted import mounted
from tests.until import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts as root")
GROUP = 54321


class Served(HeldHome):
    """A directory in which the job has just made one of each kind."""

    def goes_on(
        self, work: Callable[[Path], None], others: Callable[[Path], None] = lambda here: None, before: int = 0
    ) -> tuple[Path, Path]:
        """Do that in a new directory with nothing made at home: it, here and as the job sees it, when all is made.

        `others` are at work here meanwhile; `before`: so many files are made there first.
        """
        for k in range(30):
            here, there = self.begin(f"{k}")
            for number in range(before):
                (there / f"{number}").touch()
            self.all_done()
            at_home = len(list(here.iterdir()))
            working = threading.Thread(target=work, args=(there,))
            with self.held():
                working.start()
                working.join(TTL)  # a second later the kernel asks again for the names that it walks by, and waits
                went_on = not working.is_alive()
                assert len(list(here.iterdir())) == at_home, "nothing is made yet"
                if went_on:
                    others(here)
            working.join()
            self.all_done()
            if went_on:
                return here, there
        pytest.fail("it waits for what it makes")

    def begin(self, name: str) -> tuple[Path, Path]:
        """A directory that the job has made with one of each kind: here, and as the job sees it."""
        top = self.there / name
        top.mkdir()
        (top / "first").touch()
        (top / "first.d").mkdir()
        (top / "first.l").symlink_to("first")
        return self.here / name, top


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    made = Served(tmp_path)
    monkeypatch.setattr(Leases, "_break_all", lambda leases: None)  # a mount of another test takes no lease back
    monkeypatch.setattr(OpenFiles, "do_create", made.waits(OpenFiles.do_create))
    for name in ("remove", "move"):  # before it looks what has the name
        monkeypatch.setattr(MoreMade, name, made.waits(getattr(MoreMade, name)))
    for name in ("do_mkdir", "do_symlink"):
        monkeypatch.setattr(Names, name, made.waits(getattr(Names, name)))
    with mounted(made.here, made.there, late=True):
        yield made


def look(top: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """All that is there: mode, ids, and contents."""
    found = {}
    for path in sorted(top.rglob("*")):
        st = path.lstat()
        what = os.readlink(os.fsencode(path)) if path.is_symlink() else b"" if path.is_dir() else path.read_bytes()
        found[str(path.relative_to(top))] = (st.st_mode, st.st_uid, st.st_gid, what)
    return found


def make(top: Path) -> None:
    (top / "d").mkdir(0o750)
    (top / "d/e").mkdir()
    for k in range(4):
        with (top / f"d/{k}").open("wb", buffering=0) as f:
            f.write(b"%d" % k)
            os.fchmod(f.fileno(), 0o640)
    (top / "d/e/link").symlink_to("../1")
    os.close(os.open(top / "d/e/only", os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o400))


def test_a_job_goes_on_before_what_it_makes_is_here(served: Served) -> None:
    here, there = served.goes_on(make)
    assert look(there) == look(here)
    assert len(look(here)) == 3 + 8


def test_what_is_made_has_one_number_from_the_first_and_no_other_has_it(served: Served) -> None:
    _, there = served.begin("top")
    told = {}
    for k in range(20):
        with (there / f"{k}").open("wb") as f:
            told[f"{k}"] = os.fstat(f.fileno()).st_ino
        (there / f"{k}.d").mkdir()
        told[f"{k}.d"] = (there / f"{k}.d").stat().st_ino
    served.all_done()
    seen = {path.name: path.lstat().st_ino for path in there.iterdir()}
    assert {name: seen[name] for name in told} == told
    assert len(set(seen.values())) == len(seen)
    assert {entry.name: entry.inode() for entry in os.scandir(there)} == seen


def test_what_is_made_is_here_before_what_is_asked_for_next(served: Served) -> None:
    here, there = served.begin("top")
    for k in range(60):
        (there / f"{k}").write_bytes(b"x")
        if k % 10 == 9:
            served.all_done()
            assert len(list(here.iterdir())) == 3 + k + 1


def test_a_name_that_others_took_meanwhile_stays_theirs_and_the_job_is_told(served: Served) -> None:
    opened: list[int] = []

    def work(there: Path) -> None:
        opened.append(os.open(there / "n", os.O_CREAT | os.O_RDWR | os.O_TRUNC))
        assert os.write(opened[-1], b"the job's") == 9
        (there / "dir").mkdir()
        (there / "dir/file").write_bytes(b"lost")

    def others(here: Path) -> None:
        (here / "n").write_bytes(b"theirs")
        (here / "dir").mkdir()

    here, there = served.goes_on(work, others)
    with pytest.raises(FileExistsError):
        os.fsync(opened[-1])
    with pytest.raises(OSError) as failed:
        os.write(opened[-1], b"more")
        os.fsync(opened[-1])
    assert failed.value.errno in (errno.EBADF, errno.ESTALE)
    for fd in opened:
        os.close(fd)
    assert (here / "n").read_bytes() == b"theirs"
    assert list((here / "dir").iterdir()) == [], "nor is anything put into their directory"
    until(lambda: (there / "n").read_bytes() == b"theirs", "the job sees what is there")
    until(lambda: os.listdir(there / "dir") == [], "and of the directory")


def test_what_others_put_into_a_directory_that_the_job_has_just_made_is_seen(served: Served) -> None:
    here, there = served.begin("top")
    (there / "d").mkdir()
    (there / "d/own").touch()
    served.all_done()
    (here / "d/theirs").write_bytes(b"x")
    until(lambda: (there / "d/theirs").exists(), "it is seen")
    with pytest.raises(FileExistsError):
        os.open(there / "d/theirs", os.O_CREAT | os.O_EXCL)


def test_who_gives_the_directory_other_rights_is_heeded(served: Served) -> None:
    here, there = served.begin("top")
    os.chown(here, 0, GROUP)
    os.chmod(here, 0o2755)
    until(lambda: there.stat().st_mode & 0o2000, "the job sees it")
    (there / "file").touch()
    (there / "dir").mkdir()
    for name in ("file", "dir"):
        assert ((there / name).stat().st_gid, (here / name).stat().st_gid) == (GROUP, GROUP)


def test_a_directory_that_it_has_filled_is_looked_at_and_changed_without_waiting(served: Served) -> None:
    told: list[os.stat_result] = []

    def work(there: Path) -> None:
        (there / "d").mkdir()
        for k in range(3):
            (there / f"d/{k}").mkdir()
        os.utime(there / "d", (5, 6))
        (there / "d").chmod(0o700)
        told.append((there / "d").stat())

    here, there = served.goes_on(work)
    for st in (told[-1], (here / "d").stat(), (there / "d").stat()):
        assert (st.st_mode, st.st_nlink, st.st_atime, st.st_mtime) == (0o40700, 5, 5, 6)


@pytest.mark.parametrize("last", ["make", "unlink", "rename"])
def test_a_directory_that_it_made_some_time_ago_is_looked_at_without_a_question_until_others_change_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    monkeypatch.setattr(Leases, "_break_all", lambda leases: None)  # a mount of another test takes no lease back
    here, there, asked = tmp_path / "here", tmp_path / "there", tmp_path / "asked"
    here.mkdir(), there.mkdir(), asked.touch()

    def seen() -> tuple[list[str], tuple[int, int, int]]:
        """What home is asked, and what the job sees."""
        before = len(asked.read_text().split())
        st = os.stat("e", dir_fd=fd)
        return asked.read_text().split()[before:], (st.st_mode, st.st_nlink, st.st_mtime_ns)

    def is_at_home() -> tuple[int, int, int]:
        st = (here / "d/e").stat()
        return st.st_mode, st.st_nlink, st.st_mtime_ns

    with mounted(here, there, late=True, asked=asked):
        (there / "d").mkdir()
        for name in ("d/e", "d/e/f", "d/e/g"):
            (there / name).mkdir()
        for name in ("d/e/one", "d/e/two"):
            (there / name).touch()
        if last == "unlink":
            (there / "d/e/one").unlink()
        elif last == "rename":
            (there / "d/e/one").rename(there / "d/e/three")
        time.sleep(2 * TTL)  # what is told for a time holds no more
        fd = os.open(there / "d", os.O_RDONLY)
        assert seen() == ([], is_at_home())
        (here / "d/e/theirs").touch()
        until(lambda: seen()[1] == is_at_home(), "the job sees that others have made something there")
        (here / "d/e").chmod(0o700)
        until(lambda: seen()[1] == is_at_home(), "the job sees what they have set")
        os.close(fd)


def test_many_files_in_one_directory_are_not_waited_for(served: Served) -> None:
    def work(there: Path) -> None:
        for k in range(10):
            (there / f"late {k}").touch()

    here, _ = served.goes_on(work, before=200)  # more than a directory may change by others, and be leased
    assert len(list(here.iterdir())) == 3 + 200 + 10


def test_what_is_made_read_back_and_removed_is_not_waited_for(served: Served) -> None:
    def work(there: Path) -> None:
        for k in range(5):
            fd = os.open(there / "temporary", os.O_CREAT | os.O_EXCL | os.O_RDWR)
            os.pwrite(fd, b"%d" % k, 3)
            assert os.pread(fd, 10, 0) == b"\0\0\0%d" % k
            (there / "temporary").unlink()
            os.close(fd)
        (there / "temporary").write_bytes(b"the last")

    here, there = served.goes_on(work)
    assert len(os.listdir(here)) == 3 + 1
    assert (here / "temporary").read_bytes() == (there / "temporary").read_bytes() == b"the last"


def test_what_is_written_by_another_name_and_renamed_is_not_waited_for(served: Served) -> None:
    def work(there: Path) -> None:
        for k in range(5):
            (there / "new").write_bytes(b"%d" % k)
            os.replace(there / "new", there / "file")
            told = (there / "file").stat()
            assert (told.st_size, there.stat().st_mode) == (1, 0o40755)
        os.replace(there / "file", there / "last")

    here, there = served.goes_on(work)
    assert sorted(os.listdir(here)) == sorted(os.listdir(there)) == ["first", "first.d", "first.l", "last"]
    assert (here / "last").read_bytes() == (there / "last").read_bytes() == b"4"
    one, other = (here / "last").stat(), (there / "last").stat()
    assert (one.st_mtime_ns, one.st_ctime_ns, one.st_nlink) == (other.st_mtime_ns, other.st_ctime_ns, other.st_nlink)


def test_what_others_have_named_so_meanwhile_is_not_replaced(served: Served) -> None:
    here, there = served.begin("top")
    for k in range(30):
        (there / f"new {k}").touch()
        served.all_done()
        (here.parent / "theirs").write_bytes(b"theirs")
        renaming = threading.Thread(target=os.replace, args=(there / f"new {k}", there / f"{k}"))
        with served.held():
            renaming.start()
            renaming.join(TTL)
            if went_on := not renaming.is_alive():
                (here.parent / "theirs").rename(here / f"{k}")
        renaming.join()
        served.all_done()
        if went_on:
            assert (here / f"{k}").read_bytes() == b"theirs"
            assert (here / f"new {k}").exists()
            until(lambda k=k: (there / f"{k}").read_bytes() == b"theirs", "the job sees it")
            until(lambda k=k: (there / f"new {k}").exists(), "the job sees what it has not renamed")
            return
    pytest.fail("it waits for what it renames")


def test_what_was_written_long_ago_is_read_again_without_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Leases, "_break_all", lambda leases: None)  # a mount of another test takes no lease back
    here, there, asked = tmp_path / "here", tmp_path / "there", tmp_path / "asked"
    here.mkdir(), there.mkdir(), asked.touch()
    names = [f"{k}" for k in range(12)]
    with mounted(here, there, late=True, asked=asked):
        (there / "d").mkdir()
        (there / "d" / "first").touch()
        for name in names:
            (there / "d" / name).write_text(name)
        time.sleep(TTL)  # what is told for a time holds no more

        def opens() -> int:
            before = asked.read_text().split().count("open")
            assert [(there / "d" / name).read_text() for name in names] == names
            return asked.read_text().split().count("open") - before

        until(lambda: opens() == 0, "all of them are leased")
        (here / "d" / "5").write_text("other")
        until(lambda: (there / "d" / "5").read_text() == "other", "the job reads what others have written")
        (here / "theirs").write_text("theirs")
        (here / "theirs").rename(here / "d" / "7")
        until(lambda: (there / "d" / "7").read_text() == "theirs", "and what they have put in its place")


def test_what_others_have_put_in_its_place_meanwhile_is_not_removed(served: Served) -> None:
    here, there = served.begin("top")
    for k in range(30):
        (there / f"{k}").touch()
        served.all_done()
        (here.parent / "theirs").write_bytes(b"theirs")
        removing = threading.Thread(target=(there / f"{k}").unlink)
        with served.held():
            removing.start()
            removing.join(TTL)
            if went_on := not removing.is_alive():
                (here.parent / "theirs").rename(here / f"{k}")
        removing.join()
        served.all_done()
        if went_on:
            assert (here / f"{k}").read_bytes() == b"theirs"
            until(lambda name=f"{k}": (there / name).exists(), "the job sees it")
            return
    pytest.fail("it waits for what it removes")
