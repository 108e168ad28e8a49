"""The little of inotify(7) that watching terminals, devices and leased files needs. Shipped: bare python3 >= 3.9."""

from __future__ import annotations

import ctypes
import os
import struct

from remoteio.syscalls import libc

IN_ACCESS = 0x001
IN_MODIFY = 0x002
IN_CLOSE_WRITE = 0x008
IN_OPEN = 0x020
IN_ATTRIB = 0x004
IN_MOVED_FROM = 0x040
IN_MOVED_TO = 0x080
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_DONT_FOLLOW = 0x2000000
IN_MASK_ADD = 0x20000000
IN_IGNORED = 0x8000
IN_Q_OVERFLOW = 0x4000

_EVENT = struct.Struct("iIII")


class Inotify:
    """An inotify instance; OSError if the user has no instance left (fs.inotify.max_user_instances)."""

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        self._fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise _error("inotify")

    def fileno(self) -> int:
        return self._fd

    def add(self, path: str | bytes, mask: int) -> int:
        """Watches a path; the watch's number. OSError, EACCES if the path is not readable."""
        watch = int(libc.inotify_add_watch(self._fd, os.fsencode(path), mask))
        if watch < 0:
            raise _error(os.fsdecode(path))
        return watch

    def remove(self, watch: int) -> None:
        """Watch that no more; nothing if it has gone."""
        libc.inotify_rm_watch(self._fd, watch)

    def read(self) -> list[tuple[int, int, str]]:
        """Return the events there are, as (watch, mask, name in the directory); [] if none."""
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return []
        events = []
        offset = 0
        while offset < len(data):
            watch, mask, _cookie, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size
            events.append((watch, mask, os.fsdecode(data[offset : offset + length].rstrip(b"\0"))))
            offset += length
        return events

    def close(self) -> None:
        os.close(self._fd)


def _error(path: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)
