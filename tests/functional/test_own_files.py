"""What a job has made it opens again, and cuts, without a question; and it is that very file, whoever has its name."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remoteio.submit.export.files import OpenFiles
from remoteio.submit.export.leases import Leases
from remoteio.wire.coherence import TTL
from tests.held_home import HeldHome
from tests.mounted import mounted
from tests.until import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts as root")


class Served(HeldHome):
    """A directory in which the job has just made a file."""

    def __init__(self, top: Path) -> None:
        super().__init__(top)
        self.asked, self.theirs = top / "asked", top / "theirs"
        self.asked.touch()

    def goes_on(self, work: Callable[[str], None]) -> str:
        """Do that to a new file while nothing is opened at home; which one."""
        for k in range(30):
            (self.there / f"{k}").touch()
            until((self.here / f"{k}").exists, "it is made")
            working = threading.Thread(target=work, args=(f"{k}",))
            with self.held():
                working.start()
                working.join(TTL / 2)
                went_on = not working.is_alive()
                if went_on:
                    self.replace(f"{k}")
            working.join()
            if went_on:
                return f"{k}"
        pytest.fail("it waits for what it opens")

    def replace(self, name: str) -> None:
        self.theirs.write_bytes(b"theirs")
        self.theirs.rename(self.here / name)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    made = Served(tmp_path)
    monkeypatch.setattr(Leases, "_break_all", lambda leases: None)  # a mount of another test takes no lease back
    monkeypatch.setattr(OpenFiles, "do_open", made.waits(OpenFiles.do_open))
    with mounted(made.here, made.there, late=True, asked=made.asked):
        (made.there / "first").touch()
        yield made


def test_what_the_job_cuts_is_the_file_that_it_has_made(served: Served) -> None:
    opened: list[int] = []

    def work(name: str) -> None:
        opened.append(os.open(served.there / name, os.O_RDWR | os.O_TRUNC))
        assert os.write(opened[-1], b"the job's") == 9

    name = served.goes_on(work)
    os.fsync(opened[-1])
    assert os.pread(opened[-1], 100, 0) == b"the job's"
    assert os.fstat(opened[-1]).st_size == 9
    for fd in opened:
        os.close(fd)
    assert (served.here / name).read_bytes() == b"theirs", "what others have put in its place is not cut"
    until(lambda: (served.there / name).read_bytes() == b"theirs", "the job sees it")


def test_what_the_job_appends_to_is_the_file_that_it_has_made(served: Served) -> None:
    opened: list[int] = []

    def work(name: str) -> None:
        (served.there / name).write_bytes(b"the")
        opened.append(os.open(served.there / name, os.O_RDWR | os.O_APPEND))
        assert os.write(opened[-1], b" job's") == 6

    name = served.goes_on(work)
    os.fsync(opened[-1])
    assert os.pread(opened[-1], 100, 0) == b"the job's"
    for fd in opened:
        os.close(fd)
    assert (served.here / name).read_bytes() == b"theirs", "nothing is added to what others have put in its place"


def test_what_is_appended_time_after_time_is_not_waited_for_and_stands_behind_what_others_append(
    served: Served,
) -> None:
    """As a shell's `>>` does, which opens the file each time."""
    path, here = served.there / "log", served.here / "log"
    before = served.asked.read_text().split().count("write")
    for k in range(100):
        with path.open("a") as log:
            log.write(f"{k}\n")
    assert path.read_text() == "".join(f"{k}\n" for k in range(100))
    served.all_done()
    assert here.read_text() == path.read_text()
    assert served.asked.read_text().split().count("write") == before + 100
    with here.open("a") as log:
        log.write("theirs\n")
    for k in range(3):
        with path.open("a") as log:
            log.write(f"again {k}\n")
    served.all_done()
    assert here.read_text().split("\n")[100:] == ["theirs", "again 0", "again 1", "again 2", ""]
    until(lambda: path.read_text() == here.read_text(), "it is read", within=2 * TTL)


def test_what_the_job_opens_is_the_file_that_it_has_made(served: Served) -> None:
    opened: list[int] = []

    def work(name: str) -> None:
        (served.there / name).write_bytes(b"the job's")
        opened.append(os.open(served.there / name, os.O_RDONLY))

    name = served.goes_on(work)
    time.sleep(1.1 * TTL)  # what the host has of it is not told any more
    assert os.pread(opened[-1], 100, 0) == b"the job's"
    for fd in opened:
        os.close(fd)
    assert (served.here / name).read_bytes() == b"theirs"
    until(lambda: (served.there / name).read_bytes() == b"theirs", "the job sees what others have put in its place")


def test_what_is_made_cut_written_and_read_is_here(served: Served) -> None:
    before = served.asked.read_text().split().count("open")
    for k in range(20):
        path = served.there / f"{k}"
        path.touch(), path.write_bytes(b"%d" % k), path.write_bytes(b"again %d" % k)
        assert path.read_bytes() == b"again %d" % k
    served.all_done()
    assert [(served.here / f"{k}").read_bytes() for k in range(20)] == [b"again %d" % k for k in range(20)]
    opened = served.asked.read_text().split().count("open") - before
    assert opened == 20 + 20, "home opens each when it is cut, and nothing else"


def test_what_others_write_to_such_a_file_is_read_a_second_later(served: Served) -> None:
    (served.there / "file").write_bytes(b"the job's")
    served.all_done()
    (served.here / "file").write_bytes(b"theirs")
    until(lambda: (served.there / "file").read_bytes() == b"theirs", "it is read", within=2 * TTL)


@pytest.mark.parametrize("how", ["ab", "r+b"])
@pytest.mark.parametrize("reads", [False, True], ids=["", "and reads"])
def test_what_the_job_adds_to_what_others_have_made_of_it_is_beside_that(served: Served, how: str, reads: bool) -> None:
    """Of the same length, as nothing tells of it then but its times. What it read in that second its kernel keeps."""
    for k in range(4):
        there, here = served.there / f"{how}{k}", served.here / f"{how}{k}"
        there.write_bytes(b"<mine>")
        assert there.read_bytes() == b"<mine>"
        until(lambda: here.exists() and here.read_bytes() == b"<mine>", "it is made here")  # noqa: B023
        here.write_bytes(b"<else>")
        with there.open(how) as file:
            file.seek(0, os.SEEK_END)
            file.write(b"<more>")
            file.flush()
            if reads:
                assert there.read_bytes()[-6:] == b"<more>"
            until(lambda: here.read_bytes() == b"<else><more>", "it is done")  # noqa: B023
            time.sleep(TTL)
            assert there.read_bytes() == b"<else><more>"
        assert there.read_bytes() == b"<else><more>"
