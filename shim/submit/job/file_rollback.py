"""A job's files when it goes on from an image: only what the job itself did after the image is undone.

That is: where it only added to a file, and nobody else has changed the file since, what it added is cut off, for it
will add that again. Whatever cannot be told apart stays as it is, and is copied aside before the job goes on.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from checkpoint.wire.manifest import Manifest, WrittenFile
from remoteio.submit.export.changes import Change, Key, State, state
from shim.submit.job.kept_copies import Tail, keep

_SIGURG = 23  # signal(7); of the module `signal`, which is of the whole process, nothing is used here


@dataclass(frozen=True, slots=True)
class Named:
    """A file that the user is told of: `clause` says what was done to it, and the image saw `seen` bytes of it."""

    path: str
    clause: str
    seen: int


@dataclass(frozen=True, slots=True)
class Cut:
    """`path` is to be cut to `size`, if it is still in `last`; the image saw `seen` bytes of it, and its time."""

    path: str
    key: Key
    size: int
    last: State
    seen: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Look:
    """What is to be done before the job goes on.

    cut      what the job alone added, and will add again
    both     what stays as it is and is copied aside
    changed  what the job cannot go on with, unless its user says so
    paths    the files that are there, by device and inode number
    """

    cut: list[Cut] = field(default_factory=list)
    both: list[Named] = field(default_factory=list)
    changed: list[Named] = field(default_factory=list)
    paths: dict[Key, str] = field(default_factory=dict)


def look(image: Manifest, changes: dict[Key, Change] | None, pinned: Collection[str] = ()) -> Look:
    """Compare the files with `image` and with what the job did since (Changes.since; None: it is not known).

    `pinned`: paths under which it can be shown what it had mapped or open, whatever is there now.
    """
    held = {path for path, _, writable in opened(image) if writable}
    if "open" not in image.stats:
        held = {file.path for file in image.written}  # of a rexec that did not write it down
    found = Look()
    for file in image.written:
        try:
            now = os.stat(file.path, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                clause = f"cannot be looked at ({error.strerror}), so it may have been changed"
                found.changed.append(Named(file.path, f"{file.path} {clause}", file.size))
                continue
            now = None
        if now is not None:
            found.paths[now.st_dev, now.st_ino] = file.path
        judge(found, file, now, changes, file.path in held)
    told = {file.path for file in image.written}
    rows = image.stats.get("mapped", [])
    mapped = {str(path) for path in rows} if isinstance(rows, list) else set()
    for path, inode, writable in opened(image):
        if path in pinned and not writable:
            continue
        if path in mapped and path not in told and (now_inode := _inode(path)) != inode:
            # Of a program and its libraries the image has what the job has written there: the rest is read from them.
            how = "replaced by another file" if now_inode else "removed"
            found.changed.append(Named(path, f"{path}, which the job has mapped, has been {how}", 0))
            continue
        # An image of a rexec that took the like in: what the job holds by a name is open by another, or by none.
        if writable and path not in told and _inode(path) not in (0, inode):
            found.changed.append(Named(path, f"{path} has been replaced by another file", 0))
    return found


def judge(
    found: Look, file: WrittenFile, now: os.stat_result | None, changes: dict[Key, Change] | None, held: bool
) -> None:
    """Decide about `file`, which is `now` so (None: not there), and was `held` open: into `found`. Pure."""
    path = file.path
    gone = now is None or now.st_ino != file.inode or not stat.S_ISREG(now.st_mode)
    if changes is None:
        change = None
    elif gone:
        known = (each for (_, inode), each in changes.items() if inode == file.inode)
        change = next((each for each in known if each.removed or each.unlinked), None)
    else:
        assert now is not None
        change = changes.get((now.st_dev, now.st_ino))
    if gone or (change is not None and change.removed):
        if held or changes is None or change is not None:
            how = "has been removed" if now is None else "has been replaced by another file"
            found.changed.append(Named(path, f"{path} {how}", file.size))
        return
    assert now is not None
    altered = f"{path} has been changed"
    if now.st_size < file.size:
        altered = f"{path} has been cut from {file.size} to {now.st_size} bytes"
    if changes is None:
        if now.st_size > file.size:
            found.both.append(Named(path, f"it is not known who has added to {path}", file.size))
        elif now.st_size < file.size or now.st_mtime_ns != file.mtime_ns:
            found.changed.append(Named(path, altered, file.size))
    elif change is None:
        pass  # whoever changed it, it was not the job
    elif change.lowest < file.size:
        found.changed.append(Named(path, altered, file.size))
    elif change.others or change.last != state(now) or change.lowest < change.base or change.base < file.size:
        found.both.append(mixed(path, file.size))
    elif now.st_size > change.base:
        found.cut.append(Cut(path, (now.st_dev, now.st_ino), change.base, change.last, file.size, file.mtime_ns))


def is_file(path: str) -> bool:
    """Tell whether there is a regular file of that name; a symbolic link to one is none."""
    try:
        return stat.S_ISREG(os.stat(path, follow_symlinks=False).st_mode)
    except OSError:
        return False


def mixed(path: str, seen: int) -> Named:
    """What of the file is the job's cannot be told from what is others'."""
    return Named(path, f"both the job and others have changed {path}", seen)


def cut_back(cut: Cut, directory: Path, mark: str) -> Tail | None:
    """Shorten the file, once what is cut off is copied into `directory` with `mark` in its name; return that copy.

    None: somebody else has changed it, or has it open for writing, and nothing was done. Raises KeepError, OSError.
    """
    if state(os.stat(cut.path, follow_symlinks=False)) != cut.last:
        return None  # as is looked at again below, but without a copy of it all
    tail = Tail(cut.path, cut.key[1], cut.size, keep(cut.path, directory, f"{mark}.from-{cut.size}", cut.size))
    if not is_written(cut.path, cut.key) and _shorten(cut, tail):
        return tail
    tail.copy.unlink()  # after an error it stays: the file may have been cut by then
    return None


def _shorten(cut: Cut, tail: Tail) -> bool:
    """Cut it, if it is as the job has left it; what `tail` holds is all that goes."""
    # By the descriptor: on a network filesystem it is the open that asks how the file is now.
    fd = os.open(cut.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        # With a lease whoever opens it from now on waits until it is closed. None is given where somebody reads it, as
        # `tail -f` does, for another user's file, or by a network filesystem: then only the time between the look
        # and the cut, some microseconds, is left to others.
        _lease(fd, fcntl.F_WRLCK)
        # A store through a mapping leaves size and times as they were: so the bytes are compared, too.
        if state(os.fstat(fd)) != cut.last or not tail.same(fd):
            return False
        os.ftruncate(fd, cut.size)
        try:
            os.utime(fd, ns=(cut.mtime_ns, cut.mtime_ns))
        except OSError:
            pass  # of another user's file, say, which the job may write: it is younger than it was, and as long
    finally:
        os.close(fd)
    return True


def is_written(path: str, key: Key) -> bool:
    """Has another process the file open, or mapped, for writing? Asked by a lease, which is refused then."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        refused = _lease(fd, fcntl.F_RDLCK) == errno.EAGAIN
    finally:
        os.close(fd)
    return refused and not _held_here(key)


def _lease(fd: int, kind: int) -> int:
    """Take a lease of the file (fcntl(2)) until `fd` is closed; 0, or the number of the error."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, _SIGURG)  # for who waits for its end; unlike SIGIO it ends no process
        fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)
    except OSError as error:
        return error.errno or errno.EINVAL
    return 0


def _held_here(key: Key) -> bool:
    """Has this process the file open? For the job's own file locks it has (remoteio/submit/export/carried_locks.py)."""
    for name in os.listdir("/proc/self/fd"):
        try:
            st = os.fstat(int(name))
        except OSError:
            continue  # that of the listing, or one that another thread has closed
        if (st.st_dev, st.st_ino) == key:
            return True
    return False


def opened(image: Manifest) -> list[tuple[str, int, bool]]:
    """List (path, inode number, for writing?) of the regular files that the job had open or mapped."""
    rows = image.stats.get("open", [])
    return [(str(path), int(inode), bool(writable)) for path, inode, writable in rows]  # type: ignore[attr-defined]


def replaced(image: Manifest, forced: bool) -> list[str]:
    """Return the files the job had open whose names are another's by now: of these criu is to compare the size.

    With `forced` not those that it had open for writing.
    """
    found = []
    for path, inode, writable in opened(image):
        if _inode(path) != inode and not (forced and writable):
            found.append(path)
    return found


def _inode(path: str) -> int:
    """The inode number of what has that name now; 0: nothing that can be looked at."""
    try:
        return os.stat(path, follow_symlinks=False).st_ino
    except OSError:
        return 0
