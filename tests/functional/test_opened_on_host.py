"""Files that the host opens by itself, under a lease on their contents: what is asked, and what is read."""

from __future__ import annotations

import fcntl
import mmap
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remoteio.submit.export.files import OpenFiles
from remoteio.submit.export.nodes import Node
from remoteio.submit.export.reply import Reply
from remoteio.wire import fuse_abi as abi
from tests.mounted import mounted
from tests.until import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts as root")

LARGE = b"0123456789abcdef" * (1 << 14)  # more than goes along with an OPEN


class Served:
    """A directory `here`, seen by the job as `there`; `asked` is a line for each OPEN and OPENED that home does."""

    def __init__(self, top: Path) -> None:
        self.here, self.there, self._log = top / "here", top / "there", top / "log"
        self.here.mkdir()
        self.there.mkdir()
        self._log.touch()
        (self.here / "file").write_bytes(LARGE)

    def noting(self, name: str, do: Callable[..., Reply]) -> Callable[..., Reply]:
        def noted(export: OpenFiles, r: abi.Request, *node: Node) -> Reply:
            with self._log.open("a") as log:
                log.write(f"{name}\n")
            return do(export, r, *node)

        return noted

    @property
    def asked(self) -> list[str]:
        return self._log.read_text().split()

    def leased(self, name: str = "file") -> Path:
        """The file of that name, which the host opens by itself from now on."""
        path = self.there / name
        path.read_bytes()
        until(lambda: not self.asks(path), "the host opens it by itself")
        return path

    def asks(self, path: Path) -> bool:
        """Whether home is asked when it is opened and read."""
        return bool(self.asked_by(path.read_bytes))

    def asked_by(self, work: Callable[[], object]) -> list[str]:
        """What home is asked for that."""
        before = len(self.asked)
        work()
        return self.asked[before:]

    def comes_to(self, path: Path, work: Callable[[], object], asked: list[str]) -> None:
        """See that home is asked for that alone once the file is leased; a mount of another test takes all back."""
        until(lambda: not self.asks(path) and self.asked_by(work) == asked, f"home is asked for {asked} alone")


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    made = Served(tmp_path)
    monkeypatch.setattr(OpenFiles, "do_open", made.noting("open", OpenFiles.do_open))
    monkeypatch.setattr(OpenFiles, "do_opened", made.noting("opened", OpenFiles.do_opened))
    with mounted(made.here, made.there):
        yield made


def forget_pages(fd: int) -> None:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def test_what_was_read_once_is_opened_without_home(served: Served) -> None:
    path = served.leased()

    def read() -> None:
        for _ in range(10):
            assert path.read_bytes() == LARGE

    served.comes_to(path, read, [])


def test_what_is_not_there_any_more_is_read_in_one_go(served: Served) -> None:
    path = served.leased()

    def read() -> None:
        with path.open("rb") as file:
            forget_pages(file.fileno())
            assert file.read() == LARGE

    served.comes_to(path, read, ["opened"])
    served.comes_to(path, path.read_bytes, [])


def test_a_change_here_is_read(served: Served) -> None:
    path = served.leased()
    with (served.here / "file").open("ab") as file:
        for k in range(20):
            file.write(b"%d" % k)
            file.flush()
            now = (served.here / "file").read_bytes()
            until(lambda now=now: path.read_bytes() == now, "it is read as it is")


def test_a_file_that_was_replaced_here_is_read(served: Served) -> None:
    path = served.leased()
    for k in range(20):
        (served.here / "new").write_bytes(b"%d" % k)
        (served.here / "new").rename(served.here / "file")
        until(lambda k=k: path.read_bytes() == b"%d" % k, "it is read as it is")


@pytest.mark.parametrize("how", [Path.unlink, lambda path: path.rename(path.with_name("other"))])
def test_what_the_job_has_open_outlives_its_name(served: Served, how: Callable[[Path], object]) -> None:
    path = served.leased()
    with path.open("rb") as file:
        forget_pages(file.fileno())
        how(path)
        (served.here / "other").unlink(missing_ok=True)
        assert file.read() == LARGE


def test_a_change_of_the_job_s_own_is_read_at_once(served: Served) -> None:
    path = served.leased()
    for k in range(20):
        with path.open("r+b") as file, path.open("rb") as other:
            file.write(b"%04d" % k)
            file.flush()
            assert other.read(4) == path.read_bytes()[:4] == b"%04d" % k
            with mmap.mmap(file.fileno(), 0) as mapped:
                mapped[4:8] = b"%04d" % k
                assert path.read_bytes()[4:8] == b"%04d" % k
        assert path.read_bytes()[:8] == b"%04d" % k * 2
    assert (served.here / "file").read_bytes()[:8] == b"00190019"


def test_what_somebody_here_may_have_mapped_is_opened_by_home(served: Served) -> None:
    with (served.here / "file").open("r+b"):
        assert (served.there / "file").read_bytes() == LARGE
        assert all(served.asks(served.there / "file") for _ in range(5))
    served.leased()


def test_what_the_host_has_opened_can_be_locked_synced_and_sought_in(served: Served) -> None:
    path = served.leased()
    with path.open("rb") as file, path.open("rb") as other:
        os.fsync(file.fileno())
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == len(LARGE)
        fcntl.flock(other, fcntl.LOCK_EX)
        with (served.here / "file").open("rb") as here, pytest.raises(BlockingIOError):
            fcntl.flock(here, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (served.here / "file").open("rb") as here:
        until(lambda: free(here.fileno()), "the lock went with the file")


def free(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_a_program_is_executed_again_without_home(served: Served) -> None:
    (served.here / "program").write_text("#!/bin/sh\necho done\n")
    (served.here / "program").chmod(0o755)
    path = served.leased("program")
    served.comes_to(path, lambda: subprocess.check_output([path]), [])
    assert subprocess.check_output([path]) == b"done\n"
    (served.here / "program").chmod(0o644)
    until(lambda: not os.access(path, os.X_OK), "it is no program any more")
    with pytest.raises(PermissionError):
        subprocess.check_output([path])
