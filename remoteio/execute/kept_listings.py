"""Execute side: listings that the kernel keeps, and reads again by itself. Pure. Shipped.

A directory that is opened by its lease (``ahead``) is read by the kernel once, and kept (FOPEN_CACHE_DIR); who opens it
again reads that, without a request, as long as it is the very listing that was leased then (FOPEN_KEEP_CACHE). Names
that come or go are a break, after which it is another, or none; an OPENDIR that is not answered so has the kernel drop
what it has. The kernel itself drops it when the job changes the directory, or when its times are others.

Of who reads so nothing is heard: he is taken for one who reads it all. All in it are names alone to him.
"""

from __future__ import annotations

from remoteio.execute.leases import Leases
from remoteio.wire import fuse_abi as abi
from remoteio.wire.listed import Entries


def keeps(leases: Leases, nodeid: int) -> tuple[int, bytes, Entries]:
    """Return the flags for the reply to an OPENDIR of a directory that may be listed here (``Leases.lists``), and if
    the kernel has kept it, what that reads: entries, and what is in them."""
    directory = leases._directories[nodeid]
    if not directory.kept:
        directory.kept = True
        return abi.FOPEN_CACHE_DIR, b"", []
    return abi.FOPEN_CACHE_DIR | abi.FOPEN_KEEP_CACHE, directory.entries, directory.found
