"""Keep the bytes of the files that an image has mapped or open to be read, should others replace these later.

    jobs/ID/pins/N/rows    what is kept for image N: of each file what a Pin says, as JSON
    jobs/ID/pins/N/NAME    a link to its bytes
    pins/NAME              the same bytes, for all images of all jobs; NAME is made of what tells the file from others

So what no image needs any more has one link, and nobody counts. What was kept before, an image has at its commit; the
rest is copied after it, beside the job. A file that is another by then is not kept.

Why so: docs/decisions/pins.md.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path

from checkpoint.durable import sync_directory
from checkpoint.submit import xdg
from checkpoint.wire.manifest import Manifest
from remoteio.submit.export.pinned import Pin
from remoteio.submit.export.room import left_free
from remoteio.submit.export.written_files import OpenFiles
from shim.submit import threads
from shim.submit.job import file_rollback
from shim.submit.job.kept_copies import copy_data
from shim.submit.units import size as sized

MOST_FILE = 1 << 30  # bytes of one file that are kept
MOST_BYTES = 4 << 30  # for all images of one job
MOST_FILES = 4096  # of one image

_FICLONE = 0x40049409  # linux/fs.h
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
Read = list[tuple[bytes, os.stat_result]]


class Unkept(Exception):
    """A file is not kept: why, as the end of a sentence."""


def pool() -> Path:
    """Name the directory that all jobs share."""
    return xdg.state() / "pins"


def rows(job: Path, number: int) -> list[Pin]:
    """List what is kept for that image of the job that has this directory."""
    try:
        said = json.loads((_of(job, number) / "rows").read_bytes())
        return [
            Pin(os.fsencode(path), int(device), int(inode), int(size), int(mtime), str(name))
            for path, device, inode, size, mtime, name in said
        ]
    except (OSError, ValueError, TypeError):
        return []  # nothing is, or it is damaged: then it is as if nothing were


def covered(job: Path, number: int) -> dict[str, Pin]:
    """List by path what an image's processes can be shown, whatever the names lead to now."""
    return {os.fsdecode(pin.path): pin for pin in rows(job, number) if _is_whole(_of(job, number) / pin.name, pin)}


def _is_whole(kept: Path, pin: Pin) -> bool:
    above = os.path.dirname(pin.path)
    try:
        if os.stat(kept, follow_symlinks=False).st_size != pin.size:
            return False
    except OSError:
        return False
    return os.path.isdir(above) and os.path.realpath(above) == above  # else criu's way does not lead there


def opened(job: Path, image: Manifest) -> list[tuple[Pin, int]]:
    """Open what is kept for an image of files that are others by now. Raises OSError.

    A file that was written to is another for who has mapped it for himself: a program, a library. Who reads what others
    add to it reads on.
    """
    inodes = {path: inode for path, inode, _ in file_rollback.opened(image)}
    private = image.stats.get("private")
    mapped = frozenset(private if isinstance(private, list) else ())
    found = covered(job, image.number)
    return [
        (pin, os.open(_of(job, image.number) / pin.name, _READ))
        for path, pin in found.items()
        if not _is_same(pin, inodes.get(path, pin.inode), path in mapped)
    ]


def _is_same(pin: Pin, inode: int, mapped: bool) -> bool:
    try:
        now = os.stat(pin.path, follow_symlinks=False)
    except OSError:
        return False
    written = (now.st_size, now.st_mtime_ns) != (pin.size, pin.mtime_ns)
    return stat.S_ISREG(now.st_mode) and now.st_ino == inode and not (mapped and written)


def remove(job: Path, numbers: Iterable[int]) -> None:
    """Remove what is kept for these images of the job that has this directory. Raises OSError."""
    for number in numbers:
        with suppress(FileNotFoundError):
            shutil.rmtree(_of(job, number))
    sweep()


def sweep() -> None:
    """Remove bytes that no image needs any more. Raises OSError."""
    with suppress(FileNotFoundError), os.scandir(pool()) as found:
        for entry in found:
            with suppress(FileNotFoundError):  # another rexec was faster; who has just linked to it has it all the same
                if os.stat(entry.path, follow_symlinks=False).st_nlink == 1:
                    os.unlink(entry.path)


class Pins:
    """Keeps the bytes for the images of the job that has the directory `job`.

    Threads: `begin` and `keep` are called by one intake after the other, all else by any; what is written to the disk
    is written under `_lock`.
    """

    def __init__(self, job: Path, told: Callable[[str], None]) -> None:
        """`told`: is given a sentence where a file is not kept."""
        self._job, self._told = job, told
        self._lock, self._over = threading.Lock(), False
        self._read: Read = []
        self._said: set[bytes] = set()

    def begin(self, number: int, files: OpenFiles) -> None:
        """Keep for an image that is about to be committed what was kept for one before: this copies next to nothing."""
        self._read = files.read
        try:
            with self._lock:
                there = self._make(number)
                for pin, fd in files.pinned:
                    if not _linked(pin.name, there):
                        self._copy(fd, os.fstat(fd), there / pin.name)
                before = [pin for path, st in files.read for pin in [_pin(path, st)] if _linked(pin.name, there)]
                _write(there, [*(pin for pin, _ in files.pinned), *before])
        except (OSError, Unkept) as error:
            self._fails(number, error)

    def keep(self, number: int, images: Collection[int]) -> None:
        """Begin to keep the other files of an image that is committed; those of none of `images` are let go."""
        read, self._read = self._read, []
        if not threads.begin(lambda: self._run(number, read, images)):
            self._fails(number, "this machine gives no thread for it; raise `ulimit -u`")

    def close(self) -> None:
        """Keep nothing more: the job is over."""
        self._over = True

    def forget(self) -> None:
        """Remove all: no image is left. Raises OSError."""
        self.close()
        with self._lock:
            remove(self._job, self._numbers())

    def _fails(self, number: int, why: object) -> None:
        why = why.strerror if isinstance(why, OSError) else why
        self._told(f"not all files that image {number} has open are kept in {self._job / 'pins'}: {why}")

    def _run(self, number: int, read: Read, images: Collection[int]) -> None:
        try:
            with self._lock:
                if gone := self._numbers() - set(images):
                    remove(self._job, gone)
                self._keep(number, read)
        except OSError as error:
            self._fails(number, error)

    def _keep(self, number: int, read: Read) -> None:
        there, kept = _of(self._job, number), rows(self._job, number)
        paths = {pin.path for pin in kept}
        bytes_of = {pin.name: pin.size for each in self._numbers() for pin in rows(self._job, each)}
        unkept: list[tuple[bytes, str]] = []
        # the smallest first: of programs and libraries none is as large as data may be
        for path, st in sorted(read, key=lambda each: each[1].st_size):
            if self._over:
                return
            if path in paths:
                continue
            pin = _pin(path, st)
            bytes_of[pin.name] = pin.size
            try:
                if pin.size > MOST_FILE:
                    raise Unkept(f"it is larger than {sized(MOST_FILE)}")
                if len(kept) >= MOST_FILES or sum(bytes_of.values()) > MOST_BYTES:
                    raise Unkept(f"{len(kept):,} files of this job are, of {sized(MOST_BYTES)} at most")
                self._take(pin, st, there)
            except Unkept as why:
                del bytes_of[pin.name]
                unkept.append((path, str(why)))
            else:
                kept.append(pin)
        _write(there, kept)
        self._tell(number, [each for each in unkept if each[0] not in self._said])

    def _tell(self, number: int, unkept: list[tuple[bytes, str]]) -> None:
        self._said.update(path for path, _ in unkept)
        for path, why in unkept[:1]:
            more = f" (and {len(unkept) - 1} more)" if unkept[1:] else ""
            self._told(f"{os.fsdecode(path)}{more}, which image {number} has open, is not kept: {why}")

    def _take(self, pin: Pin, st: os.stat_result, there: Path) -> None:
        """Keep one file, if it is still as `st` says. Raises Unkept, OSError."""
        try:
            source = os.open(pin.path, _READ)
        except OSError as error:
            raise Unkept(f"it cannot be opened ({error.strerror})") from error
        try:
            if _pin(pin.path, os.fstat(source)) != pin:
                raise Unkept("it is another by now")
            if not _linked(pin.name, there):
                self._copy(source, st, there / pin.name)
        finally:
            os.close(source)

    def _copy(self, source: int, st: os.stat_result, target: Path) -> None:
        """Copy what is open as `source`, and is as `st` says, to where all jobs find it. Raises Unkept, OSError."""
        part = self._job / "pins" / "part"
        part.unlink(missing_ok=True)  # of a supervisor that was killed
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if st.st_size > left_free(fd):
                raise Unkept("it would take the last free space here")
            self._fill(fd, source, st)
            now = os.fstat(source)
            if (now.st_size, now.st_mtime_ns) != (st.st_size, st.st_mtime_ns) or self._over:
                raise Unkept("it was changed meanwhile")
            xdg.make(pool())
            with suppress(FileExistsError):
                os.link(part, pool() / target.name)
            os.rename(part, target)
        finally:
            os.close(fd)
            part.unlink(missing_ok=True)

    def _fill(self, fd: int, source: int, st: os.stat_result) -> None:
        try:
            fcntl.ioctl(fd, _FICLONE, source)
        except OSError:  # another filesystem, or one whose files share no bytes
            try:
                copy_data(source, fd, 0, st.st_size, lambda: not self._over)
            except OSError as error:
                raise Unkept(f"it cannot be copied: {error.strerror}") from error
        if os.geteuid() == 0:
            os.fchown(fd, st.st_uid, st.st_gid)
        os.fchmod(fd, st.st_mode & 0o777 | stat.S_IRUSR)
        os.utime(fd, ns=(st.st_atime_ns, st.st_mtime_ns))
        os.fsync(fd)

    def _make(self, number: int) -> Path:
        there = _of(self._job, number)
        with suppress(FileNotFoundError):
            shutil.rmtree(there)  # of an image that was not committed
        xdg.make(there)
        return there

    def _numbers(self) -> set[int]:
        try:
            return {int(name) for name in os.listdir(self._job / "pins") if name.isdigit()}
        except FileNotFoundError:
            return set()


def _of(job: Path, number: int) -> Path:
    return job / "pins" / str(number)


def _pin(path: bytes, st: os.stat_result) -> Pin:
    """Name the file: of two with one name, one is a copy of the other, or nobody can tell them apart."""
    told = (
        f"{st.st_dev} {st.st_ino} {st.st_size} {st.st_mtime_ns} {st.st_ctime_ns} {st.st_mode} {st.st_uid} {st.st_gid}"
    )
    name = hashlib.sha256(told.encode()).hexdigest()[:32]
    return Pin(path, st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns, name)


def _linked(name: str, there: Path) -> bool:
    """Link what is kept under that name already; False: nothing is."""
    try:
        os.link(pool() / name, there / name)
    except FileExistsError:
        return True  # the job has the file by two names
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EMLINK):
            raise
        return False
    return True


def _write(there: Path, pins: list[Pin]) -> None:
    """Write down what is kept: all of it, or what was written before, is there after a power cut. Raises OSError."""
    new = there / "rows.new"
    with new.open("w") as file:
        json.dump([[os.fsdecode(path), *rest] for path, *rest in pins], file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(new, there / "rows")
    sync_directory(there)
