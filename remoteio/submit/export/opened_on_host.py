"""Submit side: files that the host has opened by itself, under a lease on their contents.

Such a file has a number of the host's, which it tells (OPENED) before anything else that names it. Requests may be
handled at once, and the one behind it be the first: so what is told is noted as it comes (`expect`), and the file is
opened by whoever needs it first.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading

from remoteio.submit.export.descriptors import Descriptor
from remoteio.submit.export.executing import EXECUTE, open_file, reopen
from remoteio.submit.export.inodes import Inodes
from remoteio.submit.export.nodes import Handle, Node, path
from remoteio.submit.sandbox.threads import Call
from remoteio.wire import fuse_abi as abi
from remoteio.wire.coherence import OPENED_HERE
from remoteio.wire.makes import NUMBERS

_OP, _OPENED = slice(4, 8), abi.OPENED.to_bytes(4, sys.byteorder)  # in a request
MOST_EXPECTED = 2 * OPENED_HERE  # those that are being closed come beside them


class OpenedOnHost:
    """Opens late what the host has opened, in the table of `inodes`, where it is found from then on.

    `outside` calls what the threads that serve may not do themselves.

    Threads: any. `_opening` is held while a file is opened, and so perhaps while a disk is waited for. Who takes a
    number out of `_expected` opens it, or has closed it; who opens it does so under the lock of `inodes`.
    """

    def __init__(self, inodes: Inodes, outside: Call) -> None:
        self._inodes, self._outside = inodes, outside
        self._expected: dict[int, tuple[int, int]] = {}  # number -> node, flags
        self._opening = threading.Lock()
        inodes.handles.late = self._open

    def noted(self, requests: list[bytes | memoryview]) -> list[bytes | memoryview]:
        """Expect what these tell of, before anything that comes after them is done; return them. Raises FuseError."""
        for each in requests:
            if each[_OP] == _OPENED:
                self.expect(each)
        return requests

    def expect(self, raw: bytes | bytearray | memoryview) -> list[int]:
        """Note the files that an OPENED tells of, and list their numbers; what is known stays. Raises FuseError."""
        told, handles, found = memoryview(raw)[abi.ARGS :], self._inodes.handles, []
        if len(told) % abi.OPENED_ONE.size:
            raise abi.FuseError("what was opened on the host is cut short")
        for fh, nodeid, flags, _ in abi.OPENED_ONE.iter_unpack(told):
            if fh < abi.OWN_FILES:
                raise abi.FuseError("a file was opened on the host by a number that is not its own")
            if fh not in handles and fh not in self._expected:
                if len(self._expected) >= MOST_EXPECTED:
                    raise abi.FuseError("more files were opened on the host than may be")
                self._expected[fh] = nodeid, flags
            found.append(fh)
        return found

    def open(self, numbers: list[int]) -> None:
        """Open those of these numbers that are expected; of what fails, who asks something of it is told."""
        for fh in numbers:
            try:
                self._inodes.handle(fh)
            except OSError:
                continue

    def open_all(self) -> None:
        """Open what is expected: it outlives the name by which it is found, which the job takes away now."""
        if self._expected:
            self.open(list(self._expected))

    def open_again(self, fh: int, nodeid: int, flags: int) -> None:
        """Open what the host has told a process before this one that it has opened. Raises OSError."""
        self._expected[fh] = nodeid, flags
        self._inodes.handle(fh)

    def reopen(self, node: Node, flags: int, number: int) -> int:
        """Open a new descriptor of `node`. Of a change (`number`) the host has told that it is done: so it is that very
        file, also where another has its name by now; and it is written to. Raises OSError."""
        if number >= NUMBERS or (number and not flags & os.O_ACCMODE):
            raise OSError(errno.EINVAL, "that may not be opened before it is done here")
        try:
            return reopen(self._inodes.descriptors, node, flags, self._outside)
        except OSError as e:
            if not number or e.errno != errno.ESTALE:
                raise
        return self._inodes.descriptors.reopen_kept(node, flags)

    def lost(self) -> list[bytes]:
        """Open what is expected, and list the names of what cannot be opened: others have taken them away."""
        self.open_all()
        nodes = [self._inodes.nodes.get(nodeid) for nodeid, _ in self._expected.copy().values()]
        return [path(node.parent, node.name) for node in nodes if node is not None and node.parent is not None]

    def closed(self, fh: int) -> bool:
        """Expect it no more. False: it was not expected, or is open by now."""
        return self._expected.pop(fh, None) is not None

    def _open(self, fh: int) -> Handle:
        """Open for reading what has that number. Raises OSError; EBADF: it is not expected."""
        with self._opening:
            handle = self._inodes.handles.get(fh)
            if handle is not None:
                return handle
            nodeid, flags = self._expected.get(fh, (0, 0))
            if not nodeid:
                raise OSError(errno.EBADF, "no such handle")
            node = self._inodes.get(nodeid)
            if node.kind != stat.S_IFREG:
                raise OSError(errno.EINVAL, "only regular files are opened here")
            self._inodes.may_open()
            descriptors, outside = self._inodes.descriptors, self._outside
            flags &= os.O_NOATIME | EXECUTE
            try:
                fd = Descriptor(open_file(lambda f: reopen(descriptors, node, f, outside), flags))
            except OSError as e:
                if e.errno != errno.ESTALE:
                    raise
                fd = Descriptor(open_file(lambda f: descriptors.reopen_kept(node, f & ~EXECUTE), flags))
            with self._inodes.lock:
                if not self.closed(fh):
                    raise OSError(errno.EBADF, "it was closed meanwhile")
                # what the kernel has pages of (node.seen) is what it was told at the last OPEN
                handle = self._inodes.handles[fh] = node.handles[fh] = Handle(fd, node, 0, fh)
            return handle
