"""What a job has in directories of the host that are its own, /dev, /dev/shm and --scratch: into its image and back.

Shipped. Init does it, in the job's root and with the ids that the job has: at a dump while the tree stands still, at a
restore before criu begins. So a file there is found again whether it is open, mapped or neither; what is open and has
no name any more is criu's.

Two files among the image's: INDEX, JSON, for each directory a list of Row.plain, a directory before what is in it; and
CONTENTS, what the files hold, without holes, where the rows say. What is large begins at a multiple of WINDOW there,
so that it is cut at the same places in each image (checkpoint/execute/chunker.py).

What the directories held when they were made, a device or a link of /dev, every host has, and is passed over; so is
whatever lies on another filesystem.
"""

from __future__ import annotations

import errno
import json
import os
import stat

from checkpoint.value import Value
from checkpoint.wire.manifest import WINDOW
from remoteio.errors import RexecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

INDEX, CONTENTS = "rexec-index.img", "rexec-contents.img"
MOST_BYTES, MOST_FILES = 4 << 30, 100_000
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a lease on it would have us wait for the job
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK)
_XATTRS = ("user.", "system.posix_acl_")


class Place(Value):
    """A directory of the job's own.

    path    as the job calls it
    fd      open
    before  (name, inode) of what was in it at first
    """

    __slots__ = ("before", "fd", "path")
    path: str
    fd: int
    before: frozenset[tuple[str, int]]

    def __init__(self, path: str) -> None:
        """Open it. Raises OSError."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._set(path=path, fd=fd, before=frozenset((entry.name, entry.inode()) for entry in os.scandir(fd)))


class Row(Value):
    """A file of a Place.

    path     within the place, "." for itself
    mode     st_mode
    ids      uid and gid, as the job sees them
    times    nanoseconds of its last access and change
    size     of a regular file
    target   of a symbolic link; of another name of a file: its first, and `linked`
    linked   whether it is another name of a file
    extents  (offset, offset in CONTENTS, length) each
    xattrs   (name, value in hex) each
    """

    __slots__ = ("extents", "ids", "linked", "mode", "path", "size", "target", "times", "xattrs")
    path: str
    mode: int
    ids: tuple[int, int]
    times: tuple[int, int]
    size: int
    target: str
    linked: bool
    extents: list[tuple[int, int, int]]
    xattrs: list[tuple[str, str]]

    def __init__(
        self, path: str, mode: int, ids: tuple[int, int], times: tuple[int, int], size: int, target: str = "",
        linked: bool = False, extents: Iterable[tuple[int, int, int]] = (), xattrs: Iterable[tuple[str, str]] = (),
    ) -> None:  # fmt: skip
        self._set(
            path=path, mode=mode, ids=ids, times=times, size=size, target=target, linked=linked, extents=list(extents),
            xattrs=list(xattrs),
        )  # fmt: skip

    def plain(self) -> list[object]:
        """Give it as JSON has it."""
        return [
            self.path, self.mode, *self.ids, *self.times, self.size, self.target, self.linked, self.extents,
            self.xattrs,
        ]  # fmt: skip

    @classmethod
    def of(cls, plain: list[object]) -> Row:
        """Take what ``plain`` gave. Raises RexecError, ValueError, TypeError for anything else."""
        path, mode, uid, gid, atime, mtime, size, target, linked, extents, xattrs = plain
        numbers = (mode, uid, gid, atime, mtime, size)
        if not isinstance(path, str) or not isinstance(target, str) or not all(type(n) is int for n in numbers):
            raise RexecError("the list of its own files is damaged")
        if not isinstance(extents, list) or not isinstance(xattrs, list):
            raise RexecError("the list of its own files is damaged")
        for name in (path, target) if linked else (path,):
            if name != "." and any(part in ("", ".", "..") for part in name.split("/")):
                raise RexecError("the list of its own files names %r" % name)
        mode, uid, gid, atime, mtime, size = (int(str(n)) for n in numbers)
        return cls(
            path, mode, (uid, gid), (atime, mtime), size, target, bool(linked),
            [(int(at), int(there), int(length)) for at, there, length in extents],
            [(str(name), str(value)) for name, value in xattrs],
        )  # fmt: skip


def files(place: Place) -> Iterator[tuple[str, str, int, os.stat_result]]:
    """Yield path, name, directory and lstat(2) of each file, a directory before what is in it. Raises OSError."""
    top = os.fstat(place.fd)
    yield ".", ".", place.fd, top
    for where, directories, files, at in os.fwalk(".", dir_fd=place.fd, onerror=_raise):
        names = sorted(directories + files)
        directories.clear()
        for name in names:
            st = os.stat(name, dir_fd=at, follow_symlinks=False)
            if st.st_dev != top.st_dev or (where == "." and (name, st.st_ino) in place.before):
                continue
            if stat.S_ISDIR(st.st_mode):
                directories.append(name)
            yield os.path.normpath(os.path.join(where, name)), name, at, st


def _raise(e: OSError) -> None:
    raise e


def obstacle(places: list[Place]) -> str:
    """Say why the files cannot be saved as they are now; "": they can. Raises OSError."""
    size = count = 0
    for place in places:
        try:
            for path, _, _, st in files(place):
                if stat.S_IFMT(st.st_mode) not in _KINDS:
                    return "the job has made the device %s, which is not saved" % os.path.join(place.path, path)
                size += st.st_blocks * 512 if stat.S_ISREG(st.st_mode) else 0
                count += 1
        except FileNotFoundError:
            continue  # it has just been removed: the next look, with the tree standing still, is the one that counts
    return _beyond(size, count)


def _beyond(size: int, count: int) -> str:
    said = "the job has %s in /dev/shm and --scratch directories, and %s is the most that goes along: remove some"
    if size > MOST_BYTES:
        return said % ("%.1f GiB" % (size / (1 << 30)), "%d GiB" % (MOST_BYTES >> 30))
    if count > MOST_FILES:
        return said % ("%d files" % count, str(MOST_FILES))
    return ""


# ------------------------------------------------------------------------------------------------ into the image


def save(places: list[Place], images: int, given: list[tuple[int, str]]) -> None:
    """Write the files into the directory `images`, the tree standing still. Raises OSError, RexecError.

    `given`: the names that RemovedNames has given back.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    out = os.open(CONTENTS, flags, 0o600, dir_fd=images)
    try:
        saved = _Saved(out)
        lists = [saved.place(place) for place in places]
        os.ftruncate(out, saved.end)
    finally:
        os.close(out)
    with open(os.open(INDEX, flags, 0o600, dir_fd=images), "w") as f:
        json.dump([[[row.plain() for row in rows] for rows in lists], given], f)


class _Saved:
    """What is in CONTENTS so far: up to `end`, `size` bytes of `count` files."""

    def __init__(self, out: int) -> None:
        self._out = out
        self.end = self.size = self.count = 0

    def place(self, place: Place) -> list[Row]:
        first: dict[int, str] = {}  # inode -> the first name, of files that have several
        rows = []
        for path, name, at, st in files(place):
            self.count += 1
            if stat.S_IFMT(st.st_mode) not in _KINDS:
                raise RexecError("the job has made the device %s" % os.path.join(place.path, path))
            target, linked = "", st.st_ino in first
            if linked:
                target = first[st.st_ino]
            elif stat.S_ISLNK(st.st_mode):
                target = os.readlink(name, dir_fd=at)
            if st.st_nlink > 1 and not linked and not stat.S_ISDIR(st.st_mode):
                first[st.st_ino] = path
            extents, xattrs = ([], []) if linked else self._held(name, at, st)
            rows.append(
                Row(
                    path, st.st_mode, (st.st_uid, st.st_gid), (st.st_atime_ns, st.st_mtime_ns), st.st_size, target,
                    linked, extents, xattrs,
                )
            )  # fmt: skip
        why = _beyond(self.size, self.count)
        if why:
            raise RexecError(why)
        return rows

    def _held(
        self, name: str, at: int, st: os.stat_result
    ) -> tuple[list[tuple[int, int, int]], list[tuple[str, str]]]:  # fmt: skip
        if not stat.S_ISREG(st.st_mode) and not stat.S_ISDIR(st.st_mode):
            return [], []
        fd = os.open(name, _READ, dir_fd=at)
        try:
            extents = list(self._copy(fd, st.st_size)) if stat.S_ISREG(st.st_mode) else []
            return extents, _xattrs(fd)
        finally:
            os.close(fd)

    def _copy(self, fd: int, size: int) -> Iterator[tuple[int, int, int]]:
        at = 0
        while at < size:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as e:
                if e.errno != errno.ENXIO:
                    raise
                return  # a hole up to its end
            length = min(os.lseek(fd, at, os.SEEK_HOLE), size) - at
            if length >= WINDOW:
                self.end += -self.end % WINDOW
            self.size += length
            if self.size > MOST_BYTES:
                raise RexecError(_beyond(self.size, 0))
            _send(fd, at, self._out, self.end, length)
            yield at, self.end, length
            self.end += length
            at += length


def _send(source: int, at: int, target: int, there: int, length: int) -> None:
    os.lseek(target, there, os.SEEK_SET)
    while length:
        sent = os.sendfile(target, source, at, length)
        if not sent:
            raise RexecError("a file of its own was cut short")
        at, length = at + sent, length - sent


def _xattrs(fd: int) -> list[tuple[str, str]]:
    try:
        names = os.listxattr(fd)
    except OSError as e:
        if e.errno != errno.ENOTSUP:
            raise
        return []
    return [(name, os.getxattr(fd, name).hex()) for name in names if name.startswith(_XATTRS)]


# ------------------------------------------------------------------------------------------------ and back


def restore(places: list[Place], images: int) -> object:
    """Make the files anew that an image in the directory `images` has; what ``save`` was given.

    Raises OSError, RexecError, ValueError, TypeError.
    """
    try:
        index = os.open(INDEX, _READ, dir_fd=images)
    except FileNotFoundError:
        return []  # of a rexec that did not save any
    with open(index) as f:
        lists, given = json.load(f)
    if not isinstance(lists, list) or len(lists) != len(places):
        raise RexecError("the image has the files of other directories than the job")
    contents = os.open(CONTENTS, _READ, dir_fd=images)
    try:
        for place, rows in zip(places, lists):
            _make_all(place.fd, [Row.of(plain) for plain in rows], contents)
    finally:
        os.close(contents)
    return given


def _make_all(top: int, rows: list[Row], contents: int) -> None:
    for row in rows:
        at, name = _parent(top, row.path)
        try:
            _make(at, name, row, top, contents)
            if not row.linked and not stat.S_ISDIR(row.mode):
                _dress(at, name, row)
        finally:
            os.close(at)
    for row in reversed(rows):  # what is made in a directory changes its times
        if stat.S_ISDIR(row.mode):
            at, name = _parent(top, row.path)
            try:
                _dress(at, name, row)
            finally:
                os.close(at)


def _parent(top: int, path: str) -> tuple[int, str]:
    """A descriptor of the directory that `path` is in, no link followed; and its name there."""
    *above, name = path.split("/")
    at = os.dup(top)
    for part in above:
        try:
            inner = os.open(part, _DIRECTORY, dir_fd=at)
        finally:
            os.close(at)
        at = inner
    return at, name


def _make(at: int, name: str, row: Row, top: int, contents: int) -> None:
    kind = stat.S_IFMT(row.mode)
    if kind != stat.S_IFDIR:
        try:
            os.unlink(name, dir_fd=at)  # a link of /dev that the job has made another thing
        except FileNotFoundError:
            pass  # as for all others
    if row.linked:
        os.link(row.target, name, src_dir_fd=top, dst_dir_fd=at, follow_symlinks=False)
    elif kind == stat.S_IFDIR:
        if row.path != ".":
            os.mkdir(name, 0o700, dir_fd=at)
    elif kind == stat.S_IFLNK:
        os.symlink(row.target, name, dir_fd=at)
    elif kind == stat.S_IFREG:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=at)
        try:
            os.ftruncate(fd, row.size)
            for offset, there, length in row.extents:
                _send(contents, there, fd, offset, length)
        finally:
            os.close(fd)
    elif kind in _KINDS:
        os.mknod(name, kind | 0o600, dir_fd=at)
    else:
        raise RexecError("the list of its own files has a device")


def _dress(at: int, name: str, row: Row) -> None:
    """Owner, mode, attributes and times as they were."""
    os.chown(name, *row.ids, dir_fd=at, follow_symlinks=False)
    if not stat.S_ISLNK(row.mode):
        os.chmod(name, stat.S_IMODE(row.mode), dir_fd=at)
    if row.xattrs:
        fd = os.open(name, _READ, dir_fd=at)
        try:
            for attribute, value in row.xattrs:
                os.setxattr(fd, attribute, bytes.fromhex(value))
        finally:
            os.close(fd)
    os.utime(name, ns=row.times, dir_fd=at, follow_symlinks=False)
