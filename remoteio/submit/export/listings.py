"""Submit side: what is in a directory, in the kernel's formats."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import NamedTuple

from remoteio import syscalls
from remoteio.submit.export import positions
from remoteio.submit.export.confine import HIDDEN
from remoteio.submit.export.inodes import Inodes
from remoteio.submit.export.instead import Instead
from remoteio.submit.export.least_used import LeastUsed
from remoteio.submit.export.nodes import Found, Handle, Node
from remoteio.submit.export.numbers import KEPT
from remoteio.wire import fuse_abi as abi
from remoteio.wire.coherence import AHEAD, LISTED_ENTRIES
from remoteio.wire.listed import DIRECTORY


class Held(NamedTuple):
    """What of a directory's entries is told alone, else they are names: those that hold until a break.

    holds  says so of an entry (struct fuse_entry_out with attributes) of what has that name in the directory that is
           open so, made of that
    files  of all; else of the directories alone
    """

    holds: Callable[[bytes, int, bytes, os.stat_result], bool]
    files: bool


_UNKNOWN = bytes(
    abi.ENTRY.size + abi.ATTR.size
)  # nodeid 0: the name alone, the kernel asks for the rest when it needs it
_PLUS = len(_UNKNOWN) + abi.DIRENT.size
_OURS = (b".", b"..")
_OWN = positions.OWN

_SMALL = 1 << 16  # bytes of a directory whose names are told ahead: reading more takes the disk long
MOST_ENTRIES = 1 << 20  # of directories that are open, kept in memory


class Listings:
    """Lists the directories of `inodes`, with what is shown `instead` of files.

    `entry` makes struct fuse_entry_out with attributes, and counts a lookup.

    told   hears of which directory which entries have been told, and what is wanted there (``learned_walks``)
    since  when the job began, if another has ended before it
    """

    def __init__(self, inodes: Inodes, instead: Instead, entry: Callable[[Node, bytes, os.stat_result], bytes]) -> None:
        self._inodes, self._instead, self._entry = inodes, instead, entry
        self.told: Callable[[Node, bytes, int], None] = _nobody_learns
        self.since = 0.0
        self._all: LeastUsed[Handle] = LeastUsed(MOST_ENTRIES, Handle.unlist)

    def _found(self, node: Node, fd: int, start: int = 0) -> list[Found]:
        """List the directory, from a position that the job was given on."""
        rights = node.rights
        found = self._ours(node, fd)[start:] if start < positions.OWN else []
        if rights.closed:
            return found
        found += self._entries(node, fd, start)
        if rights.hides:
            found = [entry for entry in found if entry[0] in _OURS or rights.child(entry[0]).level != HIDDEN]
        return found

    def _ours(self, node: Node, fd: int) -> list[Found]:
        """What comes first: its own name, the one above, and what is shown instead of files."""
        number, here, above = self._inodes.numbers.shown, os.fstat(fd), node.parent or self._inodes.top
        found = [(b".", number(here.st_dev, here.st_ino), 4), (b"..", number(above.dev, above.ino), 4)]
        for name in self._instead.names(node):
            st = os.fstat(self._instead.files[name])
            found.append((name, number(st.st_dev, st.st_ino), 8))
        last = len(found) - 1
        return [(*entry, positions.OWN if k == last else k + 1) for k, entry in enumerate(found)]

    def _entries(self, node: Node, fd: int, start: int) -> list[Found]:
        """What is in the directory itself, from that position on."""
        numbers, dev, instead = self._inodes.numbers, node.dev, self._instead.names(node)
        known = self._inodes.allowed.confinement.hidden
        hidden = {ino for device, ino in known if device == dev} if known else known
        ext4 = start >= positions.OWN and _is_ext4(fd)
        first = positions.meant(start, ext4)
        os.lseek(fd, first, os.SEEK_SET)
        read = syscalls.getdents64(fd)
        raw = [position for _, position, _, _ in read]
        given = positions.given(raw, first, ext4 or (max(raw, default=0) >= 1 << 31 and _is_ext4(fd)))
        kept, told = KEPT if dev == numbers.device else 0, numbers.told
        return [
            (name, ino if ino < kept and ino not in told else numbers.shown(dev, ino), kind, position)
            for (ino, _, kind, name), position in zip(read, given)
            if name not in _OURS and ino not in hidden and name not in instead
        ]

    def _of(self, handle: Handle, offset: int) -> tuple[list[Found], int]:
        """The entries of `handle`, and which of them is the first at `offset`."""
        # Read whole at the start and at a rewind: what comes after an offset then stays what it was, whatever changes
        # meanwhile. An offset that was not given with what was read is of another time, before the job moved.
        entries = handle.entries  # it may be given up for another's at any moment
        first = handle.after(offset) if offset else None
        if entries is None or first is None:
            found = self._placed(handle.node, handle.fd, offset)
            handle.entries, handle.where = found, None
            self._all.used(handle, len(found))
            return found, 0
        return entries, first

    def _placed(self, node: Node, fd: int, offset: int) -> list[Found]:
        """List the directory from there on, each entry with a position of its own."""
        found = self._found(node, fd, offset)
        if len({position for _, _, _, position in found}) != len(found):  # a filesystem without positions
            found = [(*entry[:3], k) for k, entry in enumerate(found, offset + 1)]
        return found

    def plain(self, handle: Handle, offset: int, size: int) -> bytes:
        """Answer READDIR: struct fuse_dirent each, from `offset` on, at most `size` bytes."""
        out = bytearray()
        found, first = self._of(handle, offset)
        for name, ino, kind, position in found[first:]:
            need = abi.DIRENT.size + len(name) + 7 & ~7
            if len(out) + need > size:
                break
            out += (abi.DIRENT.pack(ino, position, len(name), kind) + name).ljust(need, b"\0")
        return bytes(out)

    def plus(self, handle: Handle, offset: int, size: int) -> tuple[bytes, bool]:
        """Answer READDIRPLUS: struct fuse_direntplus each; and whether the directory ends with it."""
        return self._plus(handle.node, handle.fd, *self._of(handle, offset), size)

    def _plus(
        self, node: Node, fd: int, found: list[Found], first: int, size: int, held: Held | None = None
    ) -> tuple[bytes, bool]:
        """`held`: of no other entry more than its name."""
        out: list[bytes] = []
        used, kept, stat, entry_of, pack = 0, self._inodes.numbers.device, os.stat, self._entry, abi.DIRENT.pack
        told = self._inodes.numbers.told
        pinned = self._instead.pinned.names(node)  # which are looked up one by one
        for name, ino, kind, position in found[first:] if first else found:
            need = _PLUS + len(name) + 7 & ~7
            if used + need > size:
                return b"".join(out), False
            entry = _UNKNOWN
            if position > _OWN and name not in pinned and (held is None or held.files or kind == DIRECTORY):
                try:
                    st = stat(name, dir_fd=fd, follow_symlinks=False)
                    entry, ino = entry_of(node, name, st), st.st_ino
                    if st.st_dev != kept or ino >= KEPT or ino in told:
                        ino = self._inodes.numbers.shown(st.st_dev, ino)
                    if held is not None and not held.holds(entry, fd, name, st):
                        self._inodes.forget(abi.ENTRY.unpack_from(entry)[0], 1)
                        entry = _UNKNOWN
                except FileNotFoundError:
                    continue
                except OSError:
                    pass  # of a directory that may be read only, or of a bad disk: its name is there, and whoever asks
                    # for more is told so by the lookup, as on a local disk
            out.append((entry + pack(ino, position, len(name), kind) + name).ljust(need, b"\0"))
            used += need
        return b"".join(out), True

    def names(self, node: Node, begin: Callable[[int], bool]) -> list[bytes]:
        """List the names in the directory, after `begin` was told its descriptor; none, if that says so, or if it is
        large or may not be read."""
        with self._inodes.allowed.refusals.guessing():
            try:
                fd = self._inodes.descriptors.reopen(node, os.O_RDONLY | os.O_DIRECTORY)
            except OSError:
                return []  # nobody asked for it, as below
            try:
                small = os.fstat(fd).st_size <= _SMALL
                return [name for name, *_ in self._found(node, fd)] if small and begin(fd) else []
            except OSError:
                return []
            finally:
                os.close(fd)

    def whole(self, node: Node, held: Held | None = None) -> bytes:
        """List all of the directory as READDIRPLUS does, if it is small and may be read; else nothing.

        `held`: of no other entry more than its name."""
        return self._small(node, self._found, held=held)

    def ahead(self, node: Node, most: int, begin: Callable[[int], bool], held: Held | None = None) -> bytes:
        """List all of the directory as to who opens it and reads it from the start, or nothing if it is no less than
        `most` bytes: see ``whole``. Before it is read, `begin` is told its descriptor, and says whether to go on.

        `held`: of no other entry more than its name."""

        def listed(node: Node, fd: int) -> list[Found]:
            if not begin(fd):
                raise OSError(errno.EAGAIN, "not now")
            return self._placed(node, fd, 0)

        with self._inodes.allowed.refusals.guessing():
            return self._small(node, listed, most, LISTED_ENTRIES if held is None else most, held)

    def _small(
        self, node: Node, listed: Callable[[Node, int], list[Found]], most: int = AHEAD,
        few: int = LISTED_ENTRIES, held: Held | None = None,
    ) -> bytes:  # fmt: skip
        try:
            fd = self._inodes.descriptors.reopen(node, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return b""  # nobody asked for it: whatever forbids it, the lookup that it goes with stands
        try:
            found = listed(node, fd)
        except OSError:
            return b""  # as above; opendir(3) and readdir(3) say it
        else:
            room = sum(_PLUS + len(name) + 7 & ~7 for name, *_ in found)
            return self._plus(node, fd, found, 0, room, held)[0] if len(found) <= few and room <= most else b""
        finally:
            os.close(fd)


def _nobody_learns(node: Node, entries: bytes, wanted: int) -> None:
    """Take no note of what was told."""


def _is_ext4(fd: int) -> bool:
    return syscalls.fstatfs(fd)[0] == positions.EXT4
