"""Lets criu make System V IPC again in a user namespace that has no uid 0. Shipped.

At a restore criu writes the limits of the namespace that it makes for it, and fails where it cannot. The kernel lets
uid 0 of the user namespace do that alone (ipc_permissions in ipc/ipc_sysctl.c, ipc/mq_sysctl.c): without such an id
nobody, so the job has changed none of them, and those of the new namespace are the kernel's own as well. So what criu
writes goes nowhere. It is the directories that are covered, as the kernel has the files once for each IPC namespace,
and criu's is still to come; its first try, on a /proc of its own, fails as ever, and it goes on with this one
(sysctl_op in criu/sysctl.c). The numbers of the next objects (`sem_next_id` and the like) it may set there.
"""

from __future__ import annotations

import os

from remoteio.execute import mount

# ipc_sysctl_req in criu/ipc_ns.c
_LIMITS = {
    "/proc/sys/kernel": (
        "sem", "msgmax", "msgmnb", "auto_msgmni", "msgmni", "shmmax", "shmall", "shmmni", "shm_rmid_forced",
        "msg_next_id", "sem_next_id", "shm_next_id",
    ),
    "/proc/sys/fs": ("mqueue/queues_max", "mqueue/msg_max", "mqueue/msgsize_max", "mqueue/msg_default",
                     "mqueue/msgsize_default"),
}  # fmt: skip
_REAL = ".real"
_VALUES = "ipcns-var-"  # criu's file with them


def cover(images: int) -> None:
    """Put files of our own in place of the limits, if criu's directory `images` has values for them. Raises OSError."""
    if any(name.startswith(_VALUES) for name in os.listdir(images)):
        for path, limits in _LIMITS.items():
            _cover(path, limits)


def _cover(path: str, limits: tuple[str, ...]) -> None:
    real = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount.mount("limits", path, "tmpfs", mount.MS_NOSUID | mount.MS_NODEV, "mode=755,size=256k")
        os.mkdir(path + "/" + _REAL)
        mount.bind("/proc/self/fd/%d" % real, path + "/" + _REAL)
    finally:
        os.close(real)
    for limit in limits:
        if os.path.exists("%s/%s/%s" % (path, _REAL, limit)):
            os.makedirs(os.path.dirname(path + "/" + limit), exist_ok=True)
            os.close(os.open(path + "/" + limit, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    for name in os.listdir(path + "/" + _REAL):
        if not os.path.lexists(path + "/" + name):
            os.symlink(_REAL + "/" + name, path + "/" + name)


def uncover() -> None:
    """Take it away again, if it is there. Raises OSError."""
    for path in _LIMITS:
        if os.path.isdir(path + "/" + _REAL):
            mount.unmount(path)
