"""Pid 1 of a job's namespaces between two jobs: what the first has left is taken away, and the next comes. Shipped.

A job whose home says so (`stays`) leaves its root, with what the kernel knows of home's files, to the next of the same
user. All its processes have ended. What else could be seen of it are its mounts, the shared memory and queues of its
IPC namespace, files of /dev and /dev/shm, its terminal and its keys: memory and queues get a new namespace, /dev/shm is
mounted anew; where anything else is not as it was before the first job, no other comes here, and init ends as ever.
"""

from __future__ import annotations

import fcntl
import os
import socket
import termios

from remoteio.execute import mount
from shim.execute.init import messages, namespaces, out_of_reach
from shim.wire.job_spec import JobSpec

_SHM = "/dev/shm"


class Rests:
    """Knows what was there before the first job began. Made, and called, in the job's root."""

    def __init__(self) -> None:
        self._mounts, self._devices = _mounts(), _devices()
        self._names = os.uname()[1]

    def clean(self, terminal: int) -> bool:
        """Take away what the job that has ended has left; `terminal`: its own, or -1. False: no other is to come."""
        try:
            if terminal >= 0:
                fcntl.ioctl(terminal, termios.TIOCNOTTY)
                os.close(terminal)
            if _mounts() != self._mounts or _devices() != self._devices or os.uname()[1] != self._names:
                return False
            mount.unmount(_SHM)
            mount.mount("shm", _SHM, "tmpfs", mount.MS_NOSUID | mount.MS_NODEV, "mode=1777")
            namespaces.unshare(namespaces.CLONE_NEWIPC)
        except OSError:
            return False
        out_of_reach.leave_keys()
        self._mounts = _mounts()
        return True


def next_job(init: socket.socket) -> tuple[JobSpec, dict[int, int]]:
    """Wait for the next job; its description, and its end of each pipe by number. Does not return without one."""
    while True:
        said, rest, fds = messages.receive(init, messages.AGENT, messages.INIT)
        if said is None:
            os._exit(0)  # the agent has ended, and this is what is left of it
        if said is messages.NEXT:
            break
        # a signal that came too late for the last
    for fd in fds:
        os.set_inheritable(fd, False)
    with open(fds[0], "rb") as told:
        spec = JobSpec.unpack(told.read())
    return spec, dict(zip(map(int, rest.split()), fds[1:]))


def _mounts() -> list[str]:
    with open("/proc/self/mountinfo", errors="surrogateescape") as f:
        return f.read().splitlines()


def _devices() -> list[tuple[str, int, int]]:
    found = []
    for name in sorted(os.listdir("/dev")):
        st = os.lstat("/dev/" + name)
        found.append((name, 0 if name == "shm" else st.st_ino, st.st_mode))
    return found
