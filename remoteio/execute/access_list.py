"""Execute side: an access list that says no more than a mode does, set as a mode. Pure. Shipped.

`cp -a` and others give each file that they make the access list that its mode stands for: entries of the owner, the
group and all others, and no more (acl(5): a minimal one). Of a file that has no other list, that sets its mode.
Source: include/uapi/linux/posix_acl_xattr.h.
"""

from __future__ import annotations

import struct

from remoteio.wire import fuse_abi as abi

_NAME = b"system.posix_acl_access\0"
_AT = abi.ARGS + abi.SETXATTR_IN.size
_LIST = struct.Struct("<IHHIHHIHHI")  # version, and of each entry: tag, permissions, id
_VERSION, _USER_OBJ, _GROUP_OBJ, _OTHER, _NO_ID = 2, 1, 4, 0x20, 0xFFFFFFFF


def as_mode(raw: bytes | memoryview) -> bytes:
    """Return the SETATTR that does what that SETXATTR does to a file without an access list; nothing: none does."""
    value = bytes(raw[_AT:])
    _, flags = abi.SETXATTR_IN.unpack_from(raw, abi.ARGS)
    if flags or not value.startswith(_NAME) or len(value) != len(_NAME) + _LIST.size:
        return b""
    version, *entries = _LIST.unpack_from(value, len(_NAME))
    owner, group, others = entries[1::3]
    shape = [_USER_OBJ, owner, _NO_ID, _GROUP_OBJ, group, _NO_ID, _OTHER, others, _NO_ID]
    if version != _VERSION or entries != shape or max(owner, group, others) > 7:
        return b""
    _, _, unique, nodeid, uid, gid, pid, _, _ = abi.IN_HEADER.unpack_from(raw)
    mode = owner << 6 | group << 3 | others
    args = abi.SETATTR_IN.pack(abi.FATTR_MODE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, mode, 0, 0, 0, 0)
    return abi.IN_HEADER.pack(abi.ARGS + len(args), abi.SETATTR, unique, nodeid, uid, gid, pid, 0, 0) + args
