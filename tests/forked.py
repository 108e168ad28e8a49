"""Runs a part of a test in a process of its own, whose failure is the test's."""

from __future__ import annotations

import faulthandler
import os
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil


def in_a_fork(body: Callable[[], None]) -> None:
    """Run body in a fork of this process. Raises AssertionError with its traceback where it raises or is killed.

    One that takes longer than the test may is ended, and the traceback is of where it stood, with where the processes
    below it did.
    """
    said = os.memfd_create("traceback")  # no pipe: what the body started and left would hold that open
    child = os.fork()
    if child == 0:
        status = 1
        try:
            faulthandler.enable(said)
            body()
            status = 0
        except BaseException:
            os.write(said, traceback.format_exc().encode()[-60000:])
        finally:
            os._exit(status)
    late: BaseException | None = None
    below = ""
    try:
        _, status = os.waitpid(child, 0)
    except BaseException as e:
        late = e
        below = _below(child)
        os.kill(child, signal.SIGABRT)
        _, status = os.waitpid(child, 0)
    with open(said, "rb") as f:
        f.seek(0)
        text = f.read().decode()
    if status or late:
        raise AssertionError((text or "the child was killed") + below) from late


def _below(pid: int) -> str:
    """Tell where each process below that one is in the kernel, and what it has open."""
    told = []
    for each in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error, OSError):
            opened = [os.readlink(fd) for fd in Path(f"/proc/{each.pid}/fd").iterdir()]
            stack = Path(f"/proc/{each.pid}/stack").read_text()
            told.append(f"\n{each.pid} {each.status()} {' '.join(each.cmdline())[:200]}\n{opened}\n{stack}")
    return "".join(told)
