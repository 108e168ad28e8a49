"""Decide which open files may be changed by a job that does not wait until it is done here (remoteio/wire/behind.py).

What is answered before it is done must be known to succeed. So there has to be room, more by far than can be under way,
no limit but the disk's, and a filesystem of this machine; else the job waits for each change, as for any other.
"""

from __future__ import annotations

import os
import resource

from remoteio import syscalls
from remoteio.submit.export.filesystems import LOCAL
from remoteio.wire import behind

LEAST_FREE = 2 << 30  # bytes: the last 1 GiB may be kept free (room.KEPT_FREE)
_LOCAL = frozenset(LOCAL.values())
_WAITS = os.O_DIRECT | os.O_SYNC | os.O_DSYNC  # to be done on the disk, or whole


def granted(fd: int, flags: int, st: os.stat_result, made: bool, plain: bool) -> int:
    """Return the words (``behind.WORDS``) for the reply to an OPEN or CREATE of a file for writing, with these flags.

    `made`: the job has just made it. `plain`: its ids are shown as they are. Raises OSError.
    """
    if flags & _WAITS or syscalls.fstatfs(fd)[0] not in _LOCAL:
        return 0
    if resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
        return 0
    disk = os.fstatvfs(fd)
    if disk.f_bavail * disk.f_frsize < LEAST_FREE:
        return 0
    if not made or st.st_uid != os.geteuid():
        return behind.MAY_WRITE
    return behind.MAY_WRITE | behind.MAY_SET | (behind.MAY_OWN if plain else 0)
