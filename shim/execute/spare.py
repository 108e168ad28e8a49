"""The entry of an agent that is started before there is a job for it. Shipped.

All that an agent is made of is read before it waits, so what is left for the job's start is the job's own. It serves
one job, as any agent does. It ends with its stream, and by itself where home is not heard of (shim/wire/kept.py).
"""

from __future__ import annotations

import gc
import os
import select

from shim.execute import main as agent
from shim.execute.agent import cache
from shim.wire import kept


def main(read_fd: int, write_fd: int) -> int:
    """Wait for a job, and serve it. Returns this process's exit status."""
    _learn_to_encrypt()
    gc.freeze()
    asked = select.poll()
    asked.register(read_fd, select.POLLIN)
    try:
        while asked.poll(kept.ALONE * 1000):
            said = os.read(read_fd, 1)
            if said not in (kept.ALIVE, kept.BEGIN):
                return 0  # home has no job for it, or is another version
            os.write(write_fd, kept.YES)
            if said == kept.BEGIN:
                return agent.main(read_fd, write_fd)
    except OSError:
        return 0  # the stream was cut
    return 0


def _learn_to_encrypt() -> None:
    """Have libcrypto loaded, and made ready, where something is kept that a job may read: that takes some 10 ms."""
    if os.path.isdir(cache.kept("contents")):
        encrypts = cache.encrypting()
        if encrypts is not None:
            encrypts(bytes(32))(memoryview(bytearray(16)), 0)
