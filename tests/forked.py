"""Runs a part of a test in a process of its own, whose failure is the test's."""

from __future__ import annotations

import faulthandler
import os
import signal
import traceback
from collections.abc import Callable

import psutil

from tests.standing import stand


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
