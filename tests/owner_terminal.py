"""A terminal of this host at which its owner types."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

OWNER = '["keyboard", {"start_idle": "0s", "linger": "2s", "battery": true}]'


@contextmanager
def terminal() -> Iterator[int]:
    """The master of a terminal of this host at which somebody's program reads."""
    master, slave = os.openpty()
    reader = subprocess.Popen(["cat"], stdin=slave, stdout=subprocess.DEVNULL)
    os.close(slave)
    try:
        yield master
    finally:
        reader.kill()
        reader.wait()
        os.close(master)
