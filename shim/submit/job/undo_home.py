"""Keeps a job's undo journal from one generation to the next, and has its files put back by it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from checkpoint.wire.manifest import Manifest, WrittenFile
from remoteio.submit.undo.journal import Journal
from remoteio.submit.undo.moments import Moments
from remoteio.submit.undo.watch import Watch
from shim.submit.job import file_rollback, pins, undo_plan
from shim.submit.job.undo_files import Undoing
from shim.submit.job.undo_plan import Plan

ROLLBACK, KEEP = "rollback", "keep"  # --files


def journal_of(job: Path) -> Journal:
    """Open the journal of the job that has this directory, to read it."""
    return Journal(os.fspath(job / "undo"))


class JobUndo:
    """Holds the journal of the job that has the directory `job`; with `keeps` false it has none, and undoes nothing.

    watch    what a generation's export tells of changes; None: nobody is told
    """

    def __init__(
        self, job: Path, keeps: bool, limit: int, full: Callable[[], None], lost: Callable[[str], None]
    ) -> None:
        """`full`, `lost`: as of Journal."""
        self._directory = job / "undo"
        self._journal = Journal(os.fspath(self._directory), limit, full, lost) if keeps else None
        self.watch = Watch(self._journal) if self._journal is not None else None
        self._renewed = _renewed(self._directory)

    def mark(self, serial: int) -> None:
        """See Journal.mark."""
        if self._journal is not None:
            self._journal.mark(serial)

    def go_on(self) -> None:
        """Go on after a supervisor that was killed: what the job does from now on comes after what it has done."""
        if self._journal is not None and self._journal.moments:
            self._journal.mark(0)

    def unmark(self) -> None:
        """See Journal.unmark."""
        if self._journal is not None:
            self._journal.unmark()

    def bind(self, serial: int, image: int) -> None:
        """See Journal.bind."""
        if self._journal is not None:
            self._journal.bind(serial, image)

    def settle(self) -> None:
        """See Journal.settle."""
        if self._journal is not None:
            self._journal.settle()

    def retain(self, images: Iterable[int]) -> None:
        """See Journal.retain."""
        if self._journal is not None:
            self._journal.retain((*images, self.begun))

    @property
    def begun(self) -> int:
        """To which image the files have begun to go back: an undoing was cut short; 0: none was."""
        moments = self._journal.moments if self._journal is not None else ()
        found = undo_plan.begun(os.fspath(self._directory), moments[-1].segment) if moments else None
        return found.image if found is not None else 0

    def is_past(self, image: int) -> bool:
        """Have the files begun to go back further than to that image?"""
        begun = self.begun
        found = self._journal.since(begun) if self._journal is not None and begun else None
        return any(moment.image == image for moment in (found or ())[1:])

    def begin(self, image: int) -> None:
        """See Journal.begin."""
        if self._journal is not None:
            self._journal.begin(image)

    def close(self) -> None:
        """See Journal.close."""
        if self._journal is not None:
            self._journal.close()

    def forget(self) -> None:
        """Remove it: no image is left to go back to. Raises OSError."""
        self.close()
        if self._directory.exists():
            shutil.rmtree(self._directory)

    def plan(self, image: int) -> Plan | None:
        """Read what is to be undone to go back to that image; None: it is not known. Raises OSError."""
        return None if self._journal is None else undo_plan.plan(self._journal, image)

    def undo(self, plan: Plan, image: int, mark: str, kept: Path) -> list[str]:
        """Put the files back; sentences of those that are not simply as they were. Raises OSError, KeepError.

        `mark`, `kept`: as of Undoing.
        """
        assert self._journal is not None
        undoing = Undoing(self._journal, plan, image, mark, kept)
        done = undoing.run()
        if done.renewed:
            before = {old: done.renewed.get(new, new) for old, new in self._renewed.items()}  # made anew once more
            self._renewed = {**done.renewed, **before}
            new = self._directory / "renewed.new"
            new.write_text(json.dumps([list(pair) for pair in self._renewed.items()]))
            os.rename(new, self._directory / "renewed")
        self._journal.begin(image)
        undoing.end()
        return done.said

    def as_now(self, image: Manifest) -> Manifest:
        """The same image, with the inode numbers of files that had to be made anew."""
        return _as_now(image, self._renewed)

    def look(self, image: Manifest, plan: Plan) -> file_rollback.Look:
        """Compare the files with the image, but for those that the plan gives back. Nothing is changed."""
        return _look(self._directory.parent, image, plan, self._renewed)


def look(job: Path, image: Manifest, plan: Plan) -> file_rollback.Look:
    """See JobUndo.look; of the job with this directory, which has no supervisor."""
    return _look(job, image, plan, _renewed(job / "undo"))


def _look(job: Path, image: Manifest, plan: Plan, renewed: dict[int, int]) -> file_rollback.Look:
    found = file_rollback.look(_as_now(image, renewed), {}, pins.covered(job, image.number))
    given_back = _touched(plan)
    found.changed[:] = [named for named in found.changed if not _among(named.path, given_back)]
    for path, why in plan.lost:
        found.changed.append(file_rollback.Named(path, f"{path} has been changed, and {why},", 0))
    return found


def _as_now(image: Manifest, renewed: dict[int, int]) -> Manifest:
    if not renewed:
        return image
    stats, rows = dict(image.stats), image.stats.get("open")
    if isinstance(rows, list):
        stats["open"] = [[path, renewed.get(inode, inode), how] for path, inode, how in rows]
    written = tuple(
        WrittenFile(each.path, each.size, each.mtime_ns, renewed.get(each.inode, each.inode)) for each in image.written
    )
    fields = {name.lstrip("_"): getattr(image, name.lstrip("_")) for name in Manifest.__slots__}
    return Manifest(**{**fields, "written": written, "stats": stats})


def known(job: Path) -> Moments:
    """List the moments that the journal of the job with this directory knows."""
    return journal_of(job).moments


def _touched(plan: Plan) -> frozenset[str]:
    """The names that are given back, or away, as the plan is undone."""
    found = set()
    for each in plan.entries:
        for name in ("path", "old", "new"):
            path = getattr(each.record, name, None)
            if isinstance(path, bytes):
                found.add(os.fsdecode(path))
    return frozenset(found)


def _among(path: str, names: frozenset[str]) -> bool:
    """Is it one of those names, or beneath one?"""
    while path not in ("", "/"):
        if path in names:
            return True
        path = os.path.dirname(path)
    return False


def _renewed(directory: Path) -> dict[int, int]:
    try:
        return dict(json.loads((directory / "renewed").read_bytes()))
    except (OSError, ValueError):
        return {}
