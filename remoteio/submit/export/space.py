"""Submit side: operations on open files that take room for their contents, or copy them: no byte is sent for it."""

from __future__ import annotations

import errno
import os

from remoteio import syscalls
from remoteio.submit.export.base import ExportBase
from remoteio.submit.export.changes import NEVER, state
from remoteio.submit.export.nodes import Handle
from remoteio.submit.export.note_changes import UNLOCKED
from remoteio.submit.export.reply import DONE, Reply
from remoteio.submit.export.room_asked import ALLOCATES, MOST_COPIED
from remoteio.wire import fuse_abi as abi

_KEEP_SIZE, _SHIFTS = 1, 0x08 | 0x20  # fallocate(2): COLLAPSE_RANGE and INSERT_RANGE change all that is behind


class Space(ExportBase):
    """Allocates, punches, copies."""

    def do_fallocate(self, r: abi.Request, handle: Handle) -> Reply:
        _, offset, length, mode, _ = abi.FALLOCATE_IN.unpack_from(r.raw, abi.ARGS)
        fd, changes = handle.fd, handle.node.changes
        with changes.lock if changes is not None else UNLOCKED:
            was = os.fstat(fd)
            before, adds = state(was), mode & ~_KEEP_SIZE == 0
            if changes is not None and changes.watch is not None:
                end = was.st_size if mode & _SHIFTS else offset + length
                grows = 0 if mode & _KEEP_SIZE else offset + length
                changes.watch.before(fd, was, was.st_size if adds else offset, end, grows)
            syscalls.fallocate(fd, mode, offset, length)
            if changes is not None:
                size, st = before[0] if mode & _KEEP_SIZE else max(before[0], offset + length), os.fstat(fd)
                changes.changed(before, state(st), NEVER if adds else offset, size)
                if changes.watch is not None:
                    changes.watch.after(st)
            if handle.node.grown is not None:
                self.room.changed(handle.node.grown, os.fstat(fd), length if mode & ~ALLOCATES == 0 else 0)
        handle.node.altered()
        return DONE

    def _copy(self, r: abi.Request, target: Handle) -> int:
        fh_in, off_in, _, _, off_out, length, flags = abi.COPY_IN.unpack_from(r.raw, abi.ARGS)
        if flags:
            raise OSError(errno.EINVAL, "copy_file_range has no flags")
        source = self.inodes.handle(fh_in)
        target.node.altered()
        fd, changes = target.fd, target.node.changes
        with changes.lock if changes is not None else UNLOCKED:
            was, most = os.fstat(fd), min(length, MOST_COPIED)
            if changes is not None and changes.watch is not None:
                changes.watch.before(fd, was, off_out, off_out + most)
            done = os.copy_file_range(source.fd, fd, most, off_in, off_out)
            if changes is not None:
                st = os.fstat(fd)
                changes.wrote(state(was), state(st), off_out, done)
                if changes.watch is not None:
                    changes.watch.after(st)
            if target.node.grown is not None:
                self.room.wrote(target.node.grown, os.fstat(fd), done)
        return done

    def do_copy_file_range(self, r: abi.Request, target: Handle) -> Reply:
        return Reply(abi.WRITE_OUT.pack(self._copy(r, target), 0))

    def do_copy_file_range_64(self, r: abi.Request, target: Handle) -> Reply:
        return Reply(abi.COPY64_OUT.pack(self._copy(r, target)))
