"""Runs a part of a test in a process of its own, a fork or a new one, whose failure is the test's."""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.standing import stand

ROOT = Path(__file__).parents[1]


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
        below = stand(psutil.Process(child).children(recursive=True))
        os.kill(child, signal.SIGABRT)
        _, status = os.waitpid(child, 0)
    with open(said, "rb") as f:
        f.seek(0)
        text = f.read().decode()
    if status or late:
        raise AssertionError((text or "the child was killed") + below) from late


_CALL = """
import importlib, pathlib, sys
getattr(importlib.import_module(sys.argv[1]), sys.argv[2])(pathlib.Path(sys.argv[3]))
"""


def in_a_new_process(body: Callable[[Path], None], directory: Path) -> None:
    """Call a function of a module with a directory in a new python3. Raises AssertionError with what it says of errors.

    A fork has what the tests before have left of themselves in this process, which need be no thread.
    """
    argv = [sys.executable, "-c", _CALL, body.__module__, body.__qualname__, str(directory)]
    done = subprocess.run(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
