"""Private space on the execute host for ``--scratch``: directories that go with the job. Shipped."""

from __future__ import annotations

import errno
import fcntl
import os

from remoteio.errors import RexecError


class Scratch:
    """Directories beneath $TMPDIR, each locked while its job lives.

    Agent and keeper both hold them, and whichever outlives the other removes them; what is left where both were killed
    at once is removed by the next who asks for one.
    """

    def __init__(self, owner: int, group: int, kind: str = "", beneath: str = "") -> None:
        """`owner`, `group`: whom the directories are given to where this process is root; `kind`: part of their name;
        `beneath`: where they are, instead of $TMPDIR or /var/tmp."""
        self._owner, self._group, self._kind = owner, group, kind
        self._base = "%s/rexec-%d" % (beneath or os.environ.get("TMPDIR") or "/var/tmp", os.geteuid())
        self._held: list[tuple[int, str]] = []

    def make(self) -> str:
        """A new empty directory. Raises RexecError."""
        try:
            os.makedirs(self._base, 0o700, exist_ok=True)
            if os.stat(self._base).st_uid != os.geteuid():
                raise OSError(1, "it is somebody else's")
            self._sweep()
            path = "%s/%d-%s%d" % (self._base, os.getpid(), self._kind, len(self._held))
            os.mkdir(path, 0o700)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.geteuid() == 0:
                os.chown(path, self._owner, self._group)
        except OSError as e:
            raise RexecError(
                "%s has no room for --scratch in %s: %s; set TMPDIR there"
                % (os.uname().nodename, self._base, e.strerror)
            ) from e
        self._held.append((fd, path))
        return path

    @property
    def fds(self) -> list[int]:
        """The descriptors that hold them."""
        return [fd for fd, _ in self._held]

    def _sweep(self) -> None:
        for name in os.listdir(self._base):
            path = self._base + "/" + name
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # its job has just ended
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its job lives
            else:
                _remove(path)
            finally:
                os.close(fd)

    def remove(self) -> None:
        """All of them go, whatever is in them."""
        for fd, path in self._held:
            _remove(path)
            os.close(fd)
        if self._held:
            try:
                os.rmdir(self._base)
            except OSError as e:
                if e.errno not in (errno.ENOTEMPTY, errno.ENOENT):  # another job's are in it, or it was the last
                    raise
        self._held = []


def for_images() -> str:
    """Where the files of a process image may lie: the first directory that is on no overlay, if there is one.

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


def _remove(path: str) -> None:
    try:
        with os.scandir(path) as entries:
            for e in list(entries):
                if e.is_dir(follow_symlinks=False):
                    os.chmod(e.path, 0o700)
                    _remove(e.path)
                else:
                    os.unlink(e.path)
        os.rmdir(path)
    except FileNotFoundError:
        return  # the other has removed it
