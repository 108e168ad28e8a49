"""Reads this process's umask."""

from __future__ import annotations


def own_umask() -> int:
    """This process's umask, as proc_pid_status(5) has it: umask(2) would change it for all threads meanwhile."""
    with open("/proc/self/status", "rb") as f:
        return next(int(line.split()[1], 8) for line in f if line.startswith(b"Umask:"))
