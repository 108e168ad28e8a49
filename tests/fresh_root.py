"""Runs a command in a clone of this checkout's HEAD, on a machine that has nothing of ours.

    sudo python3 -m tests.fresh_root [--suite bookworm|trixie] [--user] COMMAND...

The machine is a bare Debian with git, make, python3 and sudo: a root directory that is made once a suite and copied for
each run, in namespaces of its own. Kernel, processors and network are this machine's. There, /dev/fuse is root's alone,
as where no udev runs, and the clone lies in a home of mode 0700: root's, or with --user that of one who may use sudo.
Of this machine's settings it has how to reach what is fetched (fresh_settings.py), and no other. With the command ends
all that it started; its status is ours, and what it wrote is removed.

Needs root and debootstrap, and of Python only what is its own.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pwd
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from tests import desk_boot, fresh_settings
from tests.desk_boot import CLONE_NEWIPC, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUTS, check, libc, mount
from tests.desk_root import CACHE, DeskError, archive, call, digest, locked

CHECKOUT = Path(__file__).resolve().parent.parent
SUITES = ("bookworm", "trixie")
PACKAGES = ("git", "make", "python3", "sudo", "ca-certificates")
NAME, USER = "fresh", "newcomer"
RUNS = CACHE / "fresh-runs"
PR_SET_PDEATHSIG = 1
INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


def base(suite: str) -> Path:
    """The root directory that each run gets a copy of; made by debootstrap if it is not there yet."""
    root = CACHE / f"fresh-{suite}-{digest(suite, *PACKAGES)}"
    with locked(CACHE / "lock.fresh"):
        if not root.exists():
            unfinished = root.with_name(f"{root.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            call(
                ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", suite, unfinished, archive()],
                log=root.with_name(f"{root.name}.log"),
            )
            unfinished.rename(root)
    return root


@contextmanager
def copied(of: Path) -> Iterator[Path]:
    """A copy of that root directory, removed afterwards; by the next run if this one is killed."""
    RUNS.mkdir(parents=True, exist_ok=True)
    with locked(CACHE / "lock.fresh"):
        for left in RUNS.iterdir():
            if (lock := _lock(left)) is not None:
                shutil.rmtree(left)
                os.close(lock)
        run = Path(tempfile.mkdtemp(dir=RUNS))
        lock = _lock(run)
        assert lock is not None
    try:
        call(["cp", "-a", of, run / "root"])
        yield run / "root"
    finally:
        shutil.rmtree(run)
        os.close(lock)


def _lock(directory: Path) -> int | None:
    """A descriptor by which the directory is ours until it is closed; None if it is another's."""
    held = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        return None
    return held


def furnish(root: Path, user: bool) -> None:
    """Put the clone, its owner and this machine's way to what is fetched into a bare root directory."""
    if user:
        call(["chroot", root, "useradd", "-m", "-s", "/bin/bash", USER])
        keep = f'Defaults env_keep += "{" ".join(fresh_settings.variables(os.environ))}"\n'
        (root / f"etc/sudoers.d/{USER}").write_text(f"{keep}{USER} ALL=(ALL) NOPASSWD: ALL\n")
    home = _home(user)
    (root / home).chmod(0o700)
    call(["git", "clone", "-q", CHECKOUT, root / home / "project"])
    call(["git", "-C", root / home / "project", "remote", "remove", "origin"])
    if user:
        call(["chroot", root, "chown", "-R", f"{USER}:", f"/{home}/project"])
    apt = fresh_settings.apt(call(["apt-config", "dump", "Acquire"]))
    pip = fresh_settings.pip(fresh_settings.pip_files(os.environ), os.environ)
    (root / "etc/apt/apt.conf.d/80this-machine").write_text(apt)
    (root / "etc/pip.conf").write_text(pip)
    (root / "etc/hosts").write_text(Path("/etc/hosts").read_text() + f"127.0.1.1 {NAME}\n")
    shutil.copy("/etc/resolv.conf", root / "etc")
    for file in fresh_settings.certificates([apt, pip, *fresh_settings.variables(os.environ).values()]):
        (root / file[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, root / file[1:])
    own = Path("usr/local/share/ca-certificates")  # update-ca-certificates(8) makes the bundle anew of these
    if Path("/", own).is_dir():
        shutil.copytree(Path("/", own), root / own, dirs_exist_ok=True)


def _home(user: bool) -> str:
    return f"home/{USER}" if user else "root"


def run(root: Path, argv: Sequence[str], user: bool) -> int:
    """Run a command there, until it has ended and all others with it; its status, or 128 and the signal it died of.

    This process can start no other afterwards.
    """
    try:
        check(libc.unshare(CLONE_NEWPID), "unshare")
    except PermissionError as error:
        raise DeskError("this machine does not let root make namespaces, and a fresh machine is made of them; "
                        "run this where it does") from error  # fmt: skip
    init = os.fork()
    if init == 0:
        _leave(lambda: _init(root, argv, user))
    try:
        return _code(os.waitpid(init, 0)[1])
    except BaseException:
        # The kernel kills every process of a pid namespace with its init, and init has not ended before they have.
        os.kill(init, signal.SIGKILL)
        os.waitpid(init, 0)
        raise


def _code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _leave(body: Callable[[], int]) -> NoReturn:
    """End this fork with what it returns."""
    status = 1
    try:
        status = body()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _init(root: Path, argv: Sequence[str], user: bool) -> int:
    """Be the first process there: it reaps what others leave until the command has ended."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    check(libc.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC), "unshare")
    mount("--make-rprivate", "/")
    mount("--bind", str(root), str(root))
    os.chdir(root)
    desk_boot.settle(NAME, fuse=0o600)
    command = os.fork()
    if command == 0:
        _leave(lambda: _command(argv, user))
    while True:
        pid, status = os.wait()
        if pid == command:
            return _code(status)


def _command(argv: Sequence[str], user: bool) -> int:
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_DFL)
    environment = {
        "HOME": f"/{_home(user)}",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        **fresh_settings.variables(os.environ),
    }
    if user:
        entry = pwd.getpwnam(USER)
        os.initgroups(USER, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
        environment["USER"] = environment["LOGNAME"] = USER
    os.chdir(f"/{_home(user)}/project")
    try:
        os.execvpe(argv[0], argv, environment)
    except OSError as error:
        print(f"fresh_root: {argv[0]} cannot be run there: {error.strerror}", file=sys.stderr)
        return 127


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="fresh_root", description="Run a command in a clone of HEAD on a bare Debian."
    )
    parser.add_argument("--suite", choices=SUITES, default=SUITES[0])
    parser.add_argument("--user", action="store_true", help="as an ordinary user who may use sudo")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args(argv)
    if not given.command:
        parser.error("name a command, such as `make test`")
    if os.geteuid() != 0:
        parser.error("a fresh machine is made by root; run this with sudo")
    for number in INTERRUPTS:
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        with copied(base(given.suite)) as root:
            furnish(root, given.user)
            return run(root, given.command, given.user)
    except DeskError as error:
        print(f"fresh_root: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
