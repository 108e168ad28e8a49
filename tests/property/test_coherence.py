"""Programs at home and the job change one tree in turns, all caches on: the job sees what docs/consistency.md says.

Nothing here depends on how long anything takes, but for one thing that is waited out: the TTL. What the job has not
heard of it may not know, so in between it must see nothing that never was; once it has heard from home, and a TTL more
is over, it must see all as it is. What it changes itself, what it locks, and what it holds open, it sees at once.
"""

from __future__ import annotations

import fcntl
import itertools
import mmap
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from remoteio.wire.coherence import TTL
from tests.mounted import mounted

NAMES = st.sampled_from(["a", "b", "d/a", "d/b", "d/e/a", "f/a", "f/b"])
DIRECTORIES = st.sampled_from(["d", "f", "d/e", "f/e"])
SIDES = st.booleans()  # whether the job does it
TOKEN = re.compile(rb"<[0-9]+>")
GONE = FileNotFoundError, NotADirectoryError, IsADirectoryError
# The job has made what somebody here had made a moment before, and had not heard of it: it is told by the next call.
MADE_BY_BOTH = FileExistsError


@pytest.fixture(scope="module", params=[False, True], ids=["at once", "late"])
def tops(request: pytest.FixtureRequest) -> Iterator[tuple[Path, Path]]:
    """(the mount, the directory behind it); late: changes are answered before they are done there."""
    if os.geteuid() != 0:
        pytest.fail("mounting needs root; run `make test` as root or with sudo")
    top = Path(tempfile.mkdtemp(prefix="coherence-", dir="/var/tmp"))
    for name in ("behind", "mount"):
        (top / name).mkdir()
    (top / "behind" / "bell").write_text("x")
    with mounted(top / "behind", top / "mount", late=request.param):
        yield top / "mount", top / "behind"
    shutil.rmtree(top)


def picture(top: Path) -> dict[str, object]:
    """All that is beneath `top`: kinds, modes, sizes, times of change, contents."""
    seen: dict[str, object] = {}
    for directory, directories, files in os.walk(top):
        directories.sort()
        for name in sorted(directories + files):
            path = Path(directory, name)
            found = path.lstat()
            whole = path.read_bytes() if stat.S_ISREG(found.st_mode) else None
            size = found.st_size if whole is not None else 0
            times = found.st_mtime_ns, found.st_ctime_ns
            seen[str(path.relative_to(top))] = (oct(found.st_mode), found.st_nlink, size, times, whole)
    return seen


class TwoSides(RuleBasedStateMachine):
    """Each change is of one side, and done before the next begins; with `late` the job's are only answered by then."""

    mount: Path
    behind: Path
    tokens = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        name = f"run{next(self.tokens)}"
        self.there, self.here = self.mount / name, self.behind / name
        for each in ("d/e", "f"):
            (self.here / each).mkdir(parents=True)
        os.statvfs(self.mount)  # as in `look`: the job may have known all names there
        self.held: list[tuple[int, int]] = []  # open files, the job's and the same here
        self.changes = 0  # since all was looked at

    def teardown(self) -> None:
        self.look()
        for there, here in self.held:
            os.close(there)
            os.close(here)
        shutil.rmtree(self.there)

    def side(self, job: bool) -> Path:
        self.changes += 1
        if not job:
            self.settle()  # what is done here now is done after what the job did before
        return self.there if job else self.here

    def settle(self) -> None:
        """Wait until all is done that the job was told is done: as for what it says."""
        fd = os.open(self.mount / "bell", os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

    def token(self) -> bytes:
        return b"<%d>" % next(self.tokens)

    # changes

    @rule(job=SIDES, name=NAMES, how=st.sampled_from(["w", "a", "r+"]))
    def write(self, job: bool, name: str, how: str) -> None:
        token = self.token()
        gone = FileNotFoundError, NotADirectoryError, MADE_BY_BOTH
        with suppress(*gone), open(self.side(job) / name, how + "b") as file:
            file.write(token)
            if how == "r+":
                file.truncate()
            file.flush()
            if job:
                self.tells(self.there / name, token, how)

    def tells(self, path: Path, token: bytes, how: str) -> None:
        """See that the job reads what it has just written."""
        whole = path.read_bytes()
        assert whole.endswith(token) if how == "a" else whole == token

    @rule(name=NAMES)
    def write_and_read_back(self, name: str) -> None:
        """Have the job look into what it is writing, as linkers do, with others at work on the file, and hold it."""
        first, second, top = self.token(), self.token(), self.side(True)
        with suppress(*GONE, MADE_BY_BOTH), ExitStack() as opened:
            fd = os.open(top / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            opened.callback(os.close, fd)
            assert os.pread(fd, 100, 0) == b""
            os.pwrite(fd, second, len(first))
            assert os.pread(fd, 100, 0) == bytes(len(first)) + second
            os.pwrite(fd, first, 0)
            assert (os.pread(fd, 100, 0), os.fstat(fd).st_size) == (first + second, len(first + second))
            self.settle()
            here = os.open(self.here / name, os.O_RDONLY)
            opened.callback(os.close, here)
            if os.pread(here, 100, 0) == first + second:
                self.held.append((fd, here))
                opened.pop_all()
                # else others have renamed a directory above it, and the job has not heard of it yet

    @rule(job=SIDES, name=NAMES)
    def replace(self, job: bool, name: str) -> None:
        token, top = self.token(), self.side(job)
        (top / "new").write_bytes(token)
        with suppress(*GONE):
            (top / "new").rename(top / name)
            if job:
                assert (top / name).read_bytes() == token

    @rule(job=SIDES, name=NAMES)
    def remove(self, job: bool, name: str) -> None:
        with suppress(FileNotFoundError, NotADirectoryError):
            (self.side(job) / name).unlink()
            if job:
                assert not (self.there / name).exists()

    @rule(job=SIDES, old=NAMES, new=NAMES)
    def rename(self, job: bool, old: str, new: str) -> None:
        top = self.side(job)
        with suppress(OSError):
            (top / old).rename(top / new)

    @rule(job=SIDES, old=DIRECTORIES, new=DIRECTORIES)
    def rename_directory(self, job: bool, old: str, new: str) -> None:
        top = self.side(job)
        with suppress(OSError):
            (top / old).rename(top / new)

    @rule(job=SIDES, name=DIRECTORIES)
    def make_directory(self, job: bool, name: str) -> None:
        with suppress(OSError):
            (self.side(job) / name).mkdir()

    @rule(job=SIDES, name=NAMES, mode=st.sampled_from([0o600, 0o640, 0o755]))
    def chmod(self, job: bool, name: str, mode: int) -> None:
        with suppress(FileNotFoundError, NotADirectoryError):
            (self.side(job) / name).chmod(mode)
            if job:
                assert stat.S_IMODE((self.there / name).stat().st_mode) == mode

    @rule(job=SIDES, name=NAMES, other=NAMES)
    def link(self, job: bool, name: str, other: str) -> None:
        top = self.side(job)
        with suppress(OSError):
            os.link(top / name, top / other)

    # looks

    @rule(name=NAMES)
    def read(self, name: str) -> None:
        """What the job reads was written, whole, by somebody."""
        with suppress(FileNotFoundError, NotADirectoryError):
            whole = (self.there / name).read_bytes()
            assert TOKEN.sub(b"", whole) == b""
            found = TOKEN.findall(whole)
            assert len(found) == len(set(found))

    @rule(name=DIRECTORIES)
    def list(self, name: str) -> None:
        with suppress(FileNotFoundError):
            assert set(os.listdir(self.there / name)) <= {"a", "b", "e"}

    @rule(name=NAMES)
    def hold(self, name: str) -> None:
        """Open one file on either side; where the job knows another one by that name still, nothing is told of it."""
        self.settle()
        with suppress(FileNotFoundError, NotADirectoryError):
            here = os.open(self.here / name, os.O_RDONLY)
            try:
                there = os.open(self.there / name, os.O_RDONLY)
            except OSError:
                os.close(here)
                raise
            if os.fstat(here).st_ino == os.fstat(there).st_ino:
                self.held.append((there, here))
            else:
                os.close(here)
                os.close(there)

    # No precondition: what is held depends on what the job saw in time, and a rule that is there at one time and not at
    # another is an error of the test's to Hypothesis.
    @rule(which=st.integers(0, 99))
    def let_go(self, which: int) -> None:
        if self.held:
            for fd in self.held.pop(which % len(self.held)):
                os.close(fd)

    @rule(name=NAMES, job=SIDES)
    def under_a_lock(self, name: str, job: bool) -> None:
        """Have either side write under a lock, one after the other: each reads what is there then."""
        self.settle()
        for top in (self.there, self.here)[:: 1 if job else -1]:
            with suppress(FileNotFoundError, NotADirectoryError), open(top / name, "r+b", buffering=0) as file:
                fcntl.lockf(file, fcntl.LOCK_EX)
                same = (self.here / name).stat().st_ino == os.fstat(file.fileno()).st_ino
                assert not same or file.read() == (self.here / name).read_bytes()
                os.pwrite(file.fileno(), token := self.token(), 0)
                file.truncate(len(token))
                fcntl.lockf(file, fcntl.LOCK_UN)
                assert not same or (self.here / name).read_bytes() == token

    @rule(name=NAMES)
    def through_a_mapping(self, name: str) -> None:
        """What the job writes to a mapping is here once it is synced."""
        self.settle()
        token = self.token()
        with suppress(FileNotFoundError, NotADirectoryError), open(self.there / name, "r+b") as file:
            file.truncate(len(token))
            with mmap.mmap(file.fileno(), len(token)) as mapping:
                mapping[:] = token
                mapping.flush()
                if os.fstat(file.fileno()).st_ino == (self.here / name).stat().st_ino:
                    assert (self.here / name).read_bytes() == token

    @rule()
    def quiet(self) -> None:
        if self.changes >= 6:  # each takes a TTL; and no precondition, as above
            self.look()

    def look(self) -> None:
        """The job hears from home, and once the TTL is over sees everything as it is, also when it looks again."""
        self.settle()
        os.statvfs(self.mount)  # home answers, and says before that what has changed
        time.sleep(TTL + 0.02)
        self.changes = 0
        wanted = picture(self.here)
        assert picture(self.there) == wanted
        assert picture(self.there) == wanted
        for there, here in self.held:
            assert os.pread(there, 10000, 0) == os.pread(here, 10000, 0)
            assert os.fstat(there).st_nlink == os.fstat(here).st_nlink


def play(tops: tuple[Path, Path], examples: int) -> None:
    TwoSides.mount, TwoSides.behind = tops
    run_state_machine_as_test(
        TwoSides,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


@pytest.mark.timeout(300)
def test_the_job_sees_what_programs_here_do(tops: tuple[Path, Path]) -> None:
    play(tops, 2)


@pytest.mark.timeout(900)
@pytest.mark.long(lambda **_: True)
def test_the_job_sees_what_programs_here_do_for_long(tops: tuple[Path, Path]) -> None:
    play(tops, 20)
