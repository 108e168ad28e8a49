"""The manifest of an image: what the host that made it says, and what is known here."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from checkpoint.wire.manifest import ImageFile, Manifest, Streams, WrittenFile
from remoteio.submit.export.carried_locks import Held
from remoteio.submit.export.written_files import OpenFiles, Row
from shim.submit.job import image_head, image_locks
from shim.submit.job.placement_events import Committed
from shim.wire.job_spec import JobSpec


@dataclass(frozen=True, slots=True)
class Run:
    """Which image of which job it is, and where the job ran."""

    job: str
    number: int
    generation: int
    host: str
    spec: JobSpec


@dataclass(frozen=True, slots=True)
class Seen:
    """The job's files as its dump saw them: see `written`, OpenFiles and carried_locks.held."""

    written: tuple[WrittenFile, ...]
    opened: OpenFiles
    held: list[Held]

    def unfit(self) -> str:
        """Say why nothing could go on from the image; "" if that could."""
        if not self.opened.moved:
            return ""
        path, removed = self.opened.moved[0]
        more = f" (and {len(self.opened.moved) - 1} more)" if self.opened.moved[1:] else ""
        if removed:
            return f"{os.fsdecode(path)}{more}, which the job has open, has just been removed at home: try again"
        return (
            f"{os.fsdecode(path)}{more}, which the job has open, has been renamed or replaced at home: put it back, or "
            "try again when the job has closed it"
        )


def manifest(run: Run, head: bytes, files: tuple[ImageFile, ...], seen: Seen) -> Manifest:
    """Make it of a dump that came with that `head` (shim/wire/job_messages.py). Raises ShapeError for a head that is
    none, and ManifestError.
    """
    said = image_head.parsed(head)
    counted, facts = Streams(**said.pop("streams")), said.pop("facts")
    said["locks"] = image_locks.rows(seen.held, said.pop("handles", []), said.pop("numbers", {}))
    said["open"] = [[os.fsdecode(path), inode, writable] for path, inode, writable in seen.opened.rows]
    called = {os.fsdecode(path): os.fsdecode(now) for path, now in seen.opened.called}
    said["called"] = list(called.items())
    called |= {os.fsdecode(pin.path): os.fsdecode(pin.path) for pin, _ in seen.opened.pinned}
    for mapped in ("mapped", "private"):
        said[mapped] = [called.get(path.removesuffix(" (deleted)"), path) for path in said.get(mapped, [])]
    spec = run.spec
    environment = [os.fsdecode(item).partition("=") for item in spec.env]
    return Manifest(
        job=run.job,
        number=run.number,
        generation=run.generation,
        time_ns=time.time_ns(),
        host=run.host,
        argv=tuple(os.fsdecode(word) for word in spec.argv),
        cwd=os.fsdecode(spec.cwd),
        env=tuple((name, value) for name, _, value in environment),
        uid=spec.uid,
        gid=spec.gid,
        tty=bool(spec.tty),
        streams=counted,
        files=files,
        written=seen.written,
        facts=facts,
        stats=said,
    )


def committed(generation: int, serial: int, image: Manifest, added: int) -> Committed:
    """Make the event that tells of it."""
    kinds = image.stats.get("kinds")
    return Committed(generation, serial, image.number, added, frozenset(kinds if isinstance(kinds, list) else ()))


def bare(image: Manifest, replaced: list[str]) -> Manifest:
    """Leave out what only home needs: the chunks' tables and the files; `replaced`: those whose names are another's."""
    fields = (
        "job",
        "number",
        "generation",
        "time_ns",
        "host",
        "argv",
        "cwd",
        "uid",
        "gid",
        "tty",
        "streams",
        "facts",
    )
    stats = {**image.stats, "open": [], "mapped": [], "private": [], "replaced": replaced}
    return Manifest(**{name: getattr(image, name) for name in fields}, env=(), files=(), written=(), stats=stats)


def written(rows: list[Row], before: tuple[WrittenFile, ...]) -> tuple[WrittenFile, ...]:
    """List what this generation wrote (WrittenFiles.rows) and, as it is now, what those `before` it did."""
    found = {os.fsdecode(path): WrittenFile(os.fsdecode(path), *rest) for path, *rest in rows}
    for old in before:
        if old.path not in found and (now := _as_now(old)) is not None:
            found[old.path] = now
    return tuple(found[path] for path in sorted(found))


def _as_now(file: WrittenFile) -> WrittenFile | None:
    """The same file as it is now; None if it is not there any more."""
    try:
        now = os.stat(file.path, follow_symlinks=False)
    except OSError:
        return None
    return WrittenFile(file.path, now.st_size, now.st_mtime_ns, now.st_ino) if now.st_ino == file.inode else None
