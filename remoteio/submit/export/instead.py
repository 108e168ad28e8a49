"""What the job finds in place of files of /etc that are right on this machine only: its contents alone, never a name.

The name stays this machine's: to remove, replace or move it is done to the file that is here, whatever may be done to
that. What is shown under it is in memory, for the length of a session, and can be read only.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

from remoteio.submit.export.nodes import Node
from remoteio.submit.export.pinned import Pinned

_DIRECTORY = b"etc"  # of the root


class Instead:
    """Holds `contents`, by the names in /etc that are to lead to them, each in a file of its own (memfd_create(2)).

    pinned  what criu finds in place of other files
    """

    def __init__(self, contents: Mapping[bytes, bytes], pinned: Pinned | None = None) -> None:
        self.pinned = pinned or Pinned()
        self.files: dict[bytes, int] = {}  # descriptors, by name
        self.device = -1  # st_dev of them all, and of nothing that has a name
        for name, content in contents.items():
            fd = os.memfd_create(os.fsdecode(name))
            self.files[name] = fd
            with open(fd, "wb", closefd=False) as file:
                file.write(content)
            os.fchmod(fd, 0o644)
            self.device = os.fstat(fd).st_dev

    def names(self, directory: Node) -> Collection[bytes]:
        """Return the names in that directory which lead to what is held here."""
        above = directory.parent
        return self.files if directory.name == _DIRECTORY and above is not None and above.parent is None else ()

    def close(self) -> None:
        """Let go of the contents; nodes that the kernel knows still have descriptors of their own."""
        for fd in self.files.values():
            os.close(fd)
        self.files.clear()
        self.pinned.close()
