"""What a host has kept of files from one run to the next: what is asked, and that it is never what was before."""

from __future__ import annotations

import mmap
import os
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from remoteio.execute import kept_reads
from remoteio.execute.kept_contents import KeptContents, name_of
from remoteio.submit.export.files import OpenFiles
from remoteio.submit.export.nodes import Node
from remoteio.submit.export.reply import Reply
from remoteio.wire import fuse_abi as abi
from shim.execute.agent.cache import encrypting
from tests.mounted import VERSIONS, mounted
from tests.named_versions import until_named
from tests.until import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts as root")

SIZE = 2_000_000  # more than goes along with an OPEN; it ends within a page


def contents(seed: int) -> bytes:
    return random.Random(seed).randbytes(SIZE)


class Served:
    """A file `here`, seen by jobs as `there`, by one `run` after the other; each READ that home does is noted."""

    def __init__(self, top: Path) -> None:
        self.top, self.here, self.there, self.kept = top / "here", top / "here" / "file", top / "there", top / "kept"
        self._log = top / "log"
        self.top.mkdir()
        self.there.mkdir()
        self._log.touch()
        self.here.write_bytes(contents(0))

    def noting(self, do: Callable[..., Reply]) -> Callable[..., Reply]:
        def noted(export: OpenFiles, r: abi.Request, *node: Node) -> Reply:
            with self._log.open("a") as log:
                log.write("read\n")
            return do(export, r, *node)

        return noted

    def run(self) -> AbstractContextManager[None]:
        return mounted(self.top, self.there, kept=self.kept)

    def read(self, offset: int = 0, size: int = SIZE) -> bytes:
        """Read as the job does, and from nobody's memory."""
        with (self.there / "file").open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            file.seek(offset)
            found = b""
            while len(found) < size and (part := file.read(size - len(found))):
                found += part
            return found

    def asked(self, offset: int = 0, size: int = SIZE) -> int:
        """How often home is asked for what the job reads."""
        before = self._log.stat().st_size
        self.read(offset, size)
        return (self._log.stat().st_size - before) // len("read\n")

    def version(self) -> bytes:
        with self.here.open("rb") as file:
            return VERSIONS.of(file.fileno(), os.fstat(file.fileno()))

    def store(self) -> KeptContents:
        found = KeptContents()
        found.use(str(self.kept), encrypting)
        return found

    def fill(self, offset: int = 0, size: int = SIZE) -> None:
        """A run reads that of the file, and it is kept."""
        until_named(self.here)
        with self.run():
            until(self.all_kept(offset, size), "what was read is kept")

    def all_kept(self, offset: int = 0, size: int = SIZE) -> Callable[[], bool]:
        """See whether it is, reading it again if not: an answer that crosses another test's mount grants nothing."""
        here, store = self.here.read_bytes(), self.store()

        def kept() -> bool:
            found = self.read(offset, size)
            assert found == here[offset : offset + size]
            return store.read(self.version(), SIZE, offset, size) == found

        return kept


@pytest.fixture
def served(disk: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    made = Served(disk)
    until_named(made.here)
    monkeypatch.setattr(OpenFiles, "do_read", made.noting(OpenFiles.do_read))
    monkeypatch.setattr(kept_reads, "FAR", 0.0)
    return made


def test_the_next_run_asks_for_nothing_that_was_read(served: Served) -> None:
    served.fill()
    with served.run():
        until(lambda: not served.asked(), "home is asked for nothing")
        assert served.read() == contents(0)


def test_without_what_is_kept_home_is_asked_each_time(served: Served) -> None:
    with mounted(served.top, served.there):
        assert served.asked() and served.asked()


def test_parts_are_kept_as_well(served: Served) -> None:
    served.fill(1 << 20, 1 << 18)
    with served.run():
        until(lambda: not served.asked(1 << 20, 1 << 18), "home is asked for nothing that was read")
        assert served.asked(0, 1 << 18)
        assert served.read() == contents(0)


def test_what_was_tampered_with_is_asked_for(served: Served) -> None:
    served.fill()
    file = served.kept / name_of(served.version())
    with file.open("r+b") as f:
        f.seek(-SIZE, os.SEEK_END)
        f.write(b"something else")
    with served.run():
        until(served.all_kept(), "it is kept anew")
        until(lambda: not served.asked(), "home is asked for nothing")


def written(file: Path) -> None:
    with file.open("r+b") as f:
        f.write(contents(1))


def replaced(file: Path) -> None:
    file.with_name("new").write_bytes(contents(1))
    file.with_name("new").rename(file)


def mapped(file: Path) -> None:
    with file.open("r+b") as f, mmap.mmap(f.fileno(), SIZE) as memory:
        memory[:] = contents(1)


def with_its_times(file: Path) -> None:
    st = file.stat()
    written(file)
    os.utime(file, ns=(st.st_atime_ns, st.st_mtime_ns))


CHANGES = [written, replaced, mapped, with_its_times]


@pytest.mark.parametrize("change", CHANGES)
def test_the_next_run_reads_what_was_changed_before(served: Served, change: Callable[[Path], None]) -> None:
    served.fill()
    change(served.here)
    with served.run():
        assert served.read() == contents(1)
    served.fill()
    with served.run():
        until(lambda: not served.asked(), "home is asked for nothing")
        assert served.read() == contents(1)


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_changed_meanwhile_is_read(served: Served, change: Callable[[Path], None]) -> None:
    served.fill()
    with served.run():
        until(lambda: not served.asked(), "home is asked for nothing")
        change(served.here)
        until(lambda: served.read() == contents(1), "it is read as it is")
        assert served.read() == contents(1), "and stays so"


def test_what_the_job_writes_is_read(served: Served) -> None:
    served.fill()
    with served.run():
        until(lambda: not served.asked(), "home is asked for nothing")
        written(served.there / "file")
        assert served.read() == contents(1) == served.here.read_bytes()
