"""Submit side: what is in a directory, in the kernel's formats."""

from __future__ import annotations

import os
from collections.abc import Callable

from remoteio.submit.export.confine import HIDDEN
from remoteio.submit.export.inodes import Inodes
from remoteio.submit.export.instead import Instead
from remoteio.submit.export.nodes import Handle, Node
from remoteio.wire import fuse_abi as abi
from remoteio.wire.coherence import AHEAD, LISTED_ENTRIES

_UNKNOWN = bytes(
    abi.ENTRY.size + abi.ATTR.size
)  # nodeid 0: the name alone, the kernel asks for the rest when it needs it
_PLUS = len(_UNKNOWN) + abi.DIRENT.size
Found = tuple[bytes, int, int]  # name, inode number as the job sees it, d_type


class Listings:
    """Lists the directories of `inodes`, with what is shown `instead` of files.

    `entry` makes struct fuse_entry_out with attributes, and counts a lookup.
    """

    def __init__(self, inodes: Inodes, instead: Instead, entry: Callable[[Node, bytes, os.stat_result], bytes]) -> None:
        self._inodes, self._instead, self._entry = inodes, instead, entry

    def _found(self, node: Node, fd: int) -> list[Found]:
        number, here, above = self._inodes.number, os.fstat(fd), node.parent or self._inodes.top
        found = [(b".", number(here.st_dev, here.st_ino), 4), (b"..", number(above.dev, above.ino), 4)]
        beneath, others = node.rights.beneath, node.rights.others
        if others.level == HIDDEN and not beneath:
            return found
        dev = here.st_dev
        hidden = {ino for device, ino in self._inodes.confinement.hidden if device == dev}
        with os.scandir(fd) as listing:
            shown = listing if not hidden else (e for e in listing if e.inode() not in hidden)
            found += [(os.fsencode(e.name), number(dev, e.inode()), _dtype(e)) for e in shown]
        for name in self._instead.names(node):
            st = os.fstat(self._instead.files[name])
            found = [entry for entry in found if entry[0] != name] + [(name, number(st.st_dev, st.st_ino), 8)]
        if beneath:
            found = [entry for entry in found if beneath.get(entry[0], others).level != HIDDEN]
        return found

    def _of(self, handle: Handle, offset: int) -> list[Found]:
        # Read whole at the start and at a rewind: offsets then stay what they were, whatever changes meanwhile.
        if handle.entries is None or offset == 0:
            handle.entries = self._found(handle.node, handle.fd)
        return handle.entries

    def plain(self, handle: Handle, offset: int, size: int) -> bytes:
        """Answer READDIR: struct fuse_dirent each, from `offset` on, at most `size` bytes."""
        out = bytearray()
        for k, (name, ino, kind) in enumerate(self._of(handle, offset)[offset:], offset + 1):
            need = abi.DIRENT.size + len(name) + 7 & ~7
            if len(out) + need > size:
                break
            out += (abi.DIRENT.pack(ino, k, len(name), kind) + name).ljust(need, b"\0")
        return bytes(out)

    def plus(self, handle: Handle, offset: int, size: int) -> tuple[bytes, bool]:
        """Answer READDIRPLUS: struct fuse_direntplus each; and whether the directory ends with it."""
        return self._plus(handle.node, handle.fd, self._of(handle, offset), offset, size)

    def _plus(self, node: Node, fd: int, found: list[Found], offset: int, size: int) -> tuple[bytes, bool]:
        out: list[bytes] = []
        used, instead = 0, self._instead.names(node)
        for k in range(offset, len(found)):
            name, ino, kind = found[k]
            need = _PLUS + len(name) + 7 & ~7
            if used + need > size:
                return b"".join(out), False
            entry = _UNKNOWN
            if k >= 2 and name not in instead:
                try:
                    st = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    entry, ino = self._entry(node, name, st), self._inodes.number(st.st_dev, st.st_ino)
                except FileNotFoundError:
                    continue
                except OSError:
                    pass  # of a directory that may be read only, or of a bad disk: its name is there, and whoever asks
                    # for more is told so by the lookup, as on a local disk
            out.append((entry + abi.DIRENT.pack(ino, k + 1, len(name), kind) + name).ljust(need, b"\0"))
            used += need
        return b"".join(out), True

    def whole(self, node: Node) -> bytes:
        """List all of the directory as READDIRPLUS does, if it is small and may be read; else nothing."""
        try:
            fd = self._inodes.descriptors.reopen(node, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return b""  # nobody asked for it: whatever forbids it, the lookup that it goes with stands
        try:
            found = self._found(node, fd)
        except OSError:
            return b""  # as above; opendir(3) and readdir(3) say it
        else:
            room = sum(_PLUS + len(name) + 7 & ~7 for name, _, _ in found)
            return self._plus(node, fd, found, 0, room)[0] if len(found) <= LISTED_ENTRIES and room <= AHEAD else b""
        finally:
            os.close(fd)


def _dtype(e: os.DirEntry[str]) -> int:
    if e.is_symlink():
        return 10
    if e.is_dir(follow_symlinks=False):
        return 4
    return 8 if e.is_file(follow_symlinks=False) else 0
