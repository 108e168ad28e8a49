"""A directory through a real mount, and a plain one: whatever is done to both, they stay the same."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.mounted import mounted

libc = ctypes.CDLL(None, use_errno=True)
NAMES = st.sampled_from([b"a", b"b", b"c\xff", b"d", b"d/a", b"d/e", b"d/e/a", b"l", b"l/x"])
BYTES = st.binary(max_size=5000)
SIZES = st.integers(0, 9000)


def rename(old: bytes, new: bytes, flags: int) -> None:
    if libc.renameat2(-100, old, -100, new, flags) != 0:
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))


def outcome(work: Callable[[bytes], object], top: bytes) -> object:
    try:
        return work(top)
    except OSError as e:
        return errno.errorcode[e.errno or 0]


def picture(top: bytes) -> dict[bytes, object]:
    """All that is beneath `top`: kinds, modes, link counts, sizes, owners, contents, and which names are one file."""
    seen: dict[bytes, object] = {}
    first: dict[int, bytes] = {}
    for directory, directories, files in os.walk(top):
        directories.sort()
        for name in sorted(directories + files):
            path = os.path.join(directory, name)
            key, st_ = path[len(top) :], os.lstat(path)
            what: object = None
            if stat.S_ISLNK(st_.st_mode):
                what = os.readlink(path)
            elif stat.S_ISREG(st_.st_mode):
                with open(path, "rb") as f:
                    what = f.read()
            size = 0 if stat.S_ISDIR(st_.st_mode) else st_.st_size
            links = st_.st_nlink
            same = first.setdefault(st_.st_ino, key) if not stat.S_ISDIR(st_.st_mode) else key
            seen[key] = (
                oct(st_.st_mode),
                links,
                size,
                st_.st_uid,
                st_.st_gid,
                what,
                same,
                os.listxattr(path, follow_symlinks=False),
            )
    return seen


@pytest.fixture(scope="module", params=[False, True], ids=["at once", "late"])
def tops(request: pytest.FixtureRequest) -> Iterator[tuple[Path, Path]]:
    """(the mount, the directory behind it); late: changes are answered before they are done there."""
    if os.geteuid() != 0:
        pytest.fail("mounting needs root; run `make test` as root or with sudo")
    top = Path(tempfile.mkdtemp(prefix="model-", dir="/var/tmp"))
    for name in ("behind", "mount", "plain"):
        (top / name).mkdir()
    with mounted(top / "behind", top / "mount", late=request.param):
        yield top / "mount", top / "behind"
    shutil.rmtree(top)


class TwoDirectories(RuleBasedStateMachine):
    mount: Path
    behind: Path
    runs = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).runs += 1
        name = f"run{self.runs}"
        self.plain = os.fsencode(self.mount.parent / "plain" / name) + b"/"
        self.there = os.fsencode(self.mount / name) + b"/"
        self.home = os.fsencode(self.behind / name) + b"/"
        os.mkdir(self.plain)
        os.mkdir(self.there)
        self.held: list[tuple[int, int]] = []

    def teardown(self) -> None:
        for pair in self.held:
            for fd in pair:
                os.close(fd)
        shutil.rmtree(self.there)
        shutil.rmtree(self.plain)

    def both(self, work: Callable[[bytes], object]) -> None:
        assert outcome(work, self.there) == outcome(work, self.plain)

    @rule(
        name=NAMES,
        data=BYTES,
        at=SIZES,
        flags=st.sampled_from([0, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_CREAT | os.O_TRUNC, os.O_APPEND]),
    )
    def write(self, name: bytes, data: bytes, at: int, flags: int) -> None:
        def work(top: bytes) -> int:
            fd = os.open(top + name, os.O_RDWR | flags, 0o640)
            try:
                return os.pwrite(fd, data, at)
            finally:
                os.close(fd)

        self.both(work)

    @rule(name=NAMES, create=st.booleans())
    def hold(self, name: bytes, create: bool) -> None:
        fds = []
        said = []
        for top in (self.there, self.plain):
            try:
                fds.append(os.open(top + name, os.O_RDWR | (os.O_CREAT if create else 0), 0o600))
                said.append("fine")
            except OSError as e:
                said.append(errno.errorcode[e.errno or 0])
        assert said[0] == said[1]
        if fds:
            self.held.append((fds[0], fds[1]))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 99), data=BYTES, at=SIZES, cut=st.booleans())
    def use_held(self, which: int, data: bytes, at: int, cut: bool) -> None:
        there, plain = self.held[which % len(self.held)]
        for fd in (there, plain):
            if cut:
                os.ftruncate(fd, at)
            else:
                os.pwrite(fd, data, at)
        assert os.pread(there, 20000, 0) == os.pread(plain, 20000, 0)
        assert os.fstat(there).st_nlink == os.fstat(plain).st_nlink
        assert os.fstat(there).st_size == os.fstat(plain).st_size

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 99))
    def let_go(self, which: int) -> None:
        for fd in self.held.pop(which % len(self.held)):
            os.close(fd)

    @rule(name=NAMES, size=SIZES)
    def truncate(self, name: bytes, size: int) -> None:
        self.both(lambda top: os.truncate(top + name, size))

    @rule(name=NAMES, mode=st.integers(0, 0o7777))
    def mkdir(self, name: bytes, mode: int) -> None:
        self.both(lambda top: os.mkdir(top + name, mode))

    @rule(name=NAMES)
    def unlink(self, name: bytes) -> None:
        self.both(lambda top: os.unlink(top + name))

    @rule(name=NAMES)
    def rmdir(self, name: bytes) -> None:
        self.both(lambda top: os.rmdir(top + name))

    @rule(old=NAMES, new=NAMES, flags=st.sampled_from([0, 0, 1, 2]))
    def rename(self, old: bytes, new: bytes, flags: int) -> None:
        self.both(lambda top: rename(top + old, top + new, flags))

    @rule(old=NAMES, new=NAMES)
    def link(self, old: bytes, new: bytes) -> None:
        self.both(lambda top: os.link(top + old, top + new, follow_symlinks=False))

    @rule(to=st.sampled_from([b"a", b"d", b"d/e", b"nowhere", b"l"]), name=NAMES)
    def symlink(self, to: bytes, name: bytes) -> None:
        self.both(lambda top: os.symlink(to, top + name))

    @rule(name=NAMES, mode=st.integers(0, 0o7777))
    def chmod(self, name: bytes, mode: int) -> None:
        self.both(lambda top: os.chmod(top + name, mode))

    @rule(name=NAMES, uid=st.integers(-1, 3), gid=st.integers(-1, 3))
    def chown(self, name: bytes, uid: int, gid: int) -> None:
        self.both(lambda top: os.chown(top + name, uid, gid, follow_symlinks=False))

    @rule(name=NAMES, when=st.integers(-(10**18), 4 * 10**18))
    def utime(self, name: bytes, when: int) -> None:
        def work(top: bytes) -> tuple[int, int]:
            os.utime(top + name, ns=(when, when + 1))
            return os.stat(top + name).st_atime_ns, os.stat(top + name).st_mtime_ns

        self.both(work)

    @rule(name=NAMES, value=st.binary(max_size=40), how=st.sampled_from([0, os.XATTR_CREATE, os.XATTR_REPLACE]))
    def setxattr(self, name: bytes, value: bytes, how: int) -> None:
        self.both(lambda top: os.setxattr(top + name, b"user.x", value, how))

    @invariant()
    def they_are_the_same(self) -> None:
        wanted = picture(self.plain)
        assert picture(self.there) == wanted
        os.statvfs(self.there)  # home is asked, and answers once it has done all before
        assert picture(self.home) == wanted


@pytest.mark.timeout(300)
def test_a_mounted_directory_is_like_a_plain_one(tops: tuple[Path, Path], request: pytest.FixtureRequest) -> None:
    late = request.node.callspec.params["tops"]
    TwoDirectories.mount, TwoDirectories.behind = tops
    run_state_machine_as_test(
        TwoDirectories,
        settings=settings(
            max_examples=10 if late else 150,  # each look waits for all that is late
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


def test_a_symbolic_link_that_gets_another_name_has_two_links(tops: tuple[Path, Path]) -> None:
    """By both names: to home its number may have been another's, as it has changed since it was told of."""
    mount, behind = tops
    (mount / "link").symlink_to("nothing")
    assert (mount / "link").lstat().st_nlink == 1
    os.link(mount / "link", mount / "other", follow_symlinks=False)
    assert [(top / name).lstat().st_nlink for top in tops for name in ("link", "other")] == [2] * 4
    for name in ("link", "other"):
        (behind / name).unlink()
