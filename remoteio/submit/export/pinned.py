"""Show criu the kept bytes of files that a job has mapped or open though their names are others' by now.

Criu alone sees them: by the name that the file had while it restores the job, and by the one that the job's kernel has
for it from then on, which ends with " (deleted)", when it saves the job again. The job itself finds under the name what
is there now, as it would have if it had run on.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from typing import NamedTuple

from remoteio.submit.export.descriptors import Descriptor
from remoteio.submit.export.nodes import Node, path
from remoteio.wire import fuse_abi

REMOVED = b" (deleted)"  # how the kernel ends a name that is gone


class Pin(NamedTuple):
    """A file as an image has it.

    path      absolute, without links
    device    its numbers then
    inode
    size      in bytes
    mtime_ns  of its last change
    name      of what has its bytes now
    """

    path: bytes
    device: int
    inode: int
    size: int
    mtime_ns: int
    name: str


Shown = tuple[Pin, int]  # and a descriptor of its bytes


class Pinned:
    """Holds the pins that are shown to one generation.

    Threads: any. All that is asked for is written in one step by `show`, before criu asks for anything.
    """

    def __init__(self) -> None:
        self._by_path: dict[bytes, Shown] = {}
        self._by_key: dict[tuple[int, int], Shown] = {}
        self._restores = self._saves = False
        self._told: set[tuple[int, bytes]] = set()  # nodes of directories, and names, that the job's kernel has

    def show(self, pins: Iterable[tuple[Pin, int]]) -> None:
        """Show these files to criu, which is about to restore the job. The descriptors are closed by `close`."""
        found: list[Shown] = [(pin, Descriptor(fd)) for pin, fd in pins]
        self._by_key = {(st.st_dev, st.st_ino): shown for shown in found for st in [os.fstat(shown[1])]}
        self._by_path = {shown[0].path: shown for shown in found}
        self._restores = bool(found)

    def goes_on(self) -> bytes:
        """Show the job what is there now: it goes on. Returns what its kernel is to forget, as FUSE messages."""
        self._restores = False
        told, self._told = self._told, set()
        return b"".join(fuse_abi.inval_entry(parent, name) for parent, name in sorted(told))

    def saves(self, begins: bool) -> None:
        """Take note that criu is about to save the job, or has asked for the last of its files."""
        self._saves = begins

    def find(self, parent: Node, name: bytes) -> Shown | None:
        """Find what criu means by that name in that directory; None: nothing that is kept."""
        if not self._by_path:
            return None
        if name.endswith(REMOVED):
            means = path(parent, name.removesuffix(REMOVED))
            return self._by_path.get(means) if self._saves or self._restores else None
        found = self._by_path.get(path(parent, name)) if self._restores else None
        if found is not None:
            self._told.add((parent.id, name))
        return found

    def names(self, directory: Node) -> Collection[bytes]:
        """Return the names in that directory of which nothing is to be told before they are looked up."""
        if not self._restores:
            return ()
        return {name for name in map(os.path.basename, self._by_path) if path(directory, name) in self._by_path}

    def of(self, node: Node) -> Shown | None:
        """Return what the node stands for; None: nothing that is kept."""
        return self._by_key.get((node.dev, node.ino))

    def close(self) -> None:
        """Let go of all: nobody asks for anything any more."""
        self._by_path, self._by_key = {}, {}
