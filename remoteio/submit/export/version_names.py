"""Submit side: names for versions of files, by which a host may keep their contents from one run to the next.

A name says nothing to who has not the key, which never leaves this machine: no host can make one, for a file that it
was not shown. What has the same name has the same contents. That is so where the kernel gives a file another change
time with each change of what it holds, as the filesystems named here do on their own disks, those through a mapping
(mmap(2)) included. There a page that is written to is given back to the disk within half a minute, and of that time
what a mapping changes may bear no new time: so a file that somebody has mapped for writing has no name. Of one's own
files ``leases.contents`` tells that nobody has; those of others must have been left alone for long.
"""

from __future__ import annotations

import os
import struct
import time

from remoteio import syscalls
from remoteio.submit.export.filesystems import LOCAL
from remoteio.wire.known import VERSION

try:
    from _blake2 import blake2b  # hashlib would import OpenSSL, which takes 5 ms
except ImportError:
    from hashlib import blake2b

TIMED = frozenset(LOCAL[name] for name in ("ext4", "xfs", "btrfs"))  # and ext2, ext3, whose magic is ext4's
_RECENT = 20_000_000  # ns: more than a tick, by which time stamps are rounded down
_LONG = 3600 * 1_000_000_000  # ns, of a file of somebody else's
_STATE = struct.Struct("=QQQqq")


class VersionNames:
    """Names versions with a key; without one none. Threads: any."""

    def __init__(self, key: bytes = b"") -> None:
        self._key = key

    def of(self, fd: int, st: os.stat_result) -> bytes:
        """Name the version of a file that is open as `fd`, and whose contents are leased; b"": it is not to be kept."""
        age = time.time_ns() - max(st.st_mtime_ns, st.st_ctime_ns)
        if not self._key or age < (_RECENT if st.st_uid == os.geteuid() else _LONG):
            return b""
        if syscalls.fstatfs(fd)[0] not in TIMED:
            return b""
        state = _STATE.pack(st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns)
        return blake2b(state, digest_size=VERSION, key=self._key).digest()


NO_NAMES = VersionNames()
