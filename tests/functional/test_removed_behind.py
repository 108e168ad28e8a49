"""A job is told that names are gone before they are taken away here: they are what it meant, or they stay."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remoteio.submit.export.leases import Leases
from remoteio.submit.export.more_made import MoreMade
from remoteio.wire.coherence import TTL
from tests.held_home import HeldHome
from tests.mounted import mounted
from tests.until import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts as root")


class Served(HeldHome):
    """Trees that somebody here has made."""

    def goes_on(
        self,
        work: Callable[[Path], None],
        others: Callable[[Path], None] = lambda here: None,
        before: Callable[[Path], None] = lambda there: None,
    ) -> tuple[Path, Path]:
        """Do that in a tree, once the job has removed a name in each of its directories, with nothing removed at home:
        it, here and as the job sees it, when all is done. The job has done `before` by then, and `others` are at work
        here meanwhile."""
        for k in range(30):
            here, there = self.here / f"{k}", self.there / f"{k}"
            for directory in (here, here / "a", here / "a/b"):
                directory.mkdir()
                for name in ("first", "one", "two", "three"):
                    (directory / name).write_text(name)
            (here / "a/three").unlink()
            os.link(here / "one", here / "a/three")
            for directory in (there / "a/b", there / "a", there):
                os.listdir(directory)
                (directory / "first").unlink()
            before(there)
            self.all_done()
            working = threading.Thread(target=work, args=(there,))
            found = sorted(here.rglob("*"))
            with self.held():
                working.start()
                working.join(TTL)  # a second later the kernel asks again for the names that it walks by, and waits
                went_on = not working.is_alive()
                assert set(found) <= set(here.rglob("*")), "nothing is removed yet"
                if went_on:
                    others(here)
            working.join()
            self.all_done()
            if went_on:
                return here, there
        pytest.fail("it waits for what it removes")


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    made = Served(tmp_path)
    monkeypatch.setattr(Leases, "_break_all", lambda leases: None)  # a mount of another test takes no lease back
    for name in ("remove", "move"):  # before it looks what has the name
        monkeypatch.setattr(MoreMade, name, made.waits(getattr(MoreMade, name)))
    with mounted(made.here, made.there, late=True):
        yield made


def test_a_tree_that_it_has_not_made_is_removed_without_waiting(served: Served) -> None:
    def first(there: Path) -> None:
        for directory in (there / "a", there / "a/b"):
            os.listdir(directory)  # else it waits for what is in a/b, where the filesystem lists that behind a file

    here, there = served.goes_on(lambda there: shutil.rmtree(there / "a"), before=first)
    assert sorted(os.listdir(here)) == sorted(os.listdir(there)) == ["one", "three", "two"]
    assert (here.stat().st_nlink, here.stat().st_mtime_ns) == (there.stat().st_nlink, there.stat().st_mtime_ns)


def test_what_it_writes_by_another_name_is_put_in_its_place_without_waiting(served: Served) -> None:
    def work(there: Path) -> None:
        for name in ("one", "two"):
            (there / "new").write_text("new")
            os.replace(there / "new", there / name)
            assert (there / name).read_text() == "new"

    def first(there: Path) -> None:
        (there / "other").write_text("new")
        for name in ("one", "two", "one", "two"):
            (there / name).rename(there / name)  # has what is there looked up, and what is known by then leased

    here, there = served.goes_on(work, before=first)
    assert (here / "one").read_text() == (there / "two").read_text() == "new"
    assert (here / "a/three").read_text() == "one" and (there / "a/three").stat().st_nlink == 1
    assert sorted(os.listdir(here)) == sorted(os.listdir(there)) == ["a", "one", "other", "three", "two"]


def test_of_two_names_of_one_file_the_other_is_told_as_it_is_then(served: Served) -> None:
    told: list[int] = []

    def work(there: Path) -> None:
        (there / "a/three").unlink()

    here, there = served.goes_on(work)
    told += [(top / "one").stat().st_nlink for top in (here, there)]
    assert told == [1, 1] and (there / "one").read_text() == "one"


def test_what_is_open_is_read_and_written_when_its_name_is_gone(served: Served) -> None:
    files: list[int] = []

    def work(there: Path) -> None:
        files.append(fd := os.open(there / "a/one", os.O_RDWR))
        os.pwrite(fd, b"Once", 0)
        (there / "a/one").unlink()
        os.pwrite(fd, b"ONE", 0)

    _, there = served.goes_on(work)
    assert os.pread(files[-1], 9, 0) == b"ONEe"
    assert os.fstat(files[-1]).st_nlink == 0 and not (there / "a/one").exists()
    for fd in files:
        os.close(fd)


def test_what_others_put_in_its_place_or_into_the_directory_meanwhile_stays(served: Served) -> None:
    def work(there: Path) -> None:
        shutil.rmtree(there / "a/b")
        (there / "two").unlink()

    def others(here: Path) -> None:
        (here / "theirs").write_text("theirs")
        (here / "theirs").rename(here / "two")
        (here / "a/b/theirs").write_text("theirs")

    here, there = served.goes_on(work, others)
    assert (here / "two").read_text() == (here / "a/b/theirs").read_text() == "theirs"
    assert os.listdir(here / "a/b") == ["theirs"]
    until(lambda: (there / "two").exists() and (there / "a/b/theirs").exists(), "the job sees them")


def test_a_name_that_is_made_anew_by_the_job_is_the_new_file_s(served: Served) -> None:
    def work(there: Path) -> None:
        (there / "two").unlink()

    here, there = served.goes_on(work)
    (there / "two").write_text("new")
    assert (there / "two").read_text() == "new"
    served.all_done()
    assert (here / "two").read_text() == "new"


def test_where_others_may_not_remove_it_is_asked_for(served: Served) -> None:
    """Who gives the directory other rights is heeded."""
    here, there = served.goes_on(lambda there: (there / "one").unlink())
    (here / "a").chmod(0o1777)
    os.chown(here / "a", 12345, 12345)
    until(lambda: (there / "a").stat().st_uid == 12345, "the job sees it")
    removing = threading.Thread(target=(there / "a/one").unlink)
    with served.held():
        removing.start()
        removing.join(0.2)
        assert removing.is_alive(), "home is asked"
    removing.join()
    assert not (here / "a/one").exists()


def test_who_removes_what_he_has_listed_asks_for_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Leases, "_break_all", lambda leases: None)  # a mount of another test takes no lease back
    here, there, asked = tmp_path / "here", tmp_path / "there", tmp_path / "asked"
    here.mkdir(), there.mkdir(), asked.touch()
    for directory in ("a", "b"):
        (here / directory).mkdir()
        for k in range(100):
            (here / directory / f"{k}").touch()
    with mounted(here, there, late=True, asked=asked):
        for directory in ("a", "b"):
            shutil.rmtree(there / directory)
        until(lambda: not os.listdir(here), "all is gone")
        lines = asked.read_text().split()
        assert lines.count("unlink") == 200
        assert lines.count("lookup") < 20
