"""Structures of the kernel that more than one module packs. Pure; shipped."""

from __future__ import annotations

import struct

# struct statx, statx(2), from stx_mask on; struct fuse_statx of linux/fuse.h is laid out alike.
STATX = struct.Struct("=IIQIIIHxxQQQQqI4xqI4xqI4xqI4xIIII112x")
# struct flock of 64-bit Linux, fcntl(2): l_type l_whence l_start l_len l_pid.
FLOCK = struct.Struct("=hh4xqqi4x")
