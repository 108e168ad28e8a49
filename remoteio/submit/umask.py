"""Reads this process's umask."""

from __future__ import annotations


def own_umask() -> int:
    """Read this process's umask from /proc (proc_pid_status(5)): umask(2) would change it for all threads meanwhile."""
    with open("/proc/self/status", "rb") as f:
        return next(int(line.split()[1], 8) for line in f if line.startswith(b"Umask:"))
