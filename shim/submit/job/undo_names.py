"""Gives the names of a job's files back, and those away that it made; see undo_files."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from remoteio import syscalls
from remoteio.submit.undo import records
from remoteio.submit.undo.births import NOTHING, Which, which
from remoteio.submit.undo.records import Attribute, Gone, Made, Moved
from shim.submit.job import undo_plan
from shim.submit.job.undo_contents import Contents, copy, give
from shim.submit.job.undo_plan import MIXED, Plan

_NOREPLACE, _EXCHANGE = 1, 2  # renameat2(2)


class Names:
    """Undoes what was done to names; `contents` knows where files are, `directory` is the journal's."""

    def __init__(
        self, contents: Contents, directory: bytes, plan: Plan, image: int, mark: str,
        say: Callable[[str], None], note: Callable[[], None],
    ) -> None:  # fmt: skip
        """`note` has what `contents` knows on the disk."""
        self._contents, self._directory, self._plan, self._image = contents, directory, plan, image
        self._mark, self._say, self._note = mark, say, note

    def attribute(self, record: Attribute, number: int) -> None:
        """Give the file the extended attribute that it had."""
        path = self._contents.seen(number, record.path)
        if not self._contents.is_at(number, path):
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
        row, now = self._plan.row(segment, record.slot), which(record.path)
        if not now.ino:
            return
        path = os.fsdecode(record.path)
        if row is None:
            self._say(f"it is not known who has made {path} since image {self._image}: it stays")
        elif not now.is_it(Which(row.key[1], row.born)) and not now.is_it(self._contents.which(number)):
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
        path, own = record.path, self._contents.which(number)
        now = which(path)
        if now.is_it(own):
            return
        if now.ino:
            theirs = (
                f"{os.fsdecode(path)}, which the job has removed since image {self._image}, has been made by others:"
            )
            if record.how in (records.DIRECTORY, records.NODE):
                self._say(f"{theirs} theirs stays")
                return
            path = self._contents.beside(path, own)
            self._say(f"{theirs} theirs stays, and what it was is {os.fsdecode(path)}")
            if which(path).ino:
                return
        try:
            if record.how in (records.LINK, records.NAME):
                os.link(self._source(segment, record, number), path, follow_symlinks=False)
            else:
                self._make_anew(segment, record, path, number)
        except FileNotFoundError:
            self._say(f"{os.fsdecode(path)}, which the job has removed, cannot be put back: its directory is gone")

    def _source(self, segment: int, record: Gone, number: int) -> bytes:
        if record.how == records.NAME:
            return self._contents.where(number) or record.what
        return undo_plan.kept_path(self._directory, segment, record.what)

    def _make_anew(self, segment: int, record: Gone, path: bytes, number: int) -> None:
        """Make it under another name: it gets its own once it is noted which it is, or it would look like others'."""
        part = b"%s/.%s.part" % (os.path.dirname(path), self._mark.encode())
        _remove(part)  # of a try before
        mode = record.known.mode
        if record.how == records.COPY:
            copy(self._source(segment, record, number), part, record.known)
        elif record.how == records.SYMLINK:
            os.symlink(record.what, part)
        elif record.how == records.DIRECTORY:
            os.mkdir(part, 0o700)
        elif stat.S_ISFIFO(mode) or (os.geteuid() == 0 and not stat.S_ISSOCK(mode)):
            os.mknod(part, mode, record.rdev)
        else:
            return
        give(part, record.known)
        self._contents.renewed[number] = which(part)
        self._note()
        self._rename(part, path, _NOREPLACE)

    def move_back(self, record: Moved, number: int, partner: int) -> None:
        """Rename it back."""
        now, old, own = which(record.new), which(record.old), self._contents.which(number)
        other = self._contents.which(partner) if partner >= 0 else NOTHING
        if old.is_it(other) and (not now.ino or now.is_it(own)):
            # One may have been removed since.
            self._rename(record.old, record.new, _EXCHANGE if now.ino else _NOREPLACE)
        elif not old.is_it(own) and now.is_it(
            own
        ):  # else it is back; or it has been removed: what has another record says so
            target = record.old
            if old.ino:
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


def _remove(path: bytes) -> None:
    """Remove what may have that name."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        os.rmdir(path)
