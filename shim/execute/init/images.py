"""The files of an image as init and criu have them: mounted for these two alone, served by the agent. Shipped.

The agent's end is shim/execute/agent/spool_server.py.
"""

from __future__ import annotations

import os
import socket

from remoteio.execute import mount
from shim.execute.init import messages


class Images:
    """Made before the root is entered: the job's /dev has no /dev/fuse.

    fd  the directory with the files, open, from ``mount`` until ``close``; else -1
    """

    def __init__(self) -> None:
        """Raises OSError."""
        self._device = os.open("/dev/fuse", os.O_PATH | os.O_CLOEXEC)
        self.fd = -1

    def mount(self, proc: int, agent: int) -> None:
        """Mount them, served by whoever gets the connection over the socket `agent`. Raises OSError.

        `proc`: /proc of this namespace.
        """
        self.close()  # of what was never begun
        # within: the kernel mounts only a connection opened in the mount's own user namespace
        fuse = os.open("self/fd/%d" % self._device, os.O_RDWR | os.O_CLOEXEC, dir_fd=proc)
        try:
            root = mount.mount_fuse_nowhere(fuse)
            with socket.socket(fileno=os.dup(agent)) as end:
                messages.send(end, messages.CONNECTION, fds=[fuse])
        finally:
            os.close(fuse)
        try:
            self.fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)  # once it is served
            os.fstat(self.fd)  # to the kernel it is uid 0's until it has asked, and nobody's where there is none
        finally:
            os.close(root)

    def close(self) -> None:
        """Let go of them; with the last who has them open the agent's serving ends."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
