"""Submit side: what is leased with the reply to an OPEN, so that the host opens the file by itself from then on."""

from __future__ import annotations

import os

from remoteio.submit.export.base import ExportBase
from remoteio.submit.export.executing import EXECUTE
from remoteio.submit.export.leases import leasable
from remoteio.submit.export.nodes import Node
from remoteio.submit.export.version_names import NO_NAMES
from remoteio.wire import leases
from remoteio.wire.coherence import AHEAD


class LeasedOpens(ExportBase):
    """Leases contents.

    asks      the host, for what it is sent unasked: what it has of large files is leased from the first second on
    credits   how often it has given CREDIT for what it is sent unasked
    versions  by which it keeps it
    """

    asks = False
    credits = 0
    versions = NO_NAMES

    def _arm(self, node: Node, fd: int, flags: int) -> bool:
        """Arm what is open as `fd`, by these flags, before it is looked at. False: do not lease it."""
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            return False
        if self.leases.attributes(node, fd) >= 0:
            return True
        if not self.asks or os.fstat(fd).st_size <= AHEAD or not self.leases.wanted():
            return False
        return self.leases.watches(node, fd)

    def _lease(self, node: Node, fd: int, flags: int, st: os.stat_result) -> tuple[int, bytes]:
        """Return what of a file that was armed, and then was as `st` says, is leased; and the name of its version."""
        if flags & EXECUTE and not _readable(fd):
            return leases.ATTR, b""
        if not leasable(self.leases, fd, st) or not self.inodes.descriptors.keeps(node, fd):
            return leases.ATTR, b""
        version = self.versions.of(fd, st) if st.st_size > AHEAD else b""
        return leases.ATTR | leases.CONTENTS | (leases.KEPT if version else 0), version


def _readable(fd: int) -> bool:
    """May this user read what is open as `fd`, and not execute it alone?"""
    return os.access("/proc/self/fd/%d" % fd, os.R_OK, effective_ids=True)
