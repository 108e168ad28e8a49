"""Where processes stand, for what a test says as it fails: what was waited for too long is seldom seen again."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from glob import iglob  # what vanishes while it looks is no error to it
from pathlib import Path

import psutil


def stand(processes: Iterable[psutil.Process]) -> str:
    """Tell of each process what it has open, and where each of its threads is in the kernel."""
    told = []
    for each in processes:
        with suppress(psutil.Error, OSError):
            opened = [os.readlink(fd) for fd in Path(f"/proc/{each.pid}/fd").iterdir()]
            told.append(f"\n{each.pid} {each.status()} {' '.join(each.cmdline())[:200]}\n{opened}\n")
            for thread in Path(f"/proc/{each.pid}/task").iterdir():
                with suppress(OSError):
                    told.append(f"{thread.name}: {(thread / 'stack').read_text()}")
    return "".join(told)


def holders(lock: Path) -> list[int]:
    """The processes that have that file open."""
    found = []
    for at in iglob("/proc/[0-9]*/fd/*"):
        with suppress(OSError):  # that process has ended, or closed that one
            if os.readlink(at) == str(lock):
                found.append(int(at.split("/")[2]))
    return found


def inside(directory: Path) -> list[psutil.Process]:
    """The processes whose directory that is, or is below it, also a job's on a host: its name is the same there."""
    found = []
    for each in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            where = os.readlink(f"/proc/{each.pid}/cwd")
            if where == str(directory) or where.startswith(f"{directory}/"):
                found.append(each)
    return found
