"""A job's files put back to what its image saw, as far as that can be done: what was appended since is cut off."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from checkpoint.manifest import WrittenFile


@dataclass(frozen=True, slots=True)
class Look:
    """What is to be done: `cut` has (path, size, mtime_ns), `changed` a clause for each that cannot be put back."""

    cut: tuple[tuple[str, int, int], ...]
    changed: tuple[str, ...]


def look(written: Iterable[WrittenFile], after: Iterable[WrittenFile] = ()) -> Look:
    """Compare the files with what an image recorded; `after`: as they were when the job had left for good.

    The last writes of a job's mount come after the record, so a time that `after` has is right too.
    """
    later = {file.path: file for file in after}
    cut: list[tuple[str, int, int]] = []
    changed: list[str] = []
    for file in written:
        try:
            now = os.stat(file.path, follow_symlinks=False)
        except OSError as error:
            changed.append(
                f"{file.path} has been removed"
                if error.errno in (errno.ENOENT, errno.ENOTDIR)
                else f"{file.path} cannot be looked at ({error.strerror}), so it may have been changed"
            )
            continue
        times = {file.mtime_ns, later[file.path].mtime_ns if file.path in later else file.mtime_ns}
        if now.st_ino != file.inode or not stat.S_ISREG(now.st_mode):
            changed.append(f"{file.path} has been replaced by another file")
        elif now.st_size < file.size:
            changed.append(f"{file.path} has been cut from {file.size} to {now.st_size} bytes")
        elif now.st_size > file.size:
            cut.append((file.path, file.size, file.mtime_ns))
        elif now.st_mtime_ns not in times:
            changed.append(f"{file.path} has been changed")
    return Look(tuple(cut), tuple(changed))


def settled(after: Sequence[Any], number: int) -> list[WrittenFile]:
    """Record.after, if it is about that image: the files as they were when the job had left its host with it."""
    return [WrittenFile(*row) for row in after[1:]] if after and after[0] == number else []


def cut_back(files: Iterable[tuple[str, int, int]]) -> None:
    """Shorten the files (path, size, mtime_ns). Raises OSError.

    The time too is as the image saw it: where the host chosen then will not do, the files are looked at again.
    """
    for path, size, mtime_ns in files:
        os.truncate(path, size)
        os.utime(path, ns=(mtime_ns, mtime_ns))
