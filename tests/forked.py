"""Runs a part of a test in a process of its own, whose failure is the test's."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable


def in_a_fork(body: Callable[[], None]) -> None:
    """Run body in a fork of this process. Raises AssertionError with its traceback where it raises or is killed."""
    said = os.memfd_create("traceback")  # no pipe: what the body started and left would hold that open
    child = os.fork()
    if child == 0:
        status = 1
        try:
            body()
            status = 0
        except BaseException:
            os.write(said, traceback.format_exc().encode()[-60000:])
        finally:
            os._exit(status)
    failed = os.waitpid(child, 0)[1] != 0
    with open(said, "rb") as f:
        f.seek(0)
        text = f.read().decode()
    if failed:
        raise AssertionError(text or "the child was killed")
