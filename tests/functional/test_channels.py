"""Unix sockets and fifos of this machine, met by a job: who is at their other end here cannot be reached from there.

Each is in the job's kernel a channel of its own: a connect finds nobody bound, and an open waits for the other end. So
what a process here has bound or open is refused at once, and what nobody here holds is the job's, as ever.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.program import Combo, as_login
from tests.talk import Talk
from tests.until import until

pytestmark = pytest.mark.parametrize("combo", ["local-root", "user-alice"], indirect=True)
SOON = 2.0  # seconds: docs/consistency.md
REFUSED = ("EOVERFLOW", "EBUSY")  # the first by the job's kernel, the second where it does not know yet
KINDS = [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET]


@pytest.fixture
def job(combo: Combo) -> Iterator[Talk]:
    with Talk(combo) as talk:
        yield talk


def bound(path: Path, combo: Combo, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A socket of this process, whose file is the job's user's."""
    served = socket.socket(socket.AF_UNIX, kind)
    served.bind(os.fspath(path))
    if kind != socket.SOCK_DGRAM:
        served.listen()
    os.chown(path, combo.uid, -1)
    served.setblocking(False)
    return served


CONNECT = "says(socket.socket(socket.AF_UNIX, {}).connect, {!r})"


def test_a_socket_bound_here_is_refused_and_stays(job: Talk, combo: Combo) -> None:
    """ECONNREFUSED says that nobody listens: tmux, gpg, ssh and emacsclient unlink the socket then, and bind anew."""
    paths = {kind: combo.dir / f"s{int(kind)}" for kind in KINDS}
    with ExitStack() as here:
        served = {kind: here.enter_context(bound(path, combo, kind)) for kind, path in paths.items()}
        shown = {kind: path.stat() for kind, path in paths.items()}
        for kind, path in paths.items():
            name = path.name
            assert job(CONNECT.format(int(kind), name)) == "EACCES"
            assert job(f"stat.S_ISSOCK(os.stat({name!r}).st_mode), os.stat({name!r}).st_uid") == [True, combo.uid]
            assert job(f"says(os.unlink, {name!r})") in REFUSED
            assert job(f"put('new', 'x') or says(os.rename, 'new', {name!r})") in REFUSED
            assert job(f"says(os.rename, {name!r}, 'elsewhere')") in REFUSED
            assert job(f"says(socket.socket(socket.AF_UNIX).bind, {name!r})") == "EADDRINUSE"
            assert (path.stat().st_ino, path.stat().st_mode) == (shown[kind].st_ino, shown[kind].st_mode)
            if kind != socket.SOCK_DGRAM:
                with pytest.raises(BlockingIOError):
                    served[kind].accept()  # that it was looked for is nothing that it would notice


def test_a_socket_that_nobody_has_bound_any_more_is_the_jobs(job: Talk, combo: Combo) -> None:
    """As a server finds what one that was killed has left: it unlinks it, and takes its place."""
    path = combo.dir / "s"
    with bound(path, combo):
        assert job("says(socket.socket(socket.AF_UNIX).connect, 's')") == "EACCES"
    until(lambda: job("says(socket.socket(socket.AF_UNIX).connect, 's')") == "ECONNREFUSED", "it is left", within=SOON)
    job("os.unlink('s'); served = socket.socket(socket.AF_UNIX); served.bind('s'); served.listen()")
    assert job("says(socket.socket(socket.AF_UNIX).connect, 's')") == "fine"
    job("os.unlink('s')")
    assert not path.exists()
    with bound(path, combo):
        until(
            lambda: job("says(socket.socket(socket.AF_UNIX).connect, 's')") == "EACCES", "it is another's", within=SOON
        )


def test_programs_leave_the_users_servers_alone(combo: Combo) -> None:
    """A session of tmux here is there after a tmux in the job, which says that it may not."""
    tmux = ["tmux", "-S", "t", "-f", "/dev/null"]
    done = combo.here([*tmux, "new-session", "-d", "sleep 60"])
    assert done.returncode == 0, done.stderr
    try:
        for command in ("has-session", "new-session -d true"):
            run = combo.run([*tmux, *command.split()])
            assert run.returncode == 1
            assert b"Permission denied" in run.stderr
        assert combo.here([*tmux, "has-session"]).returncode == 0
    finally:
        combo.here([*tmux, "kill-server"])


def test_a_fifo_held_open_here_makes_nobody_wait(job: Talk, combo: Combo) -> None:
    """As make's jobserver from 4.4 on: the job's make says that it cannot have it, and goes on with a -j of its own.

    How soon it is known: test_open_fifos.py.
    """
    job("os.mkfifo('f')")
    with as_login(combo.as_user, ["sh", "-c", "exec 9<>f; echo held; exec sleep 600"], cwd=combo.dir) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        until(
            lambda: job("says(os.open, 'f', os.O_RDWR | os.O_NONBLOCK)") == "EACCES", "it is held"
        )  # after 20 times what a look costs: test_open_fifos.py
        for flags in ("os.O_RDONLY", "os.O_WRONLY", "os.O_RDWR | os.O_NONBLOCK"):
            assert job(f"says(os.open, 'f', {flags})") == "EACCES"
        run = combo.run(["head", "-c1", "f"])
        assert (run.returncode, run.stdout) == (1, b"")
        assert b"Permission denied" in run.stderr
        holder.kill()
        holder.wait()
    until(lambda: job("stat.S_ISFIFO(os.stat('f').st_mode)"), "it is a fifo again")
    assert job("subprocess.run('cat f & echo through >f; wait', shell=True, capture_output=True).stdout.decode()") == (
        "through\n"
    )


def test_a_fifo_that_is_only_looked_at_here_is_the_jobs(job: Talk, combo: Combo) -> None:
    job("os.mkfifo('f')")
    looked = os.open(combo.dir / "f", os.O_PATH)
    try:
        with subprocess.Popen(["sleep", "60"], pass_fds=[looked]) as holder:
            through = "subprocess.run('cat f & echo it >f; wait', shell=True, capture_output=True).stdout.decode()"
            assert job(through) == "it\n"
            holder.kill()
    finally:
        os.close(looked)
