"""Boots one host of the desk. Run by desk.py as a program of its own, as root, with the submit machine's python3:

    desk_boot.py NAME NETNS LOWER STATE       stdin: a line tells it to go on; stdout: the host's init, its pid

It enters the network namespace NETNS, makes mount, pid, uts and ipc namespaces, prints the pid of the first process
there and ends. That process waits for the line (the caller's chance to write the pid down before anything is mounted),
builds the root in STATE/root out of LOWER and STATE/upper, leaves the submit machine's files behind and becomes
desk_init.py, run by the host's own python3.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = (
    0x00020000,
    0x04000000,
    0x08000000,
    0x20000000,
    0x40000000,
)  # fmt: skip  (linux/sched.h)
DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
    "fuse": (10, 229),
}  # fmt: skip  (Linux, Documentation/admin-guide/devices.txt)
LINKS = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def mount(*argv: str) -> None:
    subprocess.run(["mount", *argv], check=True)


def build(name: str, lower: str, state: str) -> None:
    root = f"{state}/root"
    mount("--make-rprivate", "/")
    options = f"lowerdir={lower},upperdir={state}/upper,workdir={state}/work"
    mount("-t", "overlay", "overlay", "-o", options, root)
    os.chdir(root)
    settle(name)
    os.mkdir("/run/sshd")


def settle(name: str, *, fuse: int = 0o666) -> None:
    """Make the root directory we are in, a mount point of its own, a machine's of that name, and leave the one before.

    `fuse` is the mode of /dev/fuse. For a process in mount, pid, uts and ipc namespaces of its own.
    """
    mount("-t", "proc", "proc", "proc")
    mount("-t", "sysfs", "sysfs", "sys")
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "dev")
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "run")
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", "tmp")
    os.umask(0)
    for device, (major, minor) in DEVICES.items():
        os.mknod(f"dev/{device}", 0o020000 | (fuse if device == "fuse" else 0o666), os.makedev(major, minor))
    for link, target in LINKS.items():
        os.symlink(target, f"dev/{link}")
    os.umask(0o022)
    for directory in ("dev/pts", "dev/shm", "run/old"):
        os.mkdir(directory)
    mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666,mode=620,gid=5", "devpts", "dev/pts")
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", "dev/shm")
    subprocess.run(["hostname", name], check=True)
    subprocess.run(["pivot_root", ".", "run/old"], check=True)
    os.chroot(".")
    os.chdir("/")
    subprocess.run(["umount", "-l", "/run/old"], check=True)
    os.rmdir("/run/old")


def main() -> None:
    name, netns, lower, state = sys.argv[1:]
    with open(netns) as file:
        check(libc.setns(file.fileno(), CLONE_NEWNET), f"setns {netns}")
    check(libc.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID), "unshare")
    init = os.fork()
    if init:
        print(init, flush=True)
        return
    if not sys.stdin.readline():
        return  # the caller died before it wrote our pid down
    os.setsid()
    log = os.open(f"{state}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    build(name, lower, state)
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
    os.execve("/usr/bin/python3", ["init", "-I", "/usr/sbin/desk-init"], environment)


if __name__ == "__main__":
    main()
