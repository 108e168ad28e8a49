"""Puts the contents of a job's files back, and what else is known of them; see undo_files."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from remoteio import syscalls
from remoteio.submit.undo import records
from remoteio.submit.undo.births import NOTHING, Which, which
from remoteio.submit.undo.journal import Journal, synced
from remoteio.submit.undo.records import Data, First, Hole, Known
from remoteio.submit.undo.segment import copied, copied_whole
from shim.submit.job.kept_copies import keep
from shim.submit.job.undo_overlap import own
from shim.submit.job.undo_plan import AWAY, CLEAN, MIXED, Plan, Story, source_path

_AT_ONCE = 64  # files open
_PUNCH = 0x01 | 0x02  # fallocate(2): KEEP_SIZE, PUNCH_HOLE
_ZEROS = 1 << 20
_WRITE = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Contents:
    """Writes to the files of `plan`.

    at        where each is, at the step that is being undone: by its story's number
    also      by what other names, then
    renewed   which those are now that had to be made anew
    busy      those that others have open for writing, and have added to: they stay
    """

    def __init__(
        self, journal: Journal, plan: Plan, image: int, mark: str, kept: Path, say: Callable[[str], None]
    ) -> None:
        self._journal, self._plan, self._image, self._mark, self._kept = journal, plan, image, mark, kept
        self._say = say
        self.at = {number: story.path for number, story in enumerate(plan.stories)}
        self.also = {number: story.names for number, story in enumerate(plan.stories)}
        self.renewed: dict[int, Which] = {}
        self.busy: set[int] = set()
        self._fds: dict[int, int] = {}
        self._directories: set[bytes] = set()

    def named(self, *paths: bytes) -> None:
        """Take note that these names may have been given, or taken away."""
        self._directories.update(map(os.path.dirname, paths))

    def sync(self) -> None:
        """Have all that was done on the disk."""
        for fd in self._fds.values():
            os.fsync(fd)
        self.close()
        directories, self._directories = self._directories, set()
        for directory in directories:
            try:
                synced(os.fsdecode(directory))
            except (FileNotFoundError, NotADirectoryError, PermissionError):
                continue  # it was removed, or is one that may not be read, and so cannot be opened to be synced

    def close(self) -> None:
        """Close the files."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds = {}

    def which(self, number: int) -> Which:
        """Which file is that of that story."""
        return self.renewed.get(number, self._plan.stories[number].which)

    def is_at(self, number: int, path: bytes) -> bool:
        """Does that path lead to the file of that story?"""
        return which(path).is_it(self.which(number))

    def _file(self, number: int) -> int:
        """Open the file for writing; -1: nothing leads to it any more."""
        fd = self._fds.get(number, -1)
        if fd >= 0:
            return fd
        path = self.where(number)
        if not path:
            return -1
        if len(self._fds) >= _AT_ONCE:
            self.sync()
        self._fds[number] = _open(path)
        return self._fds[number]

    def where(self, number: int) -> bytes:
        """A name that the file has now; b"": none is known."""
        paths = (self.at[number], *self.also[number])
        return next((path for path in paths if self.is_at(number, path)), b"")

    def seen(self, number: int, path: bytes) -> bytes:
        """Where the file is, which was seen at `path` when what is being undone was done."""
        if path != self.at[number] and self.is_at(number, path):
            # It may lose this name before the other one.
            self.also[number] = [self.at[number], *(each for each in self.also[number] if each != path)]
            self.at[number] = path
        return self.at[number]

    def put_back(self, segment: int, record: Data, number: int) -> None:
        """Put back what was overwritten."""
        story = self._plan.stories[number]
        fd = self._file(number) if story.verdict != AWAY else -1
        if fd < 0:
            return  # the file's first record says so
        place = (record.place if record.place >= 0 else -1 - record.place) - record.at
        path = source_path(self._journal.directory, segment, record)
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for start, end in self._own(fd, segment, record, story):
                copied(source, fd, place + start, place + end, start)
        finally:
            os.close(source)

    def _own(self, fd: int, segment: int, record: Data | Hole, story: Story) -> list[tuple[int, int]]:
        """List what of the record's bytes is put back: all, or of a file that others have changed too, the job's."""
        if story.verdict != MIXED:
            return [(record.at, record.at + record.length)]
        most = os.fstat(fd).st_size if story.cut else 1 << 63
        found = own(self._plan.sums[segment], record)
        return [(start, min(end, most)) for start, end in found if start < most]

    def empty(self, segment: int, record: Hole, number: int) -> None:
        """Have a hole again where there was one."""
        story = self._plan.stories[number]
        fd = self._file(number) if story.verdict != AWAY else -1
        if fd < 0:
            return  # as above
        size = os.fstat(fd).st_size
        for start, end in self._own(fd, segment, record, story):
            if start < size:
                _empty(fd, start, min(end, size))

    def as_first(self, segment: int, record: First, number: int) -> None:
        """Give the file its size, and what else was known of it."""
        known, story = record.known, self._plan.stories[number]
        if not stat.S_ISREG(known.mode):
            if self.is_at(number, self.seen(number, record.path)):
                give(self.at[number], known)
            return
        self.seen(number, record.path)
        fd = self._file(number) if story.verdict != AWAY else -1
        if fd < 0:
            self._say(
                f"{os.fsdecode(record.path)}, which the job has changed since image {self._image}, has been removed or "
                "replaced by others, and is left so"
            )
        elif story.verdict == CLEAN:
            if os.fstat(fd).st_size != known.size:
                os.ftruncate(fd, known.size)
            give(fd, known)
        elif number not in self.busy:
            self._take_out(segment, record, number, fd)
            if not story.cut and os.fstat(fd).st_size < known.size:
                os.ftruncate(fd, known.size)  # the job has cut off a hole

    def beside(self, path: bytes, own: Which = NOTHING) -> bytes:
        """A name beside it that nothing has, or, from a try before, `own`."""
        for number in range(1, 1 << 20):
            found = b"%s.%s%s" % (path, self._mark.encode(), b".%d" % number if number > 1 else b"")
            if not os.path.lexists(found) or which(found).is_it(own):
                return found
        raise FileExistsError(17, os.strerror(17), os.fsdecode(path))

    def has_added(self, story: Story) -> bool:
        """Has the job added something to it?"""
        return any(self._runs(segment, slot) for segment, slot, _ in story.parts)

    def _runs(self, segment: int, slot: int) -> list[tuple[int, int]]:
        row = self._plan.row(segment, slot)
        runs = [
            (each.start, each.end)
            for where, each, *_ in self._plan.entries
            if isinstance(each, records.Run) and (where, each.slot) == (segment, slot)
        ]
        if row is not None and row.run < row.last[0]:
            runs.append((row.run, row.last[0]))
        return runs

    def _take_out(self, segment: int, record: First, number: int, fd: int) -> None:
        """Take what the job has added out of a file to which others have added, too."""
        runs = self._runs(segment, record.slot)
        if not runs:
            return
        path = os.fsdecode(self.at[number])
        start = min(first for first, _ in runs)
        tail = Path(f"{self._journal.directory}/{segment:08d}.{record.slot}.tail")
        if tail.exists():
            _take_up(fd, start, tail)
            return
        size = os.fstat(fd).st_size
        if size <= start:
            return  # others have cut off all that
        copy = keep(path, self._kept, f"{self._mark}.from-{start}", start)
        _without(fd, start, size, sorted(runs), tail)
        self._say(
            f"what the job has added to {path} since image {self._image} is taken out of it, what others have added "
            f"stays: what it was from byte {start} on is {copy}"
        )
        _put_tail(fd, start, tail)


# A tail is what is to be in a file from `start` on; behind it what was there in the place of its end, up to the end of
# the file, so that it can be told whether the file has been cut already; and the length of the first, u64.


def _without(fd: int, start: int, size: int, runs: list[tuple[int, int]], tail: Path) -> None:
    """Copy [start, size) of what is open as `fd` to `tail`, but for `runs`; on the disk when it has that name."""
    pieces, at = [], start
    for first, last in (*runs, (size, size)):
        pieces.append((fd, at, max(min(first, size), at)))
        at = max(at, min(last, size))
    _write_tail(fd, start, size, pieces, tail)


def _write_tail(fd: int, start: int, size: int, pieces: list[tuple[int, int, int]], tail: Path) -> None:
    part = tail.with_suffix(".part")
    new = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        length = 0
        for source, first, last in pieces:
            length += copied(source, new, first, last, length)
        end = length + copied(fd, new, start + length, size, length)
        os.pwrite(new, length.to_bytes(8, "little"), end)
        os.fsync(new)
    finally:
        os.close(new)
    os.rename(part, tail)
    synced(os.fspath(tail.parent))


def _put_tail(fd: int, start: int, tail: Path) -> None:
    with tail.open("rb") as file:
        length, _ = _lengths(file.fileno())
        copied(file.fileno(), fd, 0, length, start)
    os.ftruncate(fd, start + length)


def _lengths(tail: int) -> tuple[int, int]:
    """Of what is to be there, and of what was in the place of its end."""
    size = os.fstat(tail).st_size - 8
    length = int.from_bytes(os.pread(tail, 8, size), "little")
    return length, size - length


def _take_up(fd: int, start: int, tail: Path) -> None:
    """Have a file as a tail says that was begun before; what others have added since stays."""
    with tail.open("rb") as file:
        source, now = file.fileno(), os.fstat(fd).st_size
        length, rest = _lengths(source)
        seen = start + length + rest  # how long it was when the tail was made
        if now < seen or not _same(source, length, fd, start + length, rest):
            # It has been cut; after a power cut what was put there before that may not be there.
            copied(source, fd, 0, min(length, max(now - start, 0)), start)
            return
        if now > seen:
            _write_tail(fd, start, now, [(source, 0, length), (fd, seen, now)], tail)
    _put_tail(fd, start, tail)


def _same(one: int, at: int, other: int, there: int, size: int) -> bool:
    """Do both files have the same bytes, each from that place on?"""
    return all(
        os.pread(one, min(_ZEROS, size - done), at + done) == os.pread(other, min(_ZEROS, size - done), there + done)
        for done in range(0, size, _ZEROS)
    )


def _empty(fd: int, start: int, end: int) -> None:
    try:
        syscalls.fallocate(fd, _PUNCH, start, end - start)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        for at in range(start, end, _ZEROS):
            os.pwrite(fd, bytes(min(_ZEROS, end - at)), at)


def copy(source: bytes, target: bytes, known: Known | None = None) -> None:
    """Copy a regular file with what is known of it, or `known`; on the disk when this returns."""
    fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        st = os.fstat(fd)
        new = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            copied_whole(fd, new)
            give(new, known or Known.of(st))
            os.fsync(new)
        finally:
            os.close(new)
    finally:
        os.close(fd)


def give(where: int | bytes, known: Known) -> None:
    """Give a file its owner, mode and times; what this user may not give stays."""
    link = stat.S_ISLNK(known.mode)
    now = os.fstat(where) if isinstance(where, int) else os.lstat(where)
    if (now.st_uid, now.st_gid) != (known.uid, known.gid):
        try:
            if isinstance(where, int):
                os.fchown(where, known.uid, known.gid)
            else:
                os.chown(where, known.uid, known.gid, follow_symlinks=False)
        except PermissionError:
            pass  # it was given away by one who may
        now = os.fstat(where) if isinstance(where, int) else os.lstat(where)
    if not link and stat.S_IMODE(now.st_mode) != stat.S_IMODE(known.mode):
        try:
            os.chmod(where, stat.S_IMODE(known.mode))
        except PermissionError:
            pass
    if not stat.S_ISDIR(known.mode):
        times = (known.atime_ns, known.mtime_ns)
        try:
            if isinstance(where, int):
                os.utime(where, ns=times)
            else:
                os.utime(where, ns=times, follow_symlinks=False)
        except PermissionError:
            pass


def _open(path: bytes) -> int:
    """Open a file for writing, whatever its mode says, if it is ours."""
    try:
        return os.open(path, _WRITE)
    except PermissionError:
        mode = os.lstat(path).st_mode
        os.chmod(path, stat.S_IMODE(mode) | stat.S_IRUSR | stat.S_IWUSR)
        try:
            return os.open(path, _WRITE)
        finally:
            os.chmod(path, stat.S_IMODE(mode))
