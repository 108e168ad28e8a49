"""Submit side: files as a job may see them, looked at from here to guess what it will use (``first_names.Guesses``).

What a guess is made of shows in what is guessed. So nothing is read here that the job may not read, whatever an
execute host has it guess of: each name on the way to a file is resolved beneath the directory before, never through
what has taken its place, and has the rights that a lookup of the job's would give it. The kernel knows nothing of these
looks, and what home has told it of its files stays as it was told.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator

from remoteio.submit.export.confine import HIDDEN
from remoteio.submit.export.descriptors import Descriptor
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.first_names import Ranges, Use
from remoteio.submit.export.nodes import Node

Found = Generator[Use, None, bytes]
"""What is looked up on the way to a file, and its path without links; none: it is not there."""

WHOLE: Ranges = [(0, 1 << 40)]
LISTED: Ranges = []
"""Of a directory: it is listed."""
_LINKS = 40  # path_resolution(7)
_MOST_DIRECTORIES = 256  # that are open at a time
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Seen:
    """Looks at files by their paths; nothing is there where the job would be told so.

    Threads: one at a time.
    """

    def __init__(self, export: Export) -> None:
        self._export = export
        self._directories: dict[bytes, Node | None] = {}  # by paths without links, None: none that may be seen

    def walk(self, path: bytes, ranges: Ranges | None = None) -> Found:
        """Look a path up; `ranges`: what is read of the file that is there."""
        if b"\0" in path:
            return b""
        at, todo, links = b"", path.split(b"/")[::-1], _LINKS
        while todo:
            part = todo.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                at = at.rpartition(b"/")[0]
                continue
            name = at + b"/" + part
            mode = self.mode(name)
            target = self._target(at, part) if stat.S_ISLNK(mode) and links else b""
            if target:
                yield name, None
                links -= 1
                at = b"" if target.startswith(b"/") else at
                todo += target.split(b"/")[::-1]
            elif not mode:
                yield name, None  # that nothing is there is looked up as well
                return b""
            else:
                at = name
        if at:
            yield at, ranges
        return at

    def names(self, *paths: bytes) -> Iterator[Use]:
        """Look up each of these."""
        for path in paths:
            yield from self.walk(path)

    def mode(self, path: bytes) -> int:
        """Return the st_mode of what has that path, which leads through no links; 0: nothing that may be seen."""
        above, _, name = path.rpartition(b"/")
        if path in self._directories:
            return stat.S_IFDIR if self._directories[path] else 0
        try:
            found = self._found(above, name)
            if found is None:
                return 0
            if stat.S_ISDIR(found.st_mode):
                return stat.S_IFDIR if self._directory(path) else 0
            return found.st_mode
        except OSError:
            return 0

    def is_file(self, path: bytes) -> bool:
        """Say whether a regular file has that path, which leads through no links."""
        return stat.S_ISREG(self.mode(path))

    def is_directory(self, path: bytes) -> bool:
        """Say whether a directory has that path, which leads through no links."""
        return stat.S_ISDIR(self.mode(path))

    def listed(self, path: bytes) -> list[bytes]:
        """List the names in a directory, whose path leads through no links; nothing, where that may not be."""
        try:
            node = self._directory(path)
            if node is None or node.rights.closed:
                return []
            fd = Descriptor(os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=node.fd))
            found = [os.fsencode(name) for name in os.listdir(fd)]
        except OSError:
            return []
        return [name for name in found if node.rights.child(name).level != HIDDEN]

    def open(self, path: bytes) -> int:
        """Open a regular file to be read, whose path leads through no links; -1: the job may read none."""
        above, _, name = path.rpartition(b"/")
        try:
            st, node = self._found(above, name), self._directory(above)
            if st is None or node is None or not stat.S_ISREG(st.st_mode) or name in self._export.instead.names(node):
                return -1
            fd = Descriptor(os.open(name, _READ, dir_fd=node.fd))
            now = os.fstat(fd)
        except OSError:
            return -1
        return fd if (now.st_dev, now.st_ino) == (st.st_dev, st.st_ino) else -1

    def content(self, path: bytes, most: int) -> bytes:
        """Read the beginning of a file, whose path leads through no links; nothing, where that may not be."""
        fd = self.open(path)
        try:
            return os.pread(fd, most, 0) if fd >= 0 else b""
        except OSError:
            return b""

    def _target(self, above: bytes, name: bytes) -> bytes:
        node = self._directory(above)
        try:
            return os.fsencode(os.readlink(name, dir_fd=node.fd)) if node is not None else b""
        except OSError:
            return b""

    def _found(self, above: bytes, name: bytes) -> os.stat_result | None:
        """What has that name in a directory, if it may be seen. Raises OSError."""
        node = self._directory(above)
        if node is None or b"\0" in name:
            return None
        st = os.stat(name, dir_fd=node.fd, follow_symlinks=False)
        return st if self._export.inodes.allowed.to_look(node, name, st).level != HIDDEN else None

    def _directory(self, path: bytes) -> Node | None:
        """Open a directory by its path, which leads through no links; None: there is none that may be seen."""
        if not path:
            return self._export.inodes.top
        if path not in self._directories:
            if len(self._directories) >= _MOST_DIRECTORIES:
                self._directories.clear()
            above, _, name = path.rpartition(b"/")
            try:
                self._directories[path] = self._beneath(self._directory(above), name)
            except OSError:
                self._directories[path] = None
        return self._directories[path]

    def _beneath(self, above: Node | None, name: bytes) -> Node | None:
        if above is None or b"\0" in name:
            return None
        fd = Descriptor(os.open(name, _DIRECTORY, dir_fd=above.fd))
        st = os.fstat(fd)
        rights = self._export.inodes.allowed.to_look(above, name, st)
        if rights.level == HIDDEN:
            return None
        node = Node(0, st, above, name, rights)
        node.fd = fd
        return node
