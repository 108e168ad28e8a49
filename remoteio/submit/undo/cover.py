"""Which bytes of one file must be saved before the job changes it. Pure.

Bytes that the job itself has put there since the moment need not be. As long as nobody else changes the file these are
all behind its size as it was then, so that a file that only grows costs one comparison at each write.
"""

from __future__ import annotations

from remoteio.submit.undo.ranges import Ranges

State = tuple[int, int]  # size in bytes and mtime in ns: whoever changes the contents changes one of them
BLOCK = 4096  # bytes saved at once, as a filesystem can share them


class Cover:
    """Knows of one file since one moment.

    upto     bytes from its beginning that must be saved before they are overwritten, but for `saved`
    run      where what the job has added begins; others' bytes are before it
    last     how the job has left it
    others   have they changed it since the job's first change?
    """

    __slots__ = ("last", "others", "run", "saved", "upto")

    def __init__(self, size: int, last: State) -> None:
        """`size`: of it, at the moment: 0 of a file that the job has made since."""
        self.upto = self.run = size
        self.last = last
        self.saved = Ranges()
        self.others = False

    def foreign(self, now: State) -> tuple[int, int]:
        """Take note that others have made it what it is now: (start, end) of what the job had added; it may be empty.

        What is there now may be theirs, and so is saved from here on.
        """
        run = (self.run, max(self.last[0], self.run))
        self.others = True
        self.run, self.last = now[0], now
        self.upto = max(self.upto, now[0])
        return run

    def needs(self, start: int, end: int) -> list[tuple[int, int]]:
        """List what must be saved before [start, end) is changed, in whole blocks; it is taken for saved then."""
        end = min(end, self.upto)
        if start >= end:
            return []
        start, end = start // BLOCK * BLOCK, min(-(-end // BLOCK) * BLOCK, self.upto)
        found = self.saved.missing(start, end)
        self.saved.add(start, end)
        return found
