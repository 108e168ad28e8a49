"""Execute side: messages to the kernel, over the descriptor of a FUSE connection. Shipped."""

from __future__ import annotations

import errno
import os


class ToKernel:
    """Writes to the mounted connection `fd`. Threads: any, as the kernel takes a message whole."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def _to_kernel(self, message: bytes | memoryview) -> bool:
        """False: the kernel no longer knows the request (or the inode of a notification)."""
        try:
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
