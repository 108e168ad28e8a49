"""Which steps of undoing may be done once more after a power cut, though later ones have been done by then. Pure.

What was done since the last time that all was on the disk is done again from there: a filesystem has kept what was done
to names up to some step, it is not known which, and of contents any. A step is then done in a tree in which later ones
may have been done, too; where it would find what those have left, all has to be on the disk between the two.
"""

from __future__ import annotations

from remoteio.submit.undo.records import Gone, Made, Moved
from shim.submit.job.undo_plan import Entry


class Window:
    """The steps since all was on the disk.

    A name that is taken away once more is not there; a name that is given once more is too much, if it was taken away
    since, or is another's, if it was given since. A file is found by the names that it had then.
    """

    def __init__(self) -> None:
        self._named: set[bytes] = set()  # names that were given or taken away
        self._given: dict[bytes, int] = {}  # those that were given; to which file, if it was by renaming
        self._changed: set[int] = set()  # files that something else was done to

    def clear(self) -> None:
        """Begin anew: all is on the disk."""
        self._named.clear()
        self._given.clear()
        self._changed.clear()

    def bears(self, entry: Entry) -> bool:
        """May that step be done without all before it being on the disk?"""
        record = entry.record
        if not isinstance(record, (Made, Gone, Moved)):
            return True
        if isinstance(record, Moved) and record.directory:
            return not (self._named or self._changed)
        if entry.story in self._changed:
            return False
        gives, takes = _names(record)
        if gives in self._named:
            return False
        # What was renamed to a name is not renamed once more: it is no longer where it was.
        return takes not in self._given or (isinstance(record, Made) and self._given[takes] == entry.story)

    def add(self, entry: Entry) -> bool:
        """Take note that it was done. False: now all is to be on the disk before anything else is done."""
        record = entry.record
        if not isinstance(record, (Made, Gone, Moved)):
            self._changed.add(entry.story)
            return True
        gives, takes = _names(record)
        self._named.update(name for name in (gives, takes) if name)
        if gives:
            self._given[gives] = entry.story if isinstance(record, Moved) else -1
        return not (isinstance(record, Moved) and record.directory)


def _names(record: Made | Gone | Moved) -> tuple[bytes, bytes]:
    """The name that is given as the record is undone, and the one that is taken away; b"": none."""
    if isinstance(record, Moved):
        return record.old, record.new
    return (b"", record.path) if isinstance(record, Made) else (record.path, b"")
