"""Execute side: messages to the kernel, over the descriptor of a FUSE connection. Shipped."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from remoteio.thread_pool import ThreadPool


class ToKernel:
    """Writes to the mounted connection `fd`; `fail` is told what ends a thread that does so aside.

    Threads: any, as the kernel takes a message whole.
    """

    def __init__(self, fd: int, fail: Callable[[BaseException], None]) -> None:
        self.fd = fd
        self._aside = ThreadPool(fail)

    def _beside(self, job: Callable[[], None]) -> None:
        # Not here: it may wait for what this very thread is to receive.
        if not self._aside.give(job):
            raise RuntimeError("not one thread can be had to write to the kernel: raise `ulimit -u` on this host")

    def _to_kernel(self, message: bytes | memoryview, *rest: memoryview) -> bool:
        """False: the kernel no longer knows the request (or the inode of a notification)."""
        try:
            if rest:
                os.writev(self.fd, [message, *rest])
            else:
                os.write(self.fd, message)
        except OSError as e:
            if e.errno == errno.ENOENT:
                return False
            if e.errno == errno.ENODEV:
                return True  # unmounted: nobody waits
            raise
        return True


def unmounted(error: OSError) -> bool:
    """Say of an error in reading whether there is nothing to read any more; False: just now. Raises any other."""
    if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
        return False  # ENOENT: the request was interrupted before it was read
    if error.errno == errno.ENODEV:
        return True
    raise error
