"""Where all jobs with --checkpoint stand, for who lists them: of those that have ended, each record is read once.

`ended`, beside the jobs' directories, keeps what was read of them, each with what the file of its record was then. A
record is replaced by another file and never changed, so while its file is that one, what is kept of it is true. It is
there for speed alone: what is missing there, is of another version or damaged is read from the records again.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from typing import Any
from zlib import crc32

from shim.submit.api import job_report
from shim.submit.api.job_report import JobReport, SavedImage
from shim.submit.job import record
from shim.submit.job.record import JobError

_FILE, _NEW = "ended", "ended.new"
_FEW = 64  # records that are read more quickly than all that is kept is written anew
_SETTLED = 2.0  # seconds: what is younger may be replaced by a file of the same times, where clocks of files are coarse
_FIELDS = [field.name for field in fields(JobReport)]
_ENDED, _COMMAND, _HOSTS, _IMAGE = map(_FIELDS.index, ("ended", "command", "hosts", "image"))

Kept = tuple[list[int], list[Any]]  # what the record's file was, and a report's fields


def reports(since: float) -> Iterator[JobReport | JobError]:
    """Read where each job stands, the oldest first, but for those that ended before `since`; or why one cannot be read.

    What is kept is written anew, where much of it is new, once the last one is given.
    """
    top, kept = record.home(), _kept()
    found: dict[str, Kept] = {}
    read = 0
    for name in record.names():
        known = kept.get(name)
        if known is not None and known[0] == _file(f"{top}/{name}/job.json"):
            found[name] = known
            if known[1][_ENDED] >= since:
                yield _report(known[1])
            continue
        try:
            report, file = job_report.read(record.Job(top / name))
        except JobError as error:
            yield error
            continue
        if report.ended is not None and report.ended < time.time() - _SETTLED:
            found[name] = _what(file), _values(report)
            read += 1
        if report.ended is None or report.ended >= since:
            yield report
    if read + len(kept.keys() - found.keys()) >= _FEW:
        _keep(found)


def _file(path: str) -> list[int] | None:
    with suppress(OSError):
        return _what(os.stat(path))
    return None


def _what(found: os.stat_result) -> list[int]:
    return [found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size]


def _values(report: JobReport) -> list[Any]:
    values = [getattr(report, name) for name in _FIELDS]
    image = report.image
    values[_IMAGE] = image and [image.number, image.at, image.size]
    return values


def _report(values: list[Any]) -> JobReport:
    values = list(values)
    values[_COMMAND], values[_HOSTS] = tuple(values[_COMMAND]), tuple(values[_HOSTS])
    if values[_IMAGE] is not None:
        values[_IMAGE] = SavedImage(*values[_IMAGE])
    return JobReport(*values)


def _kept() -> dict[str, Kept]:
    """Return what is kept of each job, by the name of its directory."""
    try:
        with open(f"{record.home()}/{_FILE}", "rb") as file:
            head, _, body = file.read().partition(b"\n")
    except OSError:
        return {}
    found: dict[str, Kept] = json.loads(body) if head == _head(body) else {}
    return found


def _head(body: bytes) -> bytes:
    """Return the line before what is kept: what it consists of, and the sum by which it is known to be whole."""
    return json.dumps([_FIELDS, crc32(body)]).encode()


def _keep(found: dict[str, Kept]) -> None:
    body = json.dumps(found, separators=(",", ":")).encode()
    top = record.home()
    with suppress(OSError):  # no room, or not ours to write: the records are there all the same
        fd = os.open(top / _NEW, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # else another keeps what it has found, as good as this
            if os.fstat(fd).st_ino != os.stat(top / _NEW).st_ino:
                return  # another has put it in its place meanwhile
            file.truncate()
            file.write(_head(body) + b"\n" + body)
            file.flush()
            os.rename(top / _NEW, top / _FILE)
