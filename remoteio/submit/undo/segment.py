"""The open files of one segment of an undo journal: records, bytes kept, how files were left, files that were removed.

    NNNNNNNN.undo     the records (records.py), in the order of the changes
    NNNNNNNN.data     bytes that they refer to, at multiples of BLOCK, so that a filesystem may share them with the file
    NNNNNNNN.slots    how the job has left each file (slots.py)
    NNNNNNNN.sums     and each block of those that were kept (sums.py)
    NNNNNNNN.kept/    files that the job has removed

Everything here raises OSError where the disk will not; its user holds a lock.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from collections.abc import Iterator

from remoteio.submit.undo import records
from remoteio.submit.undo.cover import BLOCK
from remoteio.submit.undo.records import Data, Hole
from remoteio.submit.undo.slots import Slots
from remoteio.submit.undo.sums import Sums

_PARTS = ("undo", "data", "slots", "sums", "kept")
_INLINE = 1 << 16  # bytes that go into the record itself
_BLOCK = 1 << 20
_LATEST = 1.0  # seconds
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES)
_NO_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM)


class Unkept(Exception):
    """What is to be changed cannot be read, so that it is not kept: why."""


class Segment:
    """Writes one segment in `directory`.

    slots       how the job has left files
    sums        and blocks of them
    unsynced    since when a record is not on the disk; 0: all are
    """

    def __init__(self, directory: str, number: int) -> None:
        self._base = f"{directory}/{number:08d}"
        remove(directory, number)  # one that was begun and never heard of
        self._fd = os.open(f"{self._base}.undo", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._data = os.open(f"{self._base}.data", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._place, self._numbers = 0, 0
        self.unsynced = 0.0
        self.slots = Slots(f"{self._base}.slots")
        self.sums = Sums(f"{self._base}.sums")

    def close(self) -> None:
        """Close its files."""
        os.close(self._fd)
        os.close(self._data)
        self.slots.close()
        self.sums.close()

    def number(self) -> int:
        """Take a number that nothing else of this segment has."""
        self._numbers += 1
        return self._numbers

    def write(self, data: bytes, sync: bool) -> None:
        """Write records; `sync`: on the disk when this returns."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        now = time.monotonic()
        self.unsynced = self.unsynced or now
        if sync or now - self.unsynced > _LATEST:
            self.sync()

    def sync(self) -> None:
        """Have all records on the disk."""
        if self.unsynced:
            os.fdatasync(self._fd)
            self.unsynced = 0.0

    def save(self, slot: int, fd: int, ranges: list[tuple[int, int]]) -> list[int]:
        """Keep these bytes, whole blocks, of the file that is open as `fd`, for reading: each one's first sum."""
        found: list[Data | Hole] = []
        bases = [self.sums.new(-(-(end - start) // BLOCK)) for start, end in ranges]
        for (start, end), base in zip(ranges, bases):
            at, end, base = start, min(end, os.fstat(fd).st_size), base - start // BLOCK
            for first, last in (*extents(fd, start, end), (end, end)):
                if at < first:
                    found.append(Hole(slot, at, first - at, base + at // BLOCK))
                if 0 < last - first <= _INLINE:
                    raw = os.pread(fd, last - first, first)
                    found.append(Data(slot, first, len(raw), -1, base + first // BLOCK, raw))
                elif first < last:
                    place, length = self._save(fd, first, last)
                    found.append(Data(slot, first, length, place, base + first // BLOCK))
                at = last
        if any(isinstance(each, Data) and each.place >= 0 for each in found):
            os.fdatasync(self._data)
        self.write(b"".join(records.packed(each) for each in found if each.length), True)
        return bases

    def _save(self, fd: int, start: int, end: int) -> tuple[int, int]:
        place = self._place
        length = copied(fd, self._data, start, end, place)
        self._place += -(-length // BLOCK) * BLOCK
        return place, length

    def keep(self, at: int, name: bytes, copy: bool) -> tuple[str, bytes]:
        """Keep what has that name in the directory `at`; see Journal.keep. Raises Unkept too."""
        kept, target = self._place_to_keep()
        if not copy and _linked(name, target, at):
            return records.LINK, kept
        _copy(at, name, target)
        return records.COPY, kept

    def link(self, at: int, name: bytes) -> bytes:
        """Keep what has that name by a link; see Journal.link."""
        kept, target = self._place_to_keep()
        return kept if _linked(name, target, at) else b""

    def _place_to_keep(self) -> tuple[bytes, bytes]:
        kept = b"%d" % self.number()
        directory = os.fsencode(f"{self._base}.kept")
        if not os.path.isdir(directory):
            os.mkdir(directory, 0o700)
        return kept, directory + b"/" + kept


def remove(directory: str, number: int) -> None:
    """Remove the files of a segment that nobody writes."""
    for part in _PARTS:
        path = f"{directory}/{number:08d}.{part}"
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue
        except IsADirectoryError:
            shutil.rmtree(path)


def size(directory: str, number: int) -> int:
    """How many bytes a segment takes."""
    return sum(_size(f"{directory}/{number:08d}.{part}") for part in ("undo", "data", "kept"))


def _size(path: str) -> int:
    try:
        st = os.stat(path)
    except FileNotFoundError:
        return 0
    return sum(_size(each.path) for each in os.scandir(path)) if stat.S_ISDIR(st.st_mode) else st.st_size


def extents(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """List where in [start, end) of a file there are bytes; elsewhere it has holes. Its position is moved."""
    while start < end:
        try:
            start = os.lseek(fd, start, os.SEEK_DATA)
            last = min(os.lseek(fd, start, os.SEEK_HOLE), end)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return  # all the rest is a hole, or is gone by now
        if start < last:
            yield start, last
        start = last


def copied_whole(source: int, target: int) -> None:
    """Copy a file, its holes and its user's attributes (xattr(7)) to one that is empty."""
    size = os.fstat(source).st_size
    for start, end in extents(source, 0, size):
        copied(source, target, start, end, start)
    os.ftruncate(target, size)
    for attribute in os.listxattr(source):
        if attribute.startswith("user."):
            os.setxattr(target, attribute, os.getxattr(source, attribute))


def copied(source: int, target: int, start: int, end: int, place: int) -> int:
    """Copy [start, end) of `source` to `place` of `target`, shared where the filesystem can: how much there was."""
    done = 0
    while start + done < end:
        try:
            count = os.copy_file_range(source, target, min(end - start - done, 1 << 30), start + done, place + done)
        except OSError as error:
            if error.errno not in _NO_COPY:
                raise
            count = _by_hand(source, target, min(end - start - done, _BLOCK), start + done, place + done)
        if not count:
            break
        done += count
    return done


def _by_hand(source: int, target: int, size: int, start: int, place: int) -> int:
    block = os.pread(source, size, start)
    view = memoryview(block)
    while view:
        done = os.pwrite(target, view, place + len(block) - len(view))
        view = view[done:]
    return len(block)


def _linked(name: bytes, target: bytes, at: int) -> bool:
    """Give what has that name in the directory `at` another. False: it cannot have one."""
    try:
        os.link(name, target, src_dir_fd=at, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        return False
    return True


def _copy(at: int, name: bytes, target: bytes) -> None:
    try:
        source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    except OSError as error:
        raise Unkept(f"it cannot be read ({error.strerror})") from error
    try:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            copied_whole(source, fd)
            os.fsync(fd)
        finally:
            os.close(fd)
    finally:
        os.close(source)
