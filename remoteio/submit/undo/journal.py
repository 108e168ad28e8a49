"""An undo journal, in a directory of its own: what was so before the job changed it, on the disk first.

    moments           which image each segment belongs to (moments.py), replaced atomically
    NNNNNNNN.*        a segment (segment.py)

A record is there before the change that it covers, whenever this process is killed. Where bytes would be lost with it
it is on the disk before, too; what only names things is there at the latest with the next such record, the job's next
fsync, or when a second has passed and there is more to write.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from remoteio.submit.undo import moments, records, segment
from remoteio.submit.undo.moments import Moment, Moments
from remoteio.submit.undo.records import Record
from remoteio.submit.undo.segment import Segment
from remoteio.submit.undo.slots import Slots
from remoteio.submit.undo.sums import UNKNOWN, Sum

LIMIT = 1 << 30  # bytes
T = TypeVar("T")


class Journal:
    """Keeps the journal in `directory`, which is made when there is something to keep.

    epoch      another number for each time that a segment is begun; 0: none is written to, as no image needs it or the
               journal was lost
    moments    what it knows

    Where it cannot be kept, for want of room or by an error, all of it is removed: it must not tell a part. `full` is
    called when it has become larger than `limit`, by any thread, once for each segment; `lost`, with the reason, when
    it is removed. Threads: any; which the segment is changes only while the job stands still.
    """

    def __init__(
        self,
        directory: str,
        limit: int = LIMIT,
        full: Callable[[], None] = lambda: None,
        lost: Callable[[str], None] = lambda why: None,
    ) -> None:
        self.directory, self.limit, self._full, self._lost = directory, limit, full, lost
        self.epoch = self._begun = 0
        self.moments: Moments = _read(directory)
        self._lock = threading.RLock()
        self._segment: Segment | None = None
        self._size, self._told = 0, False  # of all segments
        self._serial = (0, 0)  # of the dump under way, and its segment

    # moments; the job stands still

    def mark(self, serial: int) -> None:
        """Begin a segment: the dump of that number sees the files as they are."""
        with self._lock:
            try:
                self._begin(0, self.moments)
            except OSError as error:
                self._lose(error)
            self._serial = (serial, self.moments[-1].segment if self.epoch else 0)

    def unmark(self) -> None:
        """Take note that the dump under way will be no image."""
        with self._lock:
            self._serial = (0, 0)
            if self.epoch and not any(moment.image for moment in self.moments):
                self.close()
                try:
                    self._drop(())
                except OSError as error:
                    self._lose(error)

    def bind(self, serial: int, image: int) -> None:
        """Take note that the dump of that number is becoming that image; on the disk when this returns."""
        with self._lock:
            if self._serial[0] == serial and self._serial[1]:
                try:
                    self._write(moments.bound(self.moments, self._serial[1], image))
                except OSError as error:
                    self._lose(error)

    def settle(self) -> None:
        """Forget what came since the latest image, with which the job has left: the image has seen these last words."""
        with self._lock:
            if self.epoch and self.moments and self.moments[-1].image:
                self.begin(self.moments[-1].image)

    def begin(self, image: int) -> None:
        """Begin with nothing done since that image, with which the files are: nothing of the job runs."""
        with self._lock:
            try:
                self._begin(image, moments.before(self.moments, image))
            except OSError as error:
                self._lose(error)

    def retain(self, images: Iterable[int]) -> None:
        """Drop what only images need that are gone; `images`: those that are there."""
        with self._lock:
            try:
                self._drop(moments.needed(self.moments, images))
            except OSError as error:
                self._lose(error)

    def since(self, image: int) -> Moments | None:
        """Return the moments from that image's on; None: what was done since is not known."""
        return moments.since(self.moments, image)

    def close(self) -> None:
        """Close it; what is in it stays."""
        with self._lock:
            self.epoch = 0
            if self._segment is not None:
                self._segment.close()
                self._segment = None

    # what is kept

    @property
    def slots(self) -> Slots | None:
        """How the job has left files, in this segment."""
        current = self._segment
        return current.slots if current is not None else None

    def slot(self) -> int:
        """Take a slot; -1: none."""
        return self._do(lambda current: current.slots.new(), -1)

    def number(self) -> int:
        """Take a number that nothing else of this segment has."""
        return self._do(lambda current: current.number(), 0)

    def append(self, record: Record, sync: bool = False) -> None:
        """Write a record down; `sync`: on the disk when this returns."""
        data = records.packed(record)

        def write(current: Segment) -> None:
            current.write(data, sync)
            self._grown(len(data))

        self._do(write, None)

    def sync(self) -> None:
        """Have all that was written down on the disk."""
        current = self._segment
        if current is not None and current.unsynced:
            self._do(lambda current: current.sync(), None)

    def save(self, slot: int, fd: int, ranges: list[tuple[int, int]]) -> list[int]:
        """Keep these blocks of the file that is open as `fd`, for reading: on the disk when this returns.

        Returns the number of the first sum of each, which are not known yet; none: the journal was lost.
        """

        def save(current: Segment) -> list[int]:
            # First: they may be more than there is room for.
            self._grown(sum(end - start for each in ranges for start, end in segment.extents(fd, *each)))
            return current.save(slot, fd, ranges)

        return self._do(save, [])

    def sum(self, number: int) -> Sum:
        """Tell what the job has left in a block."""
        return self._do(lambda current: current.sums.get(number), UNKNOWN)

    def put_sums(self, number: int, sums: bytes) -> None:
        """Note what the job leaves in blocks, from that number on."""
        self._do(lambda current: current.sums.put(number, sums), None)

    def keep(self, at: int, name: bytes, st: os.stat_result, copy: bool) -> tuple[str, bytes]:
        """Keep a regular file, which has that name in the directory `at`: (LINK or COPY, its name among the kept).

        `copy`: make a copy even where a link could be made. Raises Unkept.
        """

        def keep(current: Segment) -> tuple[str, bytes]:
            self._grown(st.st_blocks * 512)
            return current.keep(at, name, copy)

        return self._do(keep, (records.LOST, b""))

    def link(self, at: int, name: bytes) -> bytes:
        """Keep what is no regular file, of that name in the directory `at`: its name among the kept; b"": cannot be."""
        return self._do(lambda current: current.link(at, name), b"")

    def _do(self, what: Callable[[Segment], T], otherwise: T) -> T:
        with self._lock:
            if self._segment is None:
                return otherwise
            try:
                return what(self._segment)
            except OSError as error:
                self._lose(error)
                return otherwise

    # the files

    def _write(self, new: Moments) -> None:
        os.makedirs(self.directory, 0o700, exist_ok=True)
        path = f"{self.directory}/moments"
        fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(moments.written(new))
            file.flush()
            os.fsync(fd)
        os.rename(f"{path}.new", path)
        synced(self.directory)
        self.moments = new

    def _begin(self, image: int, staying: Moments) -> None:
        """Begin a segment after those that stay."""
        self.close()
        # No segment's number is given twice: of an undoing one knows which it was of.
        number = max((moment.segment for moment in self.moments), default=0) + 1
        os.makedirs(self.directory, 0o700, exist_ok=True)
        self._segment = Segment(self.directory, number)
        # Last, as its files are on the disk with it, or it is not; at once, as who is killed here is to know the image.
        self._replace((*staying, Moment(number, image)))
        self._told = False
        self._begun += 1
        self.epoch = self._begun

    def _drop(self, staying: Moments) -> None:
        if staying != self.moments:
            self._replace(staying)

    def _replace(self, staying: Moments) -> None:
        going = [moment.segment for moment in self.moments if moment not in staying]
        self._write(staying)
        for number in going:
            segment.remove(self.directory, number)
        if going:
            self._size = sum(segment.size(self.directory, each.segment) for each in staying)

    def _grown(self, size: int) -> None:
        self._size += size
        if self._size > 2 * self.limit:
            raise OSError(errno.EDQUOT, f"it is twice as large as --undo-limit allows, {self.limit} bytes")
        if self._size > self.limit and not self._told:
            self._told = True
            self._full()

    def _lose(self, error: OSError) -> None:
        """Remove all of it: a part of it would be worse than none."""
        self.close()
        self.moments, self._serial, self._size = (), (0, 0), 0
        try:
            os.unlink(f"{self.directory}/moments")  # first: whoever is killed in the middle leaves no part of it
            synced(self.directory)
        except OSError:
            pass  # it was not there, or the disk will not: what can be removed is, below
        shutil.rmtree(self.directory, ignore_errors=True)
        self._lost(error.strerror or str(error))


def _read(directory: str) -> Moments:
    try:
        with open(f"{directory}/moments", "rb") as file:
            return moments.read(file.read())
    except OSError:
        return ()


def synced(directory: str) -> None:
    """Have the names in a directory on the disk. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
