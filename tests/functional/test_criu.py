"""Real dumps and restores in namespaces like a job's, stdio held outside them, as root and as an ordinary user."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import struct
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.execute import criu, selftest
from checkpoint.wire import criu_bundle
from tests.desk_hosts import SUBMIT_UID
from tests.functional.criubox import box
from tests.reachable import AsUser

JOB = Path(__file__).with_name("criujob.py")
PYTHON = "/usr/bin/python3"


@pytest.fixture(params=[0, SUBMIT_UID], ids=["root", "user"])
def user(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def home(user: int) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="rexec-criu-home-", dir="/var/tmp"))
    shutil.copy(JOB, path / "job.py")
    os.chown(path, user, user)
    yield path
    shutil.rmtree(path)


def pipes() -> tuple[list[int], list[int]]:
    """(the job's ends, our ends) of stdin, stdout and stderr."""
    made = [os.pipe() for _ in range(3)]
    inner = [made[0][0], made[1][1], made[2][1]]
    for fd in inner:
        os.fchown(fd, os.getuid(), os.getgid())
    return inner, [made[0][1], made[1][0], made[2][0]]


def until(fd: int, end: bytes) -> bytes:
    """What comes from a descriptor up to end."""
    out = b""
    while end not in out:
        assert select.select([fd], [], [], 20)[0], f"waited in vain for {end!r} after {out[-500:]!r}"
        more = os.read(fd, 65536)
        assert more, f"ended before {end!r}, after {out[-500:]!r}"
        out += more
    return out


@pytest.mark.parametrize(("user", "apart"), [(0, False), (0, True), (SUBMIT_UID, True)], indirect=["user"])
def test_selftest(as_user: AsUser, criu_dir: str, user: int, apart: bool) -> None:
    def body() -> None:
        assert selftest.run(criu_dir, apart=apart) == ""

    as_user(user, body)


def test_everything_survives(as_user: AsUser, criu_dir: str, user: int, home: Path) -> None:
    def body() -> None:
        rootless = bool(user)
        # As an ordinary user CRIU may not open a file by its handle, and so not find what is watched.
        options = ["" if rootless else "inotify"]
        with box() as first:
            inner, outer = pipes()
            first.last_pid(1000)
            pid = first.spawn([PYTHON, str(home / "job.py"), str(home), *options], dict(enumerate(inner)))
            until(outer[1], b"ready\n")
            os.write(outer[0], b"unread ")
            keys = [criu.pipe_key(os.fstat(fd).st_ino) for fd in inner]
            request = criu.dump_request(pid, unprivileged=rootless, leave_running=False)
            answer = first.criu(criu_dir, home / "img", request)
            assert answer.success, criu.failure("dump", str(home / "img"))
            assert first.wait(pid) == -9
            times = criu.parse_stats((home / "img" / criu.STATISTICS).read_bytes())
            os.set_blocking(inner[0], False)
            unread = os.read(inner[0], 100)
        with box() as second:
            inner, outer = pipes()
            os.write(outer[0], unread)
            (home / "go").touch()
            ends = tuple((criu.FIRST_INHERITED_FD + i, key) for i, key in enumerate(keys))
            request = criu.restore_request(ends, unprivileged=rootless)
            fds = {criu.FIRST_INHERITED_FD + i: fd for i, fd in enumerate(inner)}
            answer = second.criu(criu_dir, home / "img", request, fds)
            assert answer.success, criu.failure("restore", str(home / "img"))
            assert answer.pid == pid
            os.write(outer[0], b"stdin\n")
            os.close(inner[1])
            report = json.loads(until(outer[1], b"}\n"))
            assert second.wait(pid) == 7
        assert report == {
            "stdin": "unread stdin", "ids": True, "threads": True, "child": True, "memfd": "memfd content",
            "deleted": ["deleted content", 0], "append": "before\nafter\n", "epoll": [True],
            "socketpair": "in flight", "unix": "named", "eventfd": 5, "timerfd": True, "itimer": True,
            "inotify": not user, "signals": ["USR1"], "cwd": True, "locked": True, "ranged": True,
            "pipeline": "got line\n", "orphan": True, "waited": 9,
        }  # fmt: skip
        assert times["frozen_us"] > 0
        assert times["pages_written"] > 100

    as_user(user, body)


def test_a_dump_is_a_transaction(as_user: AsUser, criu_dir: str, user: int, home: Path) -> None:
    """While the hook runs the tree is frozen; it goes on after "no", and after criu's client has vanished."""

    def body() -> None:
        with box() as b:
            inner, outer = pipes()
            null = b.null()
            b.last_pid(1000)
            count = "i=0; while :; do i=$((i+1)); echo $i; sleep .01; done"
            pid = b.spawn(["/bin/sh", "-c", count], {0: null, 1: inner[1], 2: null})
            out = until(outer[1], b"5\n")

            def drained() -> bytes:
                data = b""
                while select.select([outer[1]], [], [], 0)[0]:
                    data += os.read(outer[1], 65536)
                return data

            class VanishedError(Exception):
                pass

            def decide(told: criu.Answer) -> bool:
                nonlocal out
                if told.script != "post-dump":
                    return True
                out += drained()
                assert not select.select([outer[1]], [], [], 0.2)[0]
                if verdict is None:
                    raise VanishedError
                return verdict

            verdict: bool | None
            for name, verdict, running in (("no", False, False), ("lost", None, False), ("yes", True, True)):
                request = criu.dump_request(pid, unprivileged=bool(user), leave_running=running)
                if verdict is None:
                    with pytest.raises(VanishedError):
                        b.criu(criu_dir, home / name, request, notified=decide)
                else:
                    assert b.criu(criu_dir, home / name, request, notified=decide).success is verdict
                out += until(outer[1], b"\n")
            numbers = [int(n) for n in out.split()]
            assert numbers == list(range(1, len(numbers) + 1))

    as_user(user, body)


def test_a_restore_waits_for_permission(as_user: AsUser, criu_dir: str, user: int, home: Path) -> None:
    """Nothing of the restored tree runs before `post-restore` is answered; "no" leaves no copy."""

    def body() -> None:
        with box() as b:
            inner, outer = pipes()
            null = b.null()
            b.last_pid(1000)
            pid = b.spawn(["/bin/sh", "-c", "while :; do echo x; sleep .01; done"], {0: null, 1: inner[1], 2: null})
            until(outer[1], b"x\n")
            key = criu.pipe_key(os.fstat(inner[1]).st_ino)
            request = criu.dump_request(pid, unprivileged=bool(user), leave_running=False)
            assert b.criu(criu_dir, home / "img", request).success
            b.wait(pid)
        request = criu.restore_request(((10, key),), unprivileged=bool(user))
        for go_on in (False, True):
            with box() as b:
                fresh, ours = pipes()

                def decide(told: criu.Answer, fd: int = ours[1], verdict: bool = go_on) -> bool:
                    if told.script != "post-restore":
                        return True
                    assert not select.select([fd], [], [], 0.2)[0]
                    return verdict

                answer = b.criu(criu_dir, home / "img", request, {10: fresh[1]}, decide)
                assert answer.success is go_on, criu.failure("restore", str(home / "img"))
                os.close(fresh[1])
                assert os.read(ours[1], 2) == (b"x\n" if go_on else b"")

    as_user(user, body)


def test_a_terminal_job_moves(as_user: AsUser, criu_dir: str, user: int, home: Path) -> None:
    def body() -> None:
        with box() as first:
            master, slave = first.ask("pty")[1]
            st = os.fstat(slave)
            key = criu.tty_key(st.st_rdev, st.st_dev)
            first.last_pid(1000)
            shell = ["/bin/bash", "--norc", "-ic", "export PS1='$ '; exec bash --norc -i"]
            pid = first.spawn(shell, {0: slave, 1: slave, 2: slave}, tty=True)
            os.write(master, b"X=kept; sleep 3600 & cat\n")
            until(master, b"[1] 1002\r\n")
            os.write(master, b"echo\n")
            until(master, b"echo\r\necho\r\n")
            request = criu.dump_request(pid, unprivileged=bool(user), leave_running=False, ttys=(key,))
            answer = first.criu(criu_dir, home / "img", request)
            assert answer.success, criu.failure("dump", str(home / "img"))
            first.wait(pid)
        with box() as second:
            master, slave = second.ask("pty")[1]
            request = criu.restore_request(((10, key),), unprivileged=bool(user))
            answer = second.criu(criu_dir, home / "img", request, {10: slave})
            assert answer.success, criu.failure("restore", str(home / "img"))
            os.close(slave)
            # after the restore: criu sets the size that the terminal had
            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
            os.write(master, b"again\n")
            until(master, b"again\r\nagain\r\n")
            os.write(master, b"\x03")
            until(master, b"$ ")
            os.write(master, b"stty size; tty; echo $X $$; jobs; echo e''nd\n")
            said = until(master, b"\nend\r\n")
            assert b"33 99\r\n/dev/pts/0\r\nkept 1001\r\n[1]+  Running" in said
            os.write(master, b"kill %1; exit 5\n")
            assert second.wait(pid) == 5

    as_user(user, body)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    archive, digest = criu_bundle.pack({"criu": b"program", "ld.so": b"loader", "lib/libc.so.6": b"library"})
    with pytest.raises(criu_bundle.BundleError, match="damaged"):
        criu_bundle.unpack(archive[:-1] + b"x", digest, str(tmp_path))
    at = criu_bundle.unpack(archive, digest, str(tmp_path))
    assert Path(at, "lib/libc.so.6").read_bytes() == b"library"
    assert os.listdir(tmp_path) == [os.path.basename(at)]
