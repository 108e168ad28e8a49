"""A directory of a job's, and an operation at home that waits as long as a test says."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from remoteio.submit.export.reply import Reply


class HeldHome:
    """A directory `here`, seen by the job as `there`."""

    def __init__(self, top: Path) -> None:
        self.here, self.there, self._gate = top / "here", top / "there", top / "gate"
        for each in (self.here, self.there):
            each.mkdir()
        self._gate.touch()
        (self.here / "mark").touch()

    def waits(self, do: Callable[..., Reply]) -> Callable[..., Reply]:
        """The operation, which waits at home as long as `held`."""

        def waiting(*args: object) -> Reply:
            with self._gate.open() as gate:
                fcntl.flock(gate, fcntl.LOCK_SH)
                return do(*args)

        return waiting

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have nothing of it done at home."""
        with self._gate.open() as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            yield

    def all_done(self) -> None:
        """Wait until all is done here that the job did so far: home is asked for this, and in its order."""
        (self.there / "mark").rename(self.there / "mark too")
        (self.there / "mark too").rename(self.there / "mark")
