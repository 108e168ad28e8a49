"""Submit side: make the table of nodes and handles anew that a process before this one had, which was killed.

What a node stands for is found by the names that it had (``node_log``), and is it only if device and inode number are
the same; what is open is opened again. Where that cannot be, or one of the job's processes works in a directory that
is not found, the job is not taken up. All else that is not found the kernel looks up again by itself when it is told
ESTALE, as ever when programs here have moved something.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable

from remoteio.errors import ProtocolError
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.executing import EXECUTE
from remoteio.submit.export.node_log import Noted, Told
from remoteio.submit.export.nodes import FORMAT
from remoteio.submit.export.once import Opened, Unfit
from remoteio.wire import fuse_abi as abi

_KEPT = os.O_ACCMODE | os.O_APPEND | os.O_SYNC | os.O_DSYNC | os.O_NOATIME | EXECUTE  # of the flags of an OPEN
_REMOVED = b" (deleted)"  # how a kernel ends a name that is gone: proc_pid_fd(5)
_DEEPEST = 4096  # names of a path: linux/limits.h
_EACH = 1 << 40  # numbers are for one process: no other gives one of these, whatever is not known of those given out


def take_up(
    export: Export, told: Told, opened: Iterable[Opened], places: Iterable[bytes], highest: int
) -> None:  # fmt: skip
    """Make all anew in an export that nobody has asked anything yet. Raises Unfit, ProtocolError.

    `places`: where the job's processes work; `highest`: the number of its last handle.
    """
    if export.room.counts:
        raise Unfit("how much it may add to the files here is counted, and the count is lost")
    export.inodes.allowed.confinement.made.update(told.made)
    first = (max(told.highest, highest) // _EACH + 1) * _EACH
    export.inodes.next_number = first
    if export.inodes.log is not None:
        export.inodes.log.highest = first
    _Nodes(export, told, frozenset(places)).find()
    for each in opened:
        _open(export, each)
    for number, noted in told.nodes.items():
        node = export.inodes.nodes.get(number)
        if noted.written and node is not None:
            export.written_before(node)


def _open(export: Export, each: Opened) -> None:
    node = export.inodes.nodes.get(each.node)
    if node is None:
        raise Unfit("a file that it has open was removed or replaced")
    here = each.number >= abi.OWN_FILES  # opened by the host
    kinds = (stat.S_IFREG,) if here else (stat.S_IFREG, stat.S_IFDIR)
    if node.kind not in kinds or each.number in export.inodes.handles or abi.OWN <= each.number < abi.OWN_FILES:
        raise ProtocolError("it has open what nobody opens here, or has one thing open twice")
    flags = os.O_RDONLY | os.O_DIRECTORY if node.kind == stat.S_IFDIR else each.flags & _KEPT
    try:
        if here:
            export.late.open_again(each.number, node.id, flags)
            return
        export.inodes.may_open()
        if flags & os.O_ACCMODE:
            export.inodes.allowed.may_change(node)
        export.opened_again(each.number, node, flags)
    except OSError as error:
        where = os.fsdecode(node.name)
        raise Unfit(f"a file that it has open, {where}, cannot be opened again: {error.strerror}") from error


class _Nodes:
    """Puts back the nodes that `told` has."""

    def __init__(self, export: Export, told: Told, places: Collection[bytes]) -> None:
        self._export, self._told, self._places = export, told, places
        # A number of a file that was removed may be another's: then the later node is the one that is there.
        self._latest = {noted.key: number for number, noted in sorted(told.nodes.items()) if not noted.gone}
        self._lost: set[int] = set()

    def find(self) -> None:
        """Put back each, after the directory that it is in."""
        known = self._export.inodes.nodes
        for number in self._told.nodes:
            chain: dict[int, Noted] = {}
            while number not in known and number not in self._lost and number not in chain:
                noted = self._told.nodes.get(number)
                if noted is None:
                    self._lost.add(number)
                    break
                chain[number] = noted
                number = noted.names[0][0]
            for each, noted in reversed(chain.items()):
                self._put(each, noted)

    def _put(self, number: int, noted: Noted) -> None:
        if self._latest.get(noted.key) == number and self._found(number, noted):
            return
        if noted.kind == stat.S_IFDIR:
            path = self._path(number)
            if any(place == path or place.startswith((path + b"/", path + _REMOVED)) for place in self._places):
                raise Unfit(f"the directory {os.fsdecode(path)}, in which it works, was removed, renamed or replaced")
        self._lost.add(number)

    def _path(self, number: int) -> bytes:
        """The path that the job's kernel knows it by."""
        names: list[bytes] = []
        while number in self._told.nodes and len(names) < _DEEPEST:
            number, name = self._told.nodes[number].names[0]
            names.append(name)
        return b"/" + b"/".join(reversed(names))

    def _found(self, number: int, noted: Noted) -> bool:
        inodes = self._export.inodes
        names = [(inodes.nodes[above], name) for above, name in noted.names if above in inodes.nodes]
        for parent, name in names:
            try:
                st = os.stat(name, dir_fd=inodes.descriptors.directory(parent), follow_symlinks=False)
                if (st.st_dev, st.st_ino) == noted.key and st.st_mode & FORMAT == noted.kind:
                    if not self._export.put_back(number, parent, name, st):
                        return False
                    inodes.nodes[number].links = tuple(each for each in names if each != (parent, name))
                    return True
            except OSError:
                continue  # nothing has that name, or it is not to be seen any more
        return False
