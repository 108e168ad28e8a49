"""What the export tells an undo journal before and after it changes something for the job.

Of a file's contents each thread tells under that file's own lock (``changes.File``); of names and of what else is known
of a file, the job's kernel lets no two requests be under way that depend on one another.
"""

from __future__ import annotations

import mmap
import os
import stat
from functools import partial
from typing import Protocol
from weakref import WeakSet

from remoteio import syscalls
from remoteio.submit.undo import sums
from remoteio.submit.undo.births import born_at, is_same
from remoteio.submit.undo.cover import BLOCK, Cover
from remoteio.submit.undo.journal import Journal
from remoteio.submit.undo.records import (
    DIRECTORY,
    LINK,
    LOST,
    NAME,
    NODE,
    SYMLINK,
    Attribute,
    First,
    Gone,
    Known,
    Lost,
    Made,
    Moved,
    Run,
    Void,
)
from remoteio.submit.undo.segment import Unkept
from remoteio.submit.undo.slots import END, END_AT, LEFT, LEFT_AT, Key
from remoteio.submit.undo.sums import UNKNOWN

Stat = os.stat_result
_CLOSED = (TypeError, ValueError)  # what is raised for a map that is closed, as by struct and by mmap


class Namer(Protocol):
    """Knows names of the job's files."""

    def named(self, st: Stat) -> bytes:
        """Find a path that leads to what `st` describes; b"": none is known."""


class Watch:
    """Watches over a job's files for its `journal`; `namers`: of the generations that are there."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.namers: WeakSet[Namer] = WeakSet()
        self._epoch = 0
        self._files: dict[Key, FileWatch] = {}
        # What the job has made since: its slot, how it was, and when it was made.
        self._fresh: dict[Key, tuple[int, tuple[int, int], int]] = {}
        self._first: dict[Key, int] = {}  # what has been noted of, beside contents: its slot
        self._covered: set[Key] = set()  # what the contents are watched of

    def file(self, key: Key) -> FileWatch:
        """Make what watches over the contents of that file."""
        return self._files.setdefault(key, FileWatch(self, key))

    def _on(self) -> bool:
        """Is anything written down? Then all that is known here is of this moment."""
        epoch = self.journal.epoch
        if epoch != self._epoch:
            self._fresh, self._first, self._covered, self._epoch = {}, {}, set(), epoch
        return bool(epoch)

    def put(self, slot: int, key: Key, cover: Cover, born: int | None = None) -> None:
        """Note how the job has left a file; ``Slots.put``. `born`: and when it was made."""
        slots = self.journal.slots
        if slots is not None and slot >= 0:
            try:
                if born is not None:
                    slots.mark(slot, born)
                slots.put(slot, key, cover)
            except _CLOSED:
                return  # the journal was lost in this moment

    def begin(self, fd: int, st: Stat, key: Key) -> tuple[int, Cover] | None:
        """Note how a file is before the job changes its contents for the first time: its slot, what to save of it.

        None: nothing is written down, or of what has no name no image needs anything but its own.
        """
        if not self._on() or not st.st_nlink:
            return None
        last = st.st_size, st.st_mtime_ns
        self._covered.add(key)
        self._first.pop(key, None)
        slot, made, _ = self._fresh.get(key, (-1, None, 0))
        if made == last:
            return slot, Cover(0, last)
        slot, born = self.journal.slot(), syscalls.born(fd)
        cover = Cover(st.st_size, last)
        self.put(slot, (st.st_dev, st.st_ino), cover, born)
        self.journal.append(First(slot, self._path(fd, st), Known.of(st, born)), sync=True)
        return slot, cover

    def _path(self, fd: int, st: Stat) -> bytes:
        """A name of what is open as `fd`: that by which it was opened may be gone while it has another."""
        path = _path(fd)
        if not _leads(path, st):
            path = next((name for each in tuple(self.namers) if (name := each.named(st))), path)
        return path

    # beside contents

    def attributes(self, fd: int, name: bytes | None) -> None:
        """Note how what is open as `fd` (O_PATH) is, before the job changes what is known of it, or the extended
        attribute `name`."""
        if not self._on():
            return
        st = os.fstat(fd)
        key, born = (st.st_dev, st.st_ino), syscalls.born(fd)
        if not st.st_nlink or self._is_fresh(key, born):
            return  # what is undone to it is its making
        if name is not None:
            path = self._path(fd, st)
            try:
                self.journal.append(Attribute(path, *key, name, True, born, os.getxattr(_proc(fd), name)))
            except OSError:
                self.journal.append(Attribute(path, *key, name, False, born))
        elif key not in self._first and key not in self._covered:
            self._first[key] = slot = self.journal.slot()
            self.put(slot, (st.st_dev, st.st_ino), Cover(st.st_size, (st.st_size, st.st_mtime_ns)), born)
            self.journal.append(First(slot, self._path(fd, st), Known.of(st, born)))

    def changed(self, st: Stat) -> None:
        """Note how it is after that."""
        key = st.st_dev, st.st_ino
        cover = Cover(st.st_size, (st.st_size, st.st_mtime_ns))
        if not self._on():
            return
        if key in self._first:
            self.put(self._first[key], key, cover)
        elif key in self._fresh and key not in self._covered:
            slot, _, born = self._fresh[key]
            self._fresh[key] = slot, cover.last, born
            self.put(slot, (st.st_dev, st.st_ino), Cover(0, cover.last))

    # names

    def makes(self, at: int, name: bytes, new: bool) -> int:
        """Note that the job is giving that name in the directory `at`, which nothing has, to something: its slot.

        `new`: it is made with it. -1: something has the name.
        """
        if not name or not self._on() or _lstat(at, name) is not None:
            return -1
        slot = self.journal.slot()
        self.journal.append(Made(slot, path_in(at, name), new))
        return slot

    def made(self, slot: int, at: int, name: bytes, new: bool) -> None:
        """Note what has that name now; `new`: it was made with it."""
        st = _lstat(at, name) if slot >= 0 else None
        if st is not None:
            last, born = (st.st_size, st.st_mtime_ns), born_at(name, at)
            self.put(slot, (st.st_dev, st.st_ino), Cover(0, last), born)
            if new:
                key = st.st_dev, st.st_ino
                self._fresh[key] = slot, last, born
                if key in self._files:
                    self._files[key].forget()  # of another file, which had the number

    def _is_fresh(self, key: Key, born: int) -> bool:
        """Has the job made it since? Another may have its number by now."""
        found = self._fresh.get(key)
        return found is not None and is_same(found[2], born)

    def removes(self, at: int, name: bytes, st: Stat | None, opened: bool, also: bytes) -> int:
        """Note that the job is taking that name, in the directory `at`, away from what `st` describes; None: nothing.

        `opened`: it has that open: then a name of ours would be the only one, which the job can count. `also`: another
        name that it has, b"" if none is known.
        Returns the record's number, 0: there is none.
        """
        if st is None or not self._on():
            return 0
        born = born_at(name, at)
        if self._is_fresh((st.st_dev, st.st_ino), born):
            return 0
        path = path_in(at, name)
        how, what = NODE, b""
        if also and opened:
            how, what = NAME, also
        elif stat.S_ISREG(st.st_mode):
            try:
                how, what = self.journal.keep(at, name, st, opened and st.st_nlink == 1)
            except Unkept as error:
                how, what = LOST, str(error).encode()
        elif stat.S_ISDIR(st.st_mode):
            how = DIRECTORY
        elif not opened and (kept := self.journal.link(at, name)):
            how, what = LINK, kept  # what is made anew would not be its other names' file
        elif stat.S_ISLNK(st.st_mode):
            how, what = SYMLINK, os.readlink(name, dir_fd=at)
        number = self.journal.number()
        self.journal.append(Gone(path, Known.of(st, born), how, what, st.st_rdev, number))
        return number

    def void(self, *numbers: int) -> None:
        """Note that what those records say has failed."""
        if any(numbers) and self._on():
            self.journal.append(Void([number for number in numbers if number]))

    def removed(self, st: Stat | None) -> None:
        """Note that it is done."""
        if st is not None and (st.st_nlink == 1 or stat.S_ISDIR(st.st_mode)):
            key = st.st_dev, st.st_ino
            self._fresh.pop(key, None)
            self._first.pop(key, None)
            self._covered.discard(key)

    def moves(self, old: tuple[int, bytes], new: tuple[int, bytes], st: Stat, other: int) -> int:
        """Note that the job is renaming what `st` describes from one name to another, each in a directory.

        `other`: the inode number of what it is exchanged with; 0: it is not.

        Returns the record's number, 0: there is none.
        """
        if not self._on():
            return 0
        here, there = (path_in(at, name) for at, name in (old, new))
        number = self.journal.number()
        directory = bool(other) or stat.S_ISDIR(st.st_mode)
        births = born_at(old[1], old[0]), born_at(new[1], new[0]) if other else 0
        self.journal.append(Moved(here, there, st.st_dev, st.st_ino, other, directory, number, *births))
        return number


class FileWatch:
    """Watches over the contents of one file. Whoever tells it anything holds the file's lock."""

    __slots__ = ("_at", "_born", "_cover", "_epoch", "_key", "_map", "_slot", "_watch")

    def __init__(self, watch: Watch, key: Key) -> None:
        self._watch, self._key = watch, key
        self._epoch = self._slot = -1
        self._born = 0
        self._cover: Cover | None = None
        self._map: mmap.mmap | bytearray = bytearray()  # where its row is, and there from `_at` on
        self._at = 0

    def forget(self) -> None:
        """Begin anew: nothing of it has been kept."""
        self._epoch = -1

    def writes(self, fd: int, st: Stat, start: int, data: memoryview) -> None:
        """The same, where `data` is about to be written at `start`; negative: at the file's end."""
        at = st.st_size if start < 0 else start
        self.before(fd, st, at, at + len(data), data=data)

    def before(self, fd: int, st: Stat, start: int, end: int, grows: int = 0, data: memoryview | None = None) -> None:
        """Keep what is about to be changed of the file that is open as `fd`, and is `st`: [start, end).

        `grows`: how long it will be at most, if that is more than its size. `data`: what it will be, if that is known.
        """
        watch, now = self._watch, (st.st_size, st.st_mtime_ns)
        cover = self._cover
        if watch.journal.epoch != self._epoch or (
            cover is not None and now != cover.last and not is_same(self._born, syscalls.born(fd))
        ):
            self._begin(fd, st)
            cover = self._cover
        if cover is None:
            return
        if now != cover.last:
            first, last = cover.foreign(now)
            if first < last:
                watch.journal.append(Run(self._slot, first, last), sync=True)
            watch.put(self._slot, self._key, cover)
        if start < cover.upto:
            needs = cover.needs(start, end)
            if needs:
                self._save(fd, cover, needs)
            self._sum(fd, cover, needs, start, min(end, cover.upto), data)
        try:
            END.pack_into(self._map, self._at + END_AT, max(grows, end, now[0]))
        except _CLOSED:
            self._cover = None  # the journal was lost in this moment

    def after(self, st: Stat) -> None:
        """Note how the job has left it."""
        cover = self._cover
        if cover is not None and self._epoch == self._watch.journal.epoch:
            cover.last = now = st.st_size, st.st_mtime_ns
            try:
                LEFT.pack_into(self._map, self._at + LEFT_AT, *now, cover.run, 0)
            except _CLOSED:
                self._cover = None  # as in `before`

    def _begin(self, fd: int, st: Stat) -> None:
        journal = self._watch.journal
        self._epoch, self._cover, self._born = journal.epoch, None, syscalls.born(fd)
        begun, slots = self._watch.begin(fd, st, self._key), journal.slots
        if begun is not None and begun[0] >= 0 and slots is not None:
            self._slot, self._cover = begun
            self._map, self._at = slots.place(self._slot)

    def _save(self, fd: int, cover: Cover, needs: list[tuple[int, int]]) -> None:
        journal = self._watch.journal
        try:
            source = os.open(_proc(fd), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            journal.append(Lost(_path(fd), f"it cannot be read ({error.strerror})"), sync=True)
            return
        try:
            bases = journal.save(self._slot, source, needs)
        finally:
            os.close(source)
        for each, base in zip(needs, bases):
            cover.summed(*each, base)

    def _sum(
        self, fd: int, cover: Cover, fresh: list[tuple[int, int]], start: int, end: int, data: memoryview | None
    ) -> None:
        """Note what the job leaves in [start, end), of which `fresh` was not its own."""
        for first, last, number in cover.sums(start, end):
            if data is None:
                self._watch.journal.put_sums(number, UNKNOWN.packed() * -(-(last - first) // BLOCK))
                continue
            # Between the two are blocks that are written whole; at most one before them is not, and one behind.
            low = min(max(first, -(-start // BLOCK) * BLOCK), last)
            high = max(last if end >= last else end // BLOCK * BLOCK, low)
            found = sums.whole(data[low - start : min(high, end) - start])
            for at in (*range(first, low, BLOCK), *range(high, last, BLOCK)):
                own = data[max(at - start, 0) : min(at + BLOCK, end) - start]
                within = max(start - at, 0)
                if any(a <= at < b for a, b in fresh):
                    part = sums.written(within, own)
                else:
                    old = self._watch.journal.sum(number + (at - first) // BLOCK)
                    part = sums.and_written(old, within, own, partial(_read, fd, at))
                found = part.packed() + found if at < low else found + part.packed()
            self._watch.journal.put_sums(number, found)


def _read(fd: int, at: int, start: int, end: int) -> bytes:
    """Read [start, end) from `at` on of what is open as `fd`, be it to write only."""
    source = os.open(_proc(fd), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.pread(source, end - start, at + start)
    finally:
        os.close(source)


def _proc(fd: int) -> str:
    return "/proc/self/fd/%d" % fd


def _path(fd: int) -> bytes:
    """The name of what is open, as it is now; with " (deleted)" at its end if that has been removed."""
    path = os.readlink(os.fsencode(_proc(fd)))
    return b"" if path == b"/" else path


def path_in(at: int, name: bytes) -> bytes:
    """The path of that name in the directory `at`."""
    return _path(at) + b"/" + name


def _leads(path: bytes, st: Stat) -> bool:
    """Does that path lead to what `st` describes?"""
    try:
        return os.path.samestat(os.lstat(path), st)
    except OSError:
        return False


def _lstat(at: int, name: bytes) -> Stat | None:
    try:
        return os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return None
