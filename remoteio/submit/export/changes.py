"""What a job has done to its files since its latest image, so that only that is ever undone.

A file's *state* is its size and the times of its last changes. Around each change of the job's the export looks at it:
if it is not as the job's change before had left it, or has not become what this change makes of it, then somebody else
has changed it too.
"""

from __future__ import annotations

import os
import threading
from typing import Any

TYPE_CHECKING = False  # only a job of which images are made has a journal, and each run would wait for its modules
if TYPE_CHECKING:
    from remoteio.submit.undo.watch import FileWatch

State = tuple[int, int, int]  # size in bytes, mtime and ctime in ns
Key = tuple[int, int]  # device, inode number
NEVER = (1 << 63) - 1
_ROW = (int, int, int, int, int, int, int, bool, bool, bool)
NOWHERE = (0, 0, 0)  # the state of a file that cannot be looked at: no file's


def state(st: os.stat_result) -> State:
    """Take from stat(2) what it tells of a file's contents."""
    return st.st_size, st.st_mtime_ns, st.st_ctime_ns


class Change:
    """What the job did to one file.

    base      the file's size before the job's first change
    lowest    the first byte that was there and that the job overwrote or cut off; NEVER: it only added to the file
    last      the file's state after the job's last change
    others    somebody else changed it between the job's first change and the last
    removed   the job took its name away, or gave it to another file
    unlinked  the job took one of its names away, which may be the one that the image has, or renamed a directory that
              it was in: if that name is not there any more, it is the job's doing
    """

    __slots__ = ("base", "last", "lowest", "others", "removed", "unlinked")

    def __init__(
        self,
        base: int,
        lowest: int,
        last: State,
        others: bool = False,
        removed: bool = False,
        unlinked: bool = False,
    ) -> None:
        self.base, self.lowest, self.last = base, lowest, last
        self.others, self.removed, self.unlinked = others, removed, unlinked


class File:
    """Sums up the changes of one file.

    Threads: any. Whoever changes it for the job holds `lock` from the look before to the look after."""

    __slots__ = ("_fresh", "_marked", "_since", "lock", "watch")

    def __init__(self, marked: bool) -> None:
        self.lock = threading.Lock()
        self.watch: FileWatch | None = None  # keeps what of it must be kept before it is changed
        self._since: Change | None = None  # the latest image
        self._fresh: Change | None = None  # the mark of a dump that may become the next
        self._marked = marked

    def changed(self, before: State, after: State, lowest: int, size: int) -> None:
        """Note that the job has changed it: `lowest` as of Change, `size` bytes long if nobody else has changed it."""
        self._since = _then(self._since, before, after, lowest, size)
        if self._marked:
            self._fresh = _then(self._fresh, before, after, lowest, size)

    def wrote(self, before: State, after: State, start: int, done: int) -> None:
        """Note that the job has put `done` bytes at `start`; negative: at the file's end, wherever that was."""
        was = before[0]
        end = was + done if start < 0 else start + done
        over = 0 <= start < was
        since = self._since
        if since is None or self._marked or over or after[0] != end or since.last != before:
            self.changed(before, after, start if over else NEVER, max(was, end))
        else:
            since.last = after  # most writes are such: one more at the end

    def cut(self, before: State, after: State, size: int) -> None:
        """Note that the job has made it `size` bytes long."""
        self.changed(before, after, size if size < before[0] else NEVER, size)

    def touched(self, before: State, after: State) -> None:
        """Note that the job has changed what is known of it beside its contents."""
        for change in (self._since, self._fresh):
            if change is not None:
                change.others = change.others or change.last != before or after[0] != before[0]
                change.last = after

    def removed(self, now: State) -> None:
        """Note that the job has taken away the name that the file had."""
        self._since = self._since or Change(now[0], NEVER, now)
        self._since.removed = True
        if self._marked:
            self._fresh = self._fresh or Change(now[0], NEVER, now)
            self._fresh.removed = True

    def unlinked(self, before: State, after: State) -> None:
        """Note that the job has taken away one of its names; it has others, or is in a directory that moved."""
        self._since = _unlinked(self._since, before, after)
        if self._marked:
            self._fresh = _unlinked(self._fresh, before, after)

    def mark(self, marked: bool) -> None:
        """Tell what comes from now on apart, or no more."""
        with self.lock:
            self._fresh, self._marked = None, marked

    def commit(self) -> None:
        """Take note that the latest image is that of the mark."""
        with self.lock:
            self._since, self._fresh, self._marked = self._fresh, None, False

    def begin(self, since: Change | None = None) -> None:
        """Forget what was done, or take up what is known of it."""
        with self.lock:
            self._since, self._fresh, self._marked = since, None, False

    @property
    def since(self) -> Change | None:
        """Return what the job did since its latest image; None: nothing."""
        return self._since


def _then(change: Change | None, before: State, after: State, lowest: int, size: int) -> Change:
    others = after[0] != size
    if change is None:
        return Change(before[0], lowest, after, others)
    change.others = change.others or others or change.last != before
    change.lowest, change.last = min(change.lowest, lowest), after
    return change


def _unlinked(change: Change | None, before: State, after: State) -> Change:
    change = change or Change(before[0], NEVER, before)
    change.unlinked = True
    if change.last == before:
        change.last = after  # its ctime: who looks afterwards is not to take that for others' doing
    return change


class Changes:
    """Keeps the changes of all files of one job, wherever it runs.

    `image`: since which one they are known; 0: since the start; None: they are not.

    Threads: any. `_lock` guards which files there are and which mark is set, a file's own lock what was done to it."""

    def __init__(self, image: int | None = 0) -> None:
        self.image = image
        self._paths: dict[int, str] = {}  # of the files that the image tells of, by inode number
        self._moved: list[str] = []  # directories that the job has renamed since the mark
        self._files: dict[Key, File] = {}
        self._serial: int | None = None
        self._lock = threading.Lock()

    def file(self, key: Key) -> File:
        """Return the changes of that file; from now on it is known."""
        found = self._files.get(key)
        if found is None:
            with self._lock:
                found = self._files.setdefault(key, File(self._serial is not None))
        return found

    def known(self, st: os.stat_result) -> File | None:
        """Return the changes of what `st` describes, if it is a file that the job has had open for writing."""
        return self._files.get((st.st_dev, st.st_ino))

    def mark(self, serial: int) -> None:
        """Take note that the dump of that number sees the files as they are: the job stands still."""
        with self._lock:
            self._serial, self._moved = serial, []
            for file in self._files.values():
                file.mark(True)

    def unmark(self) -> None:
        """Take note that the dump under way will be no image."""
        with self._lock:
            self._serial = None
            for file in self._files.values():
                file.mark(False)

    def commit(self, serial: int, image: int, paths: dict[int, str]) -> None:
        """Take note that that dump is the latest image; `paths`: of the files that it tells of, by inode number."""
        with self._lock:
            self.image, self._paths = (image if serial == self._serial else None), paths
            self._serial = None
            for file in self._files.values():
                file.commit()
        for directory in self._moved:
            for file, _ in self.beneath(directory):
                with file.lock:
                    file.unlinked(NOWHERE, NOWHERE)

    def begin(self, image: int, paths: dict[Key, str]) -> None:
        """Begin with nothing done since `image`, which tells of these files: nothing of the job runs."""
        with self._lock:
            self.image, self._serial = image, None
            self._paths = {inode: path for (_, inode), path in paths.items()}
            for key in paths.keys() - self._files.keys():
                self._files[key] = File(False)
            for file in self._files.values():
                file.begin()

    def moves(self, directory: str) -> list[tuple[File, str]]:
        """Take note that the job renames that directory; the same as `beneath`."""
        with self._lock:
            if self._serial is not None:
                self._moved.append(directory)
        return self.beneath(directory)

    def beneath(self, directory: str) -> list[tuple[File, str]]:
        """List the files that the image saw below that directory, each with the rest of its path."""
        with self._lock:
            found = ((ino, path) for ino, path in self._paths.items() if path.startswith(f"{directory}/"))
            rest = {ino: path[len(directory) :] for ino, path in found}
            return [(file, rest[ino]) for (_, ino), file in self._files.items() if ino in rest] if rest else []

    def undone(self, key: Key) -> None:
        """Take note that that file is as it was before the job's first change."""
        self.file(key).begin()

    def settle(self) -> None:
        """Forget what came since the latest image, with which the job has left: the image has seen these last words."""
        with self._lock:
            for file in self._files.values():
                file.begin()

    def since(self, image: int) -> dict[Key, Change] | None:
        """Return what the job did since that image, by file; None: it is not known."""
        if image != self.image:
            return None
        with self._lock:
            return {key: file.since for key, file in self._files.items() if file.since is not None}

    def rows(self) -> tuple[Any, ...]:
        """List for the job's record (image, row, …), of the files that the image tells of; (): not known."""
        if not self.image:
            return ()
        found = (self.since(self.image) or {}).items()
        return (
            self.image,
            *(
                [*key, c.base, c.lowest, *c.last, c.others, c.removed, c.unlinked]
                for key, c in found
                if key[1] in self._paths
            ),
        )

    @classmethod
    def of(cls, rows: tuple[Any, ...], image: int) -> Changes:
        """Read what `rows` has listed, if they are of that image, or of a job that has none (0)."""
        if not image:
            return cls()
        if not rows or rows[0] != image or not all(_is_row(row) for row in rows[1:]):
            return cls(None)
        made = cls(image)
        made._paths = dict.fromkeys((row[1] for row in rows[1:]), "")  # what they were is asked while the job runs
        for dev, ino, base, lowest, size, mtime_ns, ctime_ns, others, removed, unlinked in rows[1:]:
            change = Change(base, lowest, (size, mtime_ns, ctime_ns), others, removed, unlinked)
            made.file((dev, ino)).begin(change)
        return made


def _is_row(row: object) -> bool:
    return isinstance(row, list) and tuple(map(type, row)) == _ROW
