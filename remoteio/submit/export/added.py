"""What a job has added to the files here, by file.

What counts of a file is what it takes on the disk beyond what it took before the job first changed it: so a hole counts
nothing until something is written there, and to write over what was there adds nothing. Filesystems tell that by their
blocks, some of them late (ZFS, NFS) or too many (XFS, ahead of a file that grows): so what the job has appended counts
at least, and never more than all that it has written. Each new name counts NAME bytes, and extended attributes what is
in them. What is cut off, removed or overwritten counts no more; of a file without a name, when it has been closed.
"""

from __future__ import annotations

import os
import threading
from typing import Any

NAME = 4096  # bytes that a name counts: an inode, and an entry in a directory
BLOCK = 512  # st_blocks: stat(2)
MOST_COUNTED = 1 << 18  # files that are told apart; what is added to others counts for good
MOST_ROWS = 4096  # of them that are put on record, the largest


class Grown:
    """What one file has got from the job, in bytes.

    blocks, size  on the disk and in length, before the job's first change
    floor         the length up to which nothing was appended: `size`, and the holes made since
    last          its length after the job's last change
    written       all that the job has written to it
    more          extended attributes, less those that it took away
    names         names that the job gave it, less those that it took away
    counted       what counts of all this
    """

    __slots__ = ("blocks", "counted", "floor", "key", "last", "more", "names", "size", "written")

    def __init__(self, key: tuple[int, int], blocks: int, size: int) -> None:
        self.key, self.blocks, self.size = key, blocks, size
        self.floor = self.last = size
        self.written = self.more = self.names = self.counted = 0

    def became(self, size: int, appended: int) -> None:
        """Take note that it is `size` bytes long now, of which the job has appended at most so many."""
        if size >= self.last:
            self.floor += max(size - self.last - appended, 0)
        else:
            self.floor = min(self.floor, max(self.size, size))
        self.last = size

    def count(self, blocks: int) -> int:
        """Tell what counts of it, with so many bytes on the disk by now."""
        contents = min(self.written, max(blocks - self.blocks, self.last - self.floor))
        return max(contents, 0) + max(self.more, 0) + NAME * max(self.names, 0)

    def row(self) -> list[int]:
        """List it for the job's record."""
        return [
            *self.key, self.blocks, self.size, self.floor, self.last, self.written, self.more, self.names, self.counted
        ]  # fmt: skip


class Added:
    """All that one job has added, wherever it runs. Threads: any; `lock` guards all of it, and nothing waits under it.

    total  bytes; ahead: of what is under way, as if all of it were added
    """

    def __init__(self, rows: tuple[Any, ...] = ()) -> None:
        """`rows`: as `rows` has listed them."""
        self.lock = threading.Lock()
        self.total, self.ahead, self._rows = 0, 0, rows
        self._files: dict[tuple[int, int], Grown] = {}
        self._listed = True  # `_rows` are true still
        if rows and isinstance(rows[0], int) and all(isinstance(row, list) for row in rows[1:]):
            self.total = rows[0]
            for device, inode, blocks, size, floor, last, written, more, names, counted in rows[1:]:
                each = self._files[device, inode] = Grown((device, inode), blocks, size)
                each.floor, each.last, each.written, each.more = floor, last, written, more
                each.names, each.counted = names, counted

    def rows(self) -> tuple[Any, ...]:
        """List for the job's record (bytes in all, row, …), of the files that count most; (): it has added nothing."""
        with self.lock:
            if not self._listed:
                found = sorted(self._files.values(), key=lambda each: -each.counted)[:MOST_ROWS]
                rows = [each.row() for each in found if each.counted]
                self._rows = (self.total, *rows) if self.total or rows else ()
                self._listed = True
            return self._rows

    def of(self, st: os.stat_result) -> Grown:
        """Return what the file that `st` describes has got; from now on it is known."""
        key = (st.st_dev, st.st_ino)
        with self.lock:
            found = self._files.get(key)
            if found is None:
                found = Grown(key, st.st_blocks * BLOCK, st.st_size)
                if len(self._files) < MOST_COUNTED:
                    self._files[key] = found
            return found

    def known(self, st: os.stat_result) -> Grown | None:
        """Return the same, if it is known."""
        return self._files.get((st.st_dev, st.st_ino))

    def settle(self, grown: Grown, blocks: int) -> None:
        """Count it anew; under the lock."""
        now = grown.count(blocks)
        if now != grown.counted:
            self.total += now - grown.counted
            grown.counted, self._listed = now, False

    def forget(self, grown: Grown) -> None:
        """Take note that it is gone."""
        with self.lock:
            self.total -= grown.counted
            grown.counted, self._listed = 0, False
            if self._files.get(grown.key) is grown:
                del self._files[grown.key]
