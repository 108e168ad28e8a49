"""Copies of what a job's files held before it went on from an image, in `kept/` of its directory.

A copy is there whole under its name or not at all: it is written under another, and renamed when it is on the disk.
One process at a time writes there, the job's supervisor (shim/submit/job/home.py), which does it under a lock.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from checkpoint.durable import sync_directory
from remoteio.errors import RexecError

_BLOCK = 1 << 20
_PART = "copy.part"
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class KeepError(RexecError):
    """No copy could be made: why and what to do, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Tail:
    """What was cut off a file.

    path    the file, absolute
    inode   its inode number
    start   how much of it stayed, in bytes
    copy    where what came after is
    """

    path: str
    inode: int
    start: int
    copy: Path

    def is_there_again(self) -> bool:
        """Tell whether the file holds the same bytes again, in the same place, so that the copy is not needed."""
        try:
            with open(os.open(self.path, _READ), "rb") as file:
                return os.fstat(file.fileno()).st_ino == self.inode and self.same(file.fileno(), longer=True)
        except OSError:
            return False

    def same(self, fd: int, longer: bool = False) -> bool:
        """Tell whether `fd` holds these bytes there, and with `longer` perhaps more behind them. Raises OSError."""
        return _same(self.copy, fd, self.start, longer)


def _same(kept: Path, fd: int, start: int, longer: bool = False) -> bool:
    at = start
    with kept.open("rb") as copy:
        while block := copy.read(_BLOCK):
            if os.pread(fd, len(block), at) != block:
                return False
            at += len(block)
    return longer or os.fstat(fd).st_size == at


def keep(path: str, directory: Path, mark: str, start: int = 0) -> Path:
    """Copy `path`, from byte `start` on, into `directory`, as its name and `mark`; where the copy is, on the disk.

    Holes stay holes. Raises KeepError.
    """
    try:
        source = os.open(path, _READ)
    except PermissionError as error:
        raise KeepError(f"it cannot be read to keep a copy of it ({error.strerror}): `chmod u+r` it") from error
    except OSError as error:
        raise KeepError(f"it cannot be read to keep a copy of it: {error.strerror}") from error
    try:
        return _keep(source, os.path.basename(path), directory, mark, start)
    except OSError as error:
        raise KeepError(f"no copy of it can be kept in {directory}: {error.strerror}; make room there") from error
    finally:
        os.close(source)


def _keep(source: int, name: str, directory: Path, mark: str, start: int) -> Path:
    directory.mkdir(mode=0o700, exist_ok=True)
    st = os.fstat(source)
    for number in range(1, 1 << 20):
        copy = directory / f"{name[:200]}.{mark}{f'.{number}' if number > 1 else ''}"
        try:
            before = os.stat(copy, follow_symlinks=False)
        except FileNotFoundError:
            break
        alike = (before.st_size, before.st_mtime_ns) == (max(st.st_size - start, 0), st.st_mtime_ns)
        if alike and _same(copy, source, start):
            return copy  # of an attempt that failed afterwards
    else:
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), str(directory))
    part = directory / _PART
    part.unlink(missing_ok=True)  # of a supervisor that was killed
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb", buffering=0):
            copy_data(source, fd, start, st.st_size)
            os.utime(fd, ns=(st.st_mtime_ns, st.st_mtime_ns))
            os.fsync(fd)
        os.rename(part, copy)
    except OSError:
        part.unlink()
        raise
    sync_directory(directory)
    return copy


def copy_data(source: int, target: int, start: int, size: int, go_on: Callable[[], bool] = lambda: True) -> None:
    """Copy what is in `source` from `start` to its end, as it is by then, but not the holes below `size`.

    `go_on`: False: no more of it is wanted. Raises OSError.
    """
    at = start
    while at < size and go_on():
        try:
            data = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # there is only a hole from there on
        hole = os.lseek(source, data, os.SEEK_HOLE)
        at = data
        while at < hole and go_on():
            block = os.pread(source, min(_BLOCK, hole - at), at)
            if not block:
                break
            view = memoryview(block)
            while view:
                done = os.pwrite(target, view, at - start)
                view, at = view[done:], at + done
        at = max(at, hole)
    os.ftruncate(target, max(size - start, os.fstat(target).st_size, 0))
