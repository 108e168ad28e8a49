"""Runs a part of a test in a process of its own, whose failure is the test's."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable


def in_a_fork(body: Callable[[], None]) -> None:
    """Run body in a fork of this process. Raises AssertionError with its traceback where it raises or is killed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(read)
            body()
            status = 0
        except BaseException:
            os.write(write, traceback.format_exc().encode()[-60000:])
        finally:
            os._exit(status)
    os.close(write)
    with open(read, "rb") as f:
        said = f.read().decode()
    if os.waitpid(child, 0)[1] != 0:
        raise AssertionError(said or "the child was killed")
