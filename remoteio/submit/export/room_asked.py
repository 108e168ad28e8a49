"""Asks for room before a request puts something into an open file: how much, each kind of request says elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable

from remoteio.submit.export.inodes import Inodes
from remoteio.submit.export.nodes import Handle
from remoteio.submit.export.reply import Reply
from remoteio.submit.export.room import Room
from remoteio.wire import fuse_abi as abi

ALLOCATES = 0x01 | 0x10 | 0x40  # KEEP_SIZE, ZERO_RANGE, UNSHARE_RANGE: linux/falloc.h; the others move or free
MOST_COPIED = 1 << 30  # bytes that one request copies


def adding(
    room: Room, op: int, do: Callable[[abi.Request, Handle], Reply], inodes: Inodes
) -> Callable[[abi.Request, Handle], Reply]:
    """Return `do` of that operation with room asked for before it."""

    def span(r: abi.Request, handle: Handle) -> tuple[int, int]:
        """Where something is put, -1 at the end, and at most how many bytes."""
        if op == abi.WRITE:
            _, offset, size, _, _, flags, _ = abi.WRITE_IN.unpack_from(r.raw, abi.ARGS)
            return -1 if flags & os.O_APPEND else offset, size
        if op == abi.FALLOCATE:
            _, offset, length, mode, _ = abi.FALLOCATE_IN.unpack_from(r.raw, abi.ARGS)
            return offset, 0 if mode & ~ALLOCATES else length
        source, at, _, _, offset, length, _ = abi.COPY_IN.unpack_from(r.raw, abi.ARGS)
        there = os.fstat(inodes.handle(source).fd).st_size - at
        return offset, min(length, MOST_COPIED, max(there, 0))

    def asked(r: abi.Request, handle: Handle) -> Reply:
        offset, size = span(r, handle)
        if not size:
            return do(r, handle)
        ahead = room.enter(handle.node, handle.fd, offset, size)
        try:
            return do(r, handle)
        finally:
            room.leave(ahead)

    return asked
