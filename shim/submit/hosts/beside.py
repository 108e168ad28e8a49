"""Whether another process of this user sees this machine as this one does, and may do as much: proc(5)."""

from __future__ import annotations

import os

_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
_SAME = (b"Uid:", b"Gid:", b"Groups:", b"CapPrm:", b"CapEff:", b"CapBnd:", b"CapAmb:", b"NoNewPrivs:", b"Seccomp:")


def alike(pid: int) -> bool:
    """Tell whether it has the same namespaces, root, ids, rights, security label and control group as this process.

    Who is in a sandbox is to get nothing through one that is not. What cannot be told is taken for no.
    """
    try:
        return pid > 0 and _around("/proc/%d" % pid) == _around("/proc/self")
    except OSError:
        return False


def _around(proc: str) -> list[object]:
    root = os.stat(proc + "/root")
    with open(proc + "/status", "rb") as f:
        status = [line for line in f if line.startswith(_SAME)]
    with open(proc + "/cgroup", "rb") as f:
        found: list[object] = [root.st_dev, root.st_ino, status, f.read()]
    found += [os.readlink(f"{proc}/ns/{name}") for name in _NAMESPACES]
    try:
        with open(proc + "/attr/current", "rb") as f:
            found.append(f.read())
    except OSError:
        found.append(b"")  # no security module labels processes here
    return found
