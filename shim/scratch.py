"""Private space on the execute host for ``--scratch``: directories that go with the job. Shipped."""

from __future__ import annotations

import fcntl
import os

from remoteio.errors import RexecError


class Scratch:
    """Directories beneath $TMPDIR, each locked while its keeper lives: what a dead keeper left is removed by the next."""

    def __init__(self) -> None:
        self._base = "%s/rexec-%d" % (os.environ.get("TMPDIR") or "/var/tmp", os.geteuid())
        self._held: list[tuple[int, str]] = []

    def make(self) -> str:
        """A new empty directory. Raises RexecError."""
        try:
            os.makedirs(self._base, 0o700, exist_ok=True)
            if os.stat(self._base).st_uid != os.geteuid():
                raise OSError(1, "it is somebody else's")
            self._sweep()
            path = "%s/%d-%d" % (self._base, os.getpid(), len(self._held))
            os.mkdir(path, 0o700)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as e:
            raise RexecError(
                "%s has no room for --scratch in %s: %s; set TMPDIR there"
                % (os.uname().nodename, self._base, e.strerror)
            ) from e
        self._held.append((fd, path))
        return path

    def _sweep(self) -> None:
        for name in os.listdir(self._base):
            path = self._base + "/" + name
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its keeper lives
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
            except OSError:
                pass  # another job's are in it
        self._held = []


def _remove(path: str) -> None:
    with os.scandir(path) as entries:
        for e in list(entries):
            if e.is_dir(follow_symlinks=False):
                os.chmod(e.path, 0o700)
                _remove(e.path)
            else:
                os.unlink(e.path)
    os.rmdir(path)
