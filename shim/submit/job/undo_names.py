"""Gives the names of a job's files back, and those away that it made; see undo_files."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from remoteio import syscalls
from remoteio.submit.undo import records
from remoteio.submit.undo.records import Attribute, Gone, Made, Moved
from shim.submit.job import undo_plan
from shim.submit.job.undo_contents import Contents, copy, give, ino
from shim.submit.job.undo_plan import MIXED, Plan

_NOREPLACE, _EXCHANGE = 1, 2  # renameat2(2)


class Names:
    """Undoes what was done to names; `contents` knows where files are, `directory` is the journal's."""

    def __init__(
        self, contents: Contents, directory: bytes, plan: Plan, image: int, say: Callable[[str], None]
    ) -> None:
        self._contents, self._directory, self._plan, self._image, self._say = contents, directory, plan, image, say

    def attribute(self, record: Attribute, number: int) -> None:
        """Give the file the extended attribute that it had."""
        path = self._contents.seen(number, record.path)
        if ino(path) != self._contents.ino(number):
            return
        try:
            if record.there:
                os.setxattr(path, record.name, record.raw, follow_symlinks=False)
            else:
                os.removexattr(path, record.name, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EPERM, errno.EOPNOTSUPP):
                raise

    def unmake(self, segment: int, record: Made, number: int) -> None:
        """Take away the name that was made."""
        row, now = self._plan.row(segment, record.slot), ino(record.path)
        if not now:
            return
        path = os.fsdecode(record.path)
        if row is None:
            self._say(f"it is not known who has made {path} since image {self._image}: it stays")
        elif now not in (row.key[1], self._contents.ino(number)):
            self._say(f"{path}, which the job has made since image {self._image}, is another's by now, and stays")
        elif stat.S_ISDIR(os.lstat(record.path).st_mode):
            try:
                os.rmdir(record.path)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
                self._say(
                    f"{path}, which the job has made since image {self._image}, has others' files in it, so it stays"
                )
        elif record.fresh and self._plan.stories[number].verdict == MIXED and os.lstat(record.path).st_nlink == 1:
            beside = self._contents.beside(record.path)
            os.rename(record.path, beside)
            self._say(
                f"{path}, which the job has made since image {self._image} and others have changed, is "
                f"{os.fsdecode(beside)} now"
            )
        else:
            os.unlink(record.path)

    def restore(self, segment: int, record: Gone, number: int) -> None:
        """Give the name back that was taken away."""
        path, known = record.path, record.known
        now = ino(path)
        if now and now == self._contents.ino(number):
            return
        if now:
            theirs = (
                f"{os.fsdecode(path)}, which the job has removed since image {self._image}, has been made by others:"
            )
            if record.how in (records.DIRECTORY, records.NODE):
                self._say(f"{theirs} theirs stays")
                return
            path = self._contents.beside(path)
            self._say(f"{theirs} theirs stays, and what it was is {os.fsdecode(path)}")
        try:
            self._have_back(segment, record, path, number)
        except FileNotFoundError:
            self._say(f"{os.fsdecode(path)}, which the job has removed, cannot be put back: its directory is gone")
            return
        if record.how not in (records.LINK, records.NAME) and ino(path):
            if record.how != records.COPY or not now:
                self._contents.renewed[number] = ino(path)
            if record.how != records.COPY:
                give(path, known)

    def _have_back(self, segment: int, record: Gone, path: bytes, number: int) -> None:
        kept = undo_plan.kept_path(self._directory, segment, record.what)
        mode = record.known.mode
        if record.how == records.LINK:
            os.link(kept, path)
        elif record.how == records.NAME:
            os.link(self._contents.where(number) or record.what, path)
        elif record.how == records.COPY:
            copy(kept, path, record.known)
        elif record.how == records.SYMLINK:
            os.symlink(record.what, path)
        elif record.how == records.DIRECTORY:
            os.mkdir(path, 0o700)
        elif stat.S_ISFIFO(mode) or (os.geteuid() == 0 and not stat.S_ISSOCK(mode)):
            os.mknod(path, mode, record.rdev)

    def move_back(self, record: Moved, number: int, partner: int) -> None:
        """Rename it back."""
        now, old, own = ino(record.new), ino(record.old), self._contents.ino(number)
        other = self._contents.ino(partner) if partner >= 0 else 0
        if other and old == other and now in (0, own):
            self._rename(record.old, record.new, _EXCHANGE if now else _NOREPLACE)  # one may have been removed since
        elif old != own and now == own:  # else it is back; or it has been removed: what has another record says so
            target = record.old
            if old:
                target = self._contents.beside(record.old)
                self._say(
                    f"{os.fsdecode(record.old)}, which the job has renamed since image {self._image}, has been made by "
                    f"others: theirs stays, and what it was is {os.fsdecode(target)}"
                )
            self._rename(record.new, target, _NOREPLACE)

    def _rename(self, now: bytes, target: bytes, flags: int) -> None:
        at = os.open(b"/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syscalls.renameat2(at, now[1:], at, target[1:], flags)
        except FileNotFoundError:
            self._say(f"{os.fsdecode(now)}, which the job has renamed, stays: the directory it was in is gone")
        finally:
            os.close(at)
