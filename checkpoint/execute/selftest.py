"""Does a criu work on this host? A tiny process is dumped and restored in namespaces like a job's.

Shipped: runs on the execute host.
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time

from checkpoint.execute import criu
from checkpoint.execute.syscalls import check, libc
from checkpoint.wire import criu_bundle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

NEWUSER, NEWNS, NEWPID, NEWTIME = 0x10000000, 0x20000, 0x20000000, 0x80
MS_REC, MS_PRIVATE = 0x4000, 1 << 18
TIMEOUT_S = 60
_PREFIX = "rexec-selftest-"
KEPT_S = 3600.0  # a failed test's log is named to the user, who may want to read it
# An internet socket: criu before 4.2 fails on one where the kernel (from 6.16 on) knows no SO_PASSCRED of it.
# It is dumped once it has that: it closes the descriptor it is given the number of.
_VICTIM = (
    "import os, signal, socket, sys; s = socket.create_server(('127.0.0.1', 0)); os.close(int(sys.argv[1])); "
    "signal.pause()"
)


def key(bundle: str, apart: bool) -> str:
    """Name what a result holds for: this boot's kernel, this user, this bundle, with or without a user namespace."""
    who = f"uid={os.getuid()}{' apart, own clocks, own id' if apart else ''}"
    return f"{os.uname().release} {os.uname().version} {who} {os.path.basename(bundle)}"


def cached(bundle: str, cache: str, apart: bool, pulse: Callable[[], None]) -> str:
    """Say why criu does not work here, or "": by the last test if nothing has changed since, else by one (0.5 s)."""
    record = os.path.join(cache, "criu-selftest-apart" if apart else "criu-selftest")
    try:
        with open(record, errors="replace") as f:
            known, _, result = f.read().partition("\n")
    except FileNotFoundError:
        known, result = "", ""
    if known != key(bundle, apart) or result:  # a failure is tried again: its cause may have been mended
        result = run(bundle, apart, pulse)
        os.makedirs(cache, mode=0o700, exist_ok=True)
        criu_bundle.record(record, key(bundle, apart) + "\n" + result)
    return result


def run(bundle: str, apart: bool, pulse: Callable[[], None] = lambda: None) -> str:
    """Test criu, and say in a sentence why it does not work here, or "".

    `apart`: in a user namespace, as ordinary users must.
    `pulse` is called once a second meanwhile.
    """
    sweep(tempfile.gettempdir())
    spool = tempfile.mkdtemp(prefix=_PREFIX)
    held = _lock(spool)  # by this process and the child
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _guarded(write, bundle, spool, apart)
    os.close(write)
    poll = select.poll()
    poll.register(read, select.POLLIN)
    while not poll.poll(1000):
        pulse()  # what is said is said at once
    with open(read, "rb") as f:
        said = f.read().decode(errors="replace")
    os.waitpid(child, 0)
    os.close(held)
    if said == "works":
        shutil.rmtree(spool)  # else its log is named in what is returned
        return ""
    return said or "the self-test of criu was killed before it ended"


def sweep(directory: str) -> None:
    """Remove what tests that failed, or were killed, have left there: this user's own, old, and in use by none."""
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if not name.startswith(_PREFIX):
            continue
        try:
            st = os.lstat(path)
            if not stat.S_ISDIR(st.st_mode) or st.st_uid != os.geteuid() or time.time() - st.st_mtime < KEPT_S:
                continue
            held = _lock(path)
        except OSError:
            continue  # it is in use, or has gone
        shutil.rmtree(path, ignore_errors=True)  # what stays costs room alone, and is tried again
        os.close(held)


def _lock(directory: str) -> int:
    """Lock a directory, by a descriptor that is returned. Raises OSError where another process has it locked."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def _guarded(write: int, bundle: str, spool: str, apart: bool) -> None:
    """In a child that must never return into its parent's code: write the result and end."""
    try:
        try:
            said = _in_namespaces(write, bundle, spool, apart)
        except (OSError, criu.CriuError) as e:
            said = f"criu cannot work here: {e}"
        if said:
            os.write(write, said.encode())
    finally:
        os._exit(0)


def _in_namespaces(write: int, bundle: str, spool: str, apart: bool) -> str:
    uid, gid = os.getuid(), os.getgid()
    check(libc.unshare((NEWUSER if apart else 0) | NEWNS | NEWPID), "new namespaces are refused")
    if apart:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open("/proc/self/" + name, "w") as f:
                f.write(text)
        check(libc.unshare(NEWTIME), "a time namespace is refused; it needs Linux 5.6 with CONFIG_TIME_NS")
    check(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "mounts cannot be made private")
    init = os.fork()
    if init:
        os.waitpid(init, 0)
        return ""
    check(libc.mount(b"proc", b"/proc", b"proc", 0, None), "/proc cannot be mounted")
    os.chdir("/")
    _last_pid(1000)
    ready, told = os.pipe()
    victim = os.fork()
    if victim == 0:
        try:
            os.setsid()
            os.closerange(0, told)  # opened outside the namespaces
            os.closerange(told + 1, 1 << 16)
            os.set_inheritable(told, True)
            # exec: what is mapped must have been opened in this mount namespace
            os.execv(sys.executable, [sys.executable, "-ISc", _VICTIM, str(told)])
        finally:
            os._exit(127)
    os.close(told)
    os.read(ready, 1)
    os.close(ready)
    _last_pid(300)
    _criu(criu.dump_request(victim, unprivileged=apart, leave_running=False), bundle, spool, "a test dump")
    os.waitpid(victim, 0)
    _last_pid(300)
    answer = _criu(criu.restore_request((), unprivileged=apart), bundle, spool, "a test restore")
    os.kill(answer.pid, signal.SIGKILL)
    os.waitpid(answer.pid, 0)
    return "works"


def _last_pid(number: int) -> None:
    # criu and its helpers take the next numbers; the victim's own must be free at the restore
    with open("/proc/sys/kernel/ns_last_pid", "w") as f:
        f.write(str(number))


def _criu(request: bytes, bundle: str, images: str, what: str) -> criu.Answer:
    criu.prepare(images)
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mine.settimeout(TIMEOUT_S)
    null = os.open("/dev/null", os.O_RDWR)
    said = os.open(os.path.join(images, criu.STDERR_NAME), os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    fds = {0: null, 1: said, 2: said, criu.SOCKET_FD: theirs.fileno()}
    fds[criu.BUNDLE_FD] = os.open(bundle, os.O_PATH)
    fds[criu.IMAGES_FD] = fds[criu.WORK_FD] = os.open(images, os.O_RDONLY)
    child = os.fork()
    if child == 0:
        try:
            criu.become(criu_bundle.LOADER, criu_bundle.LIBRARY_DIRS, criu_bundle.PROGRAM, fds)
        except OSError as e:
            os.write(said, str(e).encode())
        finally:
            os._exit(127)
    for fd in set(fds.values()) - {theirs.fileno()}:
        os.close(fd)
    theirs.close()
    try:
        answer = criu.converse(mine, request, lambda told: True)
    except (criu.CriuError, OSError) as e:
        os.kill(child, signal.SIGKILL)
        raise criu.CriuError(f"{criu.failure(what, images)} ({e})") from e
    finally:
        mine.close()
        os.waitpid(child, 0)
    if not answer.success:
        raise criu.CriuError(criu.failure(what, images))
    return answer


if __name__ == "__main__":
    print(run(sys.argv[1], os.geteuid() != 0))
