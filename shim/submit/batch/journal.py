"""The journal of a batch as its supervisor has it: in mind as on the disk, and what others ask in it."""

from __future__ import annotations

from collections.abc import Mapping

from shim.submit.batch import story
from shim.submit.batch.record import Directory
from shim.submit.batch.story import Order


class Journal:
    """What has become of a batch, which this process alone adds to, but for what is asked."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        data = directory.journal()
        self.story = story.told(directory.batch().count, data)
        self._read = data.rfind(b"\n") + 1

    def note(self, job: int, state: str, **more: object) -> None:
        """Put down what a job is now."""
        self.add({"job": job, "is": state, **more})

    def add(self, *rows: Mapping[str, object]) -> None:
        """Put rows on record, then in mind."""
        end = self._directory.add(*rows)
        for row in rows:
            self.story.take(row, end)

    def orders(self) -> list[Order]:
        """Return what was asked and is not answered yet, in order."""
        with open(self._directory.path / "journal", "rb") as journal:
            journal.seek(self._read)
            data = journal.read()
        for row, end in story.rows(data, self._read):
            self._read = end
            if "ask" in row:
                self.story.take(row, end)
        return list(self.story.asked)
