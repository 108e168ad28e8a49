"""Private space on the execute host for ``--scratch``: directories that go with the job. Shipped."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat

from remoteio.errors import RexecError
from remoteio.execute import machine

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_LOCK = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK = ".lock"
_OURS = re.compile(r"(scratch|spool|door)-[0-9a-f]{16}" + re.escape(_LOCK))


class Scratch:
    """Directories beneath $TMPDIR, each with a file beside it that is locked while its job lives.

    Agent and keeper both hold them, and whichever outlives the other removes them; what is left where both were killed
    at once is removed by the next who asks for one. The lock is a file's, since FUSE keeps a directory's for itself:
    an agent in a job has its directories at home, by FUSE, where it and the agents there must see each other's locks.
    For its sake names are by chance, and not of the process's number, which is another in there.

    $TMPDIR is open to all users. So the directory that they are in is used by its descriptor, once that has shown that
    it is ours alone; where somebody else has taken its name it gets one that nobody could foresee.
    """

    def __init__(self, owner: int, group: int, kind: str = "scratch", beneath: str = "") -> None:
        """`owner`, `group`: whom the directories are given to where this process is root; `kind`: part of their name;
        `beneath`: where they are, instead of $TMPDIR or /var/tmp."""
        self._owner, self._group, self._kind = owner, group, kind
        self._beneath = beneath or os.environ.get("TMPDIR") or "/var/tmp"
        self._base, self._at = "", -1
        self._held: list[tuple[int, str]] = []

    def make(self) -> str:
        """Return a new empty directory. Raises RexecError."""
        try:
            name, fd = self._make()
        except OSError as e:
            raise RexecError(
                "%s has no room for %s in %s: %s; set TMPDIR there"
                % (
                    machine.name(), "--scratch" if self._kind == "scratch" else "the job's image",
                    self._base or self._beneath, e.strerror,
                )
            ) from e  # fmt: skip
        self._held.append((fd, name))
        return self._base + "/" + name

    def _make(self) -> tuple[str, int]:
        while True:
            if self._at < 0:
                self._base, self._at = _private(self._beneath)
                self._sweep()
            name = "%s-%s" % (self._kind, os.urandom(8).hex())
            try:
                fd = os.open(name + _LOCK, _OPEN_LOCK | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._at)
            except FileNotFoundError:
                # another's last directory went, and the one above with it
                os.close(self._at)
                self._at = -1
                continue
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink == 0:  # whoever swept was quicker
                os.close(fd)
                continue
            try:
                os.mkdir(name, 0o700, dir_fd=self._at)
                if os.geteuid() == 0:
                    os.chown(name, self._owner, self._group, dir_fd=self._at, follow_symlinks=False)
            except OSError:
                _unlink(name + _LOCK, self._at)
                os.close(fd)
                raise
            return name, fd

    @property
    def fds(self) -> list[int]:
        """The descriptors that hold them."""
        return [fd for fd, _ in self._held] + ([self._at] if self._at >= 0 else [])

    def _sweep(self) -> None:
        for lock in os.listdir(self._at):
            if not _OURS.fullmatch(lock):
                continue
            try:
                fd = os.open(lock, _OPEN_LOCK, dir_fd=self._at)
            except OSError as e:
                if e.errno not in (errno.ENOENT, errno.EISDIR, errno.ELOOP):
                    raise
                continue  # its job has just ended, or it is a directory or a link and none of ours
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its job lives
            else:
                _remove(lock[: -len(_LOCK)], self._at)
                _unlink(lock, self._at)
            finally:
                os.close(fd)

    def remove(self) -> None:
        """Remove all of them, whatever is in them."""
        for fd, name in self._held:
            _remove(name, self._at)
            _unlink(name + _LOCK, self._at)
            os.close(fd)
        self._held = []
        if self._at >= 0:
            os.close(self._at)
            self._at = -1
            try:
                os.rmdir(self._base)
            except OSError as e:
                if e.errno not in (errno.ENOTEMPTY, errno.ENOENT):  # another job's are in it, or it was the last
                    raise


def _private(beneath: str) -> tuple[str, int]:
    """A directory beneath `beneath` that is this user's alone: its path, and a descriptor of it. Raises OSError."""
    path = "%s/rexec-%d" % (beneath, os.geteuid())
    os.makedirs(beneath, 0o700, exist_ok=True)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass  # by an earlier job, or by somebody else
    try:
        fd = os.open(path, _OPEN)
    except FileNotFoundError:
        return _private(beneath)  # the last job's, and it has just ended
    except OSError as e:
        if e.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EACCES):
            raise
    else:
        st = os.fstat(fd)
        if st.st_uid == os.geteuid() and not stat.S_IMODE(st.st_mode) & 0o077:
            return path, fd
        os.close(fd)
    import tempfile

    path = tempfile.mkdtemp(prefix="rexec-%d-" % os.geteuid(), dir=beneath)
    return path, os.open(path, _OPEN)


def for_images() -> str:
    """Choose where the files of a process image may lie: the first directory that is on no overlay, if there is one.

    An overlay reads a file with the rights of who mounted it, even where that fills a page of a FUSE file in the
    reader's memory; FUSE refuses a user that its namespace does not have, and criu gets EFAULT (seen on 6.18).
    """
    with open("/proc/self/mountinfo") as f:
        lines = [line.split() for line in f]
    kinds = {fields[2]: fields[fields.index("-") + 1] for fields in lines}
    places = [os.environ.get("TMPDIR") or "/var/tmp", "/var/tmp", "/tmp", "/dev/shm"]
    usable = [place for place in places if os.access(place, os.W_OK | os.X_OK)]
    for place in usable:
        device = os.stat(place).st_dev
        if kinds.get("%d:%d" % (os.major(device), os.minor(device))) != "overlay":
            return place
    return usable[0] if usable else places[0]


def _remove(name: str, at: int) -> None:
    """Remove it with all that is in it, and follow no link."""
    try:
        within = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    except NotADirectoryError:
        _unlink(name, at)
        return
    except FileNotFoundError:
        return  # the other has removed it
    own = "/proc/self/fd/%d" % within
    try:
        os.chmod(own, 0o700)
        again = os.open(own, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(within)
    try:
        for each in os.listdir(again):
            _remove(each, again)
    finally:
        os.close(again)
    try:
        os.rmdir(name, dir_fd=at)
    except FileNotFoundError:
        return  # as above


def _unlink(name: str, at: int) -> None:
    try:
        os.unlink(name, dir_fd=at)
    except FileNotFoundError:
        return  # the other has removed it
