"""The reply to a FETCH: a small file, opened and read before the job opens it. Pure. Shipped.

::

    struct fuse_open_out | struct fuse_attr | u64 nodeid | u64 length of the name | the name | all contents of the file

The handle is open at home, as one that the job had asked for. The attributes say how long the contents are. They are
leased, and that the name in the directory of that node leads to the file (``wire.leases``); node 0: neither.
"""

from __future__ import annotations

import struct

from remoteio.errors import ProtocolError
from remoteio.wire import fuse_abi as abi

_NAME = struct.Struct("=QQ")
_ATTR = abi.OPEN_OUT.size
_HEAD = _ATTR + abi.ATTR.size
_NAMED = _HEAD + _NAME.size
_NAME_MAX = 255  # bytes of a name: linux/limits.h


def pack(handle: int, attr: bytes, parent: int, name: bytes, contents: bytes) -> bytes:
    """Make the reply's body."""
    return abi.OPEN_OUT.pack(handle, 0, 0) + attr + _NAME.pack(parent, len(name)) + name + contents


def parse(body: bytes) -> tuple[int, bytes, int, bytes, bytes]:
    """Read (handle, struct fuse_attr, node of the directory, name, contents). Raises ProtocolError."""
    if len(body) >= _NAMED:
        parent, length = _NAME.unpack_from(body, _HEAD)
        at = _NAMED + length
        if length <= _NAME_MAX and abi.ATTR.unpack_from(body, _ATTR)[1] == len(body) - at:
            return abi.OPEN_OUT.unpack_from(body)[0], body[_ATTR:_HEAD], parent, body[_NAMED:at], body[at:]
    raise ProtocolError("a file that was fetched ahead is not as long as it says (%d bytes)" % len(body))
