"""What an undo journal tells of a job's files since an image, and which of them others have changed too.

Reads, and changes nothing.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from remoteio.submit.undo import records, slots
from remoteio.submit.undo.births import Which, is_same, which
from remoteio.submit.undo.journal import Journal
from remoteio.submit.undo.records import (
    COPY,
    DIRECTORY,
    LINK,
    Attribute,
    Data,
    First,
    Gone,
    Hole,
    Known,
    Lost,
    Made,
    Moved,
    Record,
    Run,
    Void,
)
from remoteio.submit.undo.slots import Key, Slot
from remoteio.submit.undo.sums import KnownSums
from shim.submit.job import undo_overlap

# Of a file's contents, since the image: the job alone has changed it; others have too; nothing leads to it any more.
CLEAN, MIXED, AWAY = "clean", "mixed", "away"
_DELETED = b" (deleted)"


class Entry(NamedTuple):
    """One record, of that segment.

    story     of which file, -1: of none that matters
    partner   what that was exchanged with, if it was
    """

    segment: int
    record: Record
    story: int
    partner: int = -1


@dataclass(slots=True)
class Story:
    """What the job has done to one file.

    key       device and inode number, as it is known by in the journal
    born      when it was made: see births.py
    made      since the image, by the job
    path      where it is now: a kept one's place among the kept
    names     where else it is or was, as those names are by now
    parts     of its contents: (segment, slot, as it was before; None: it was not there)
    saved     is there anything to be put back but its size?
    overlap   have others changed something of that, too? Asked where the verdict is MIXED
    cut       have they cut it?
    verdict   CLEAN, MIXED or AWAY
    copied    what is at `path` is a copy, as the job has left it
    """

    key: Key
    path: bytes
    born: int = 0
    made: bool = False
    names: list[bytes] = field(default_factory=list)
    parts: list[tuple[int, int, Known | None]] = field(default_factory=list)
    saved: bool = False
    overlap: bool = False
    cut: bool = False
    verdict: str = CLEAN
    copied: bool = False

    def seen(self, path: bytes) -> None:
        """Take note that it has that name, too."""
        if path != self.path and path not in self.names:
            self.names.append(path)

    def now_at(self, path: bytes) -> None:
        """Take note of the name that it is known by from now on."""
        self.seen(path)
        was, self.path = self.path, path
        self.names = [was, *(each for each in self.names if each not in (was, path))]

    @property
    def which(self) -> Which:
        """Which file it is, as it is known in the journal."""
        return Which(self.key[1], self.born)


@dataclass(slots=True)
class Plan:
    """All that is known since an image, oldest first.

    entries   the records
    rows      the slots of each segment
    sums      and what it knows of blocks
    stories   of files
    lost      what cannot be undone: (path, why)
    last      the newest segment
    """

    entries: list[Entry] = field(default_factory=list)
    rows: dict[int, list[Slot]] = field(default_factory=dict)
    sums: dict[int, KnownSums] = field(default_factory=dict)
    stories: list[Story] = field(default_factory=list)
    lost: list[tuple[str, str]] = field(default_factory=list)
    last: int = 0

    def row(self, segment: int, slot: int) -> Slot | None:
        """How the job has left the file of that slot; None: it is not known."""
        rows = self.rows.get(segment, [])
        return rows[slot] if 0 <= slot < len(rows) and rows[slot].known else None

    def both(self) -> list[str]:
        """List the files of which both the job and others have changed the same bytes."""
        return [os.fsdecode(story.path) for story in self.stories if story.verdict == MIXED and story.overlap]


def plan(journal: Journal, image: int) -> Plan | None:
    """Read what was done since that image; None: it is not known. Raises OSError."""
    found = journal.since(image)
    if found is None:
        return None
    made = Plan(last=found[-1].segment)
    follow = _Follow(made, os.fsencode(journal.directory))
    done: list[tuple[int, Record]] = []
    for moment in found:
        base = f"{journal.directory}/{moment.segment:08d}"
        made.rows[moment.segment] = slots.read(f"{base}.slots")
        made.sums[moment.segment] = KnownSums(f"{base}.sums")
        with open(f"{base}.undo", "rb") as file:
            found_here = list(records.unpacked(file, os.fstat(file.fileno()).st_size))
        void = {number for each in found_here if isinstance(each, Void) for number in each.numbers}
        for record in found_here:
            if isinstance(record, Void) or (isinstance(record, (Gone, Moved)) and record.number in void):
                continue
            done.append((moment.segment, record))
    noted = begun(journal.directory, made.last)
    if noted is None:
        while done and not _is_done(done[-1][1]):
            done.pop()
    elif noted.image == image:
        del done[noted.entries :]
    made.entries += [follow.entry(number, record) for number, record in done]
    for story in made.stories:
        story.verdict = _verdict(made, story)
    for number, story in enumerate(made.stories):
        if story.verdict == MIXED and story.saved:
            story.overlap = _overlaps(journal.directory, made, number)
    return made


class Begun(NamedTuple):
    """An undoing that has not come to its end: to which image, and how many steps it has."""

    image: int
    entries: int


def begun(directory: str, last: int) -> Begun | None:
    """Look for an undoing that was begun when that was the newest segment."""
    try:
        with open(f"{directory}/undoing", "rb") as file:
            noted = json.loads(file.read())
    except FileNotFoundError:
        return None
    return Begun(int(noted["image"]), int(noted["entries"])) if noted["last"] == last else None


def _is_done(record: Record) -> bool:
    """Was it done? Asked of the last ones: this process may have been killed between the record and the change."""
    if isinstance(record, Moved):
        return not which(record.old).is_it(Which(record.ino, record.born))
    return not isinstance(record, Gone) or not which(record.path).is_it(Which(record.known.ino, record.known.born))


def kept_path(directory: bytes, segment: int, name: bytes) -> bytes:
    """Where a kept file is."""
    return b"%s/%08d.kept/%s" % (directory, segment, name)


def moved(path: bytes, old: bytes, new: bytes, exchange: bool) -> bytes:
    """`path`, once what was at `old` is at `new`, and with `exchange` the other way round too."""
    for here, there in ((old, new), (new, old)) if exchange else ((old, new),):
        if path == here or path.startswith(here + b"/"):
            return there + path[len(here) :]
    return path


class _Follow:
    """Finds out, record by record, which file each is about, and where that is by now."""

    def __init__(self, made: Plan, directory: bytes) -> None:
        self._made, self._directory = made, directory
        self._known: dict[Key, int] = {}
        self._slots: dict[tuple[int, int], int] = {}

    def entry(self, segment: int, record: Record) -> Entry:
        """Take the next record."""
        number = self._take(segment, record)
        if isinstance(record, Moved) and record.other:
            return Entry(segment, record, number, self._known[record.dev, record.other])
        return Entry(segment, record, number)

    def _take(self, segment: int, record: Record) -> int:
        stories = self._made.stories
        if isinstance(record, Made):
            return self._make(segment, record)
        if isinstance(record, First):
            number = self._story((record.known.dev, record.known.ino), record.path, record.known.born)
            self._slots[segment, record.slot] = number
            stories[number].parts.append((segment, record.slot, record.known))
            stories[number].seen(record.path)
            return number
        if isinstance(record, (Data, Hole, Run)):
            number = self._slots.get((segment, record.slot), -1)
            if number >= 0 and not isinstance(record, Run):
                stories[number].saved = True
            return number
        if isinstance(record, Gone):
            return self._remove(segment, record)
        if isinstance(record, Moved):
            number = self._story((record.dev, record.ino), record.old, record.born)
            if record.other:
                self._story((record.dev, record.other), record.new, record.other_born)
            for story in stories if record.directory else [stories[number]]:
                story.path, *story.names = (
                    moved(path, record.old, record.new, bool(record.other)) for path in (story.path, *story.names)
                )
            return number
        if isinstance(record, Attribute):
            return self._story((record.dev, record.ino), record.path, record.born)
        if isinstance(record, Lost):
            self._made.lost.append((os.fsdecode(record.path), record.why))
        return -1

    def _make(self, segment: int, record: Made) -> int:
        row = self._made.row(segment, record.slot)
        if row is None or not record.fresh:
            if row is None:
                return -1
            number = self._story(row.key, b"", row.born)
            self._made.stories[number].seen(record.path)
            return number
        self._known.pop(row.key, None)  # its number was another's, which is gone
        number = self._story(row.key, record.path, row.born)
        self._made.stories[number].made = True
        self._slots[segment, record.slot] = number
        self._made.stories[number].parts.append((segment, record.slot, None))
        return number

    def _remove(self, segment: int, record: Gone) -> int:
        number = self._story((record.known.dev, record.known.ino), record.path, record.known.born)
        story = self._made.stories[number]
        if record.how in (COPY, DIRECTORY):
            self._known.pop(story.key, None)  # its number may be another's from now on
        if record.how in (LINK, COPY) and story.path == record.path:
            story.now_at(kept_path(self._directory, segment, record.what))
            story.copied = record.how == COPY
        elif record.how == records.NAME:
            story.seen(record.what)
            if story.path == record.path:
                story.now_at(record.what)
        elif record.how == records.LOST:
            self._made.lost.append((os.fsdecode(record.path), os.fsdecode(record.what)))
        return number

    def _find(self, key: Key, born: int) -> int | None:
        """The file that has that number and was made then; None: that number was another's until then."""
        number = self._known.get(key)
        return number if number is None or is_same(self._made.stories[number].born, born) else None

    def _story(self, key: Key, path: bytes, born: int) -> int:
        number = self._find(key, born)
        if number is None:
            number = self._known[key] = len(self._made.stories)
            self._made.stories.append(Story(key, path, born))
        elif path and not path.endswith(_DELETED) and not self._made.stories[number].path.startswith(self._directory):
            self._made.stories[number].now_at(path)
        return number


def _verdict(made: Plan, story: Story) -> str:
    parts = list(_parts(made, story))
    if not parts or not all(known is None or stat.S_ISREG(known.mode) for _, known in parts):
        return CLEAN
    try:
        now = os.lstat(story.path)
        if not story.copied and not which(story.path).is_it(story.which):
            return AWAY
    except OSError:
        return AWAY
    newest = parts[-1][0]
    story.cut = newest is not None and now.st_size < newest.last[0]
    if any(row is None or row.others for row, _ in parts):
        return MIXED
    lasts = [row.last for row, _ in parts if row is not None]
    if lasts[:-1] != [(known.size, known.mtime_ns) for _, known in parts[1:] if known is not None]:
        return MIXED
    last = parts[-1][0]
    assert last is not None
    if story.copied or (now.st_size, now.st_mtime_ns) == last.last:
        return CLEAN
    # A write was under way when we were killed: what it has put there is the job's.
    return CLEAN if last.end and last.last[0] <= now.st_size <= last.end else MIXED


def _overlaps(directory: str, made: Plan, number: int) -> bool:
    """Asked of a file that both have changed: something that both have?"""
    sources: dict[str, int] = {}
    try:
        layers = []
        for segment, record, story, _ in reversed(made.entries):
            if story == number and isinstance(record, (Data, Hole)):
                path = source_path(directory, segment, record)
                if path not in sources:
                    sources[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                layers.append((made.sums[segment], record, sources[path]))
        sources[""] = fd = os.open(
            made.stories[number].path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
        return undo_overlap.overlaps(fd, layers)
    except PermissionError:
        return True  # it cannot be read
    finally:
        for fd in sources.values():
            os.close(fd)


def source_path(directory: str, segment: int, record: Data | Hole) -> str:
    """Where the bytes are that a record has kept."""
    inline = isinstance(record, Data) and record.place < 0
    return f"{directory}/{segment:08d}.{'undo' if inline else 'data'}"


def _parts(made: Plan, story: Story) -> Iterator[tuple[Slot | None, Known | None]]:
    for segment, slot, known in story.parts:
        yield made.row(segment, slot), known
