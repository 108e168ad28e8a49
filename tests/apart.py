"""Namespaces that let any number of test runs have a desk each, of the same names and addresses, at the same time.

`entered` gives this thread, and all that it starts from then on, a mount and a network namespace of their own. In there
are private to the run: the network with its links, addresses and abstract sockets, /run/netns, ssh's configuration for
all users, the desk's STATE, the home of SUBMIT_USER, /dev/fuse, terminals, X servers. Processes, users and the
rest of the files are the machine's. When the last process of a run has ended, the kernel takes its links and mounts
away; what a run that was killed leaves else, its hosts and its files, goes when the next one starts.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import desk, desk_ssh, netns
from tests.desk_boot import DEVICES, mount
from tests.desk_hosts import HOSTS, STATE, SUBMIT_GROUP, SUBMIT_USER, SYSTEM_SSH_CONFIG
from tests.desk_root import CACHE, DeskError, call, locked

# One directory a run, which its `lock` keeps from `_reclaim`: on the disk that STATE is on.
RUNS = STATE.with_name(f"{STATE.name}-runs")
FUSE = Path("/dev/fuse")


@contextmanager
def entered() -> Iterator[Path]:
    """Enter namespaces of this run's own, and leave nothing behind. For the main thread, once a process.

    Yields a directory that is the run's own and open to all; it goes with the run.
    """
    with locked(CACHE / "lock.user"):
        desk_ssh.submit_user()
    RUNS.mkdir(mode=0o755, parents=True, exist_ok=True)
    with locked(RUNS / "lock"):
        _reclaim()
        run = Path(tempfile.mkdtemp(dir=RUNS))
        run.chmod(0o755)
        held = _lock(run)
    try:
        _enter(run)
        yield run
        with locked(RUNS / "lock"):
            _remove(run)
    finally:
        os.close(held)


@contextmanager
def hidden(program: Path | None) -> Iterator[None]:
    """Have this run, once `entered`, not find a program of the machine, if the machine has it."""
    if program is not None:
        mount("--bind", "/dev/null", str(program))
    try:
        yield
    finally:
        if program is not None:
            call(["umount", program])


def _enter(run: Path) -> None:
    try:
        netns.leave()
    except PermissionError as error:
        raise DeskError("this machine does not let root make namespaces, and the hosts of the tests are made of them; "
                        "run the tests where it does") from error  # fmt: skip
    mount("--make-rprivate", "/")
    call(["ip", "link", "set", "lo", "up"])
    _mount_empty("/run/netns", "755")
    _mount_empty(SYSTEM_SSH_CONFIG.parent, "755")
    _mount_empty("/tmp/.X11-unix", "1777")
    # An owner is seen by what is typed into any terminal of the machine, or stirs its /dev/ptmx.
    mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666,mode=620,gid=5", "devpts", "/dev/pts")
    mount("--bind", "/dev/pts/ptmx", "/dev/ptmx")
    home = Path(pwd.getpwnam(SUBMIT_USER).pw_dir)
    for name, at in (("home", home), ("desk", STATE)):
        (run / name).mkdir()
        at.mkdir(parents=True, exist_ok=True)
        mount("--bind", str(run / name), str(at))
    shutil.chown(home, SUBMIT_USER, SUBMIT_GROUP)
    _open_fuse(run / "dev")


def _open_fuse(scratch: Path) -> None:
    """Have /dev/fuse open to all, as udev has it on any Debian: the /dev of a container has it for root alone."""
    if not FUSE.is_char_device():
        raise DeskError(f"this machine has no {FUSE}, by which jobs see files; load it with `modprobe fuse`")
    scratch.mkdir()
    _mount_empty(scratch, "755")  # the disk may be mounted nodev
    device = scratch / "fuse"
    os.mknod(device, 0o020666, os.makedev(*DEVICES["fuse"]))
    device.chmod(0o666)
    mount("--bind", str(device), str(FUSE))
    call(["umount", scratch])


def _mount_empty(at: str | Path, mode: str) -> None:
    Path(at).mkdir(parents=True, exist_ok=True)
    mount("-t", "tmpfs", "-o", f"mode={mode}", "tmpfs", str(at))


def _lock(run: Path) -> int | None:
    """A descriptor that keeps the run's directory from others until it is closed; None if another has one."""
    held = os.open(run / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        return None
    return held


def _reclaim() -> None:
    """Remove what is left of runs that were killed."""
    for run in RUNS.iterdir():
        if run.is_dir() and (held := _lock(run)) is not None:
            _remove(run)
            os.close(held)


def _remove(run: Path) -> None:
    for name in HOSTS:
        desk.kill(run / "desk" / name)
    shutil.rmtree(run)
