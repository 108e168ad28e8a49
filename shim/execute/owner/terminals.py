"""Terminals as a teller of the owner's input: consoles, and every pty, SSH users' too. Shipped: bare python3 >= 3.9.

Measured on Linux 6.18 (drivers/tty/tty_io.c, drivers/tty/pty.c):
- A read of a terminal by its shell or program sets the node's atime, but only if the last atime lies in another
  eight-second slot (tty_update_time; kept coarse so that nobody can time another's keys). So the first key after a
  pause of 8 s shows at once, the next ones in the next slot.
- inotify on the node itself reports every read (IN_ACCESS), at once. It needs read permission: root has it for all
  terminals, an ordinary user for the own ones. Output is IN_MODIFY, which is not asked for. A watch on the directory
  reports no reads (kernels from 2025 on send none for special files).
- A key typed into a program that is not reading shows only as a write to the pty's master: the mtime of ptmx, coarse
  as well, and one for all ptys of the devpts instance. /dev/ptmx never reports to inotify (FMODE_NONOTIFY).
The job's own terminal is in the job's devpts, so neither its node nor its ptmx is seen here.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from remoteio.inotify import IN_ACCESS, IN_CREATE, IN_DELETE, IN_IGNORED, IN_Q_OVERFLOW, Inotify
from shim.execute.owner.source import LOOK, RESCAN, Source

# Where every terminal can be watched, only ptmx needs looking at, for what is typed while no program reads.
LOOK_AT_PTMX = 0.2


class TerminalSource(Source):
    """All terminals below `dev`: pts/*, the virtual consoles, and serial lines that are a console or logged in on."""

    name = "terminals"

    def __init__(self, now: float, dev: str = "/dev", console: str = "/sys/class/tty/console/active") -> None:
        self._dev = dev
        self._console = console
        self._inotify: Inotify | None = None
        self._directory = -1
        self._watched: dict[int, str] = {}
        self._stamps: dict[str, int] = {}
        self._unwatched: dict[str, int] = {}
        self._last = 0.0
        self._rescanned = now
        try:
            self._inotify = Inotify()
            self._directory = self._inotify.add(os.path.join(dev, "pts"), IN_CREATE | IN_DELETE)
        except OSError as error:
            # No instance left, or no /dev/pts: the access times alone still tell.
            if error.errno not in (errno.EMFILE, errno.ENOSPC, errno.ENOENT, errno.EACCES):
                raise
        self._scan(now, first=True)
        self._set_interval()

    def absent(self) -> str | None:
        return None if self._stamps else f"there is no terminal below {self._dev}"

    def fileno(self) -> int | None:
        return None if self._inotify is None else self._inotify.fileno()

    def last_input(self, now: float) -> float | None:
        return min(self._last, now)

    def close(self) -> None:
        if self._inotify is not None:
            self._inotify.close()

    def poll(self, now: float) -> str | None:
        touched = self._read_events(now)
        for path in list(self._unwatched):
            touched = self._look(path) or touched
        if now - self._rescanned >= RESCAN:
            touched = self._scan(now) or touched
        if touched is not None:
            self._last = now
        self._set_interval()
        return touched

    def _set_interval(self) -> None:
        others = any(not path.endswith("/ptmx") for path in self._unwatched)
        self.interval = LOOK if others else LOOK_AT_PTMX

    def _read_events(self, now: float) -> str | None:
        touched = None
        for watch, mask, name in self._inotify.read() if self._inotify is not None else ():
            if mask & IN_Q_OVERFLOW:
                touched = self._scan(now) or touched
            elif watch == self._directory:
                path = os.path.join(self._dev, "pts", name)
                if mask & IN_CREATE:
                    # Somebody opened a terminal or logged in: that is the owner, before any key.
                    self._add(path)
                    touched = path
                elif mask & IN_DELETE:
                    self._forget(path)
            elif mask & IN_IGNORED:
                self._watched.pop(watch, None)
            elif mask & IN_ACCESS and watch in self._watched:
                touched = self._watched[watch]
        return touched

    def _scan(self, now: float, first: bool = False) -> str | None:
        self._rescanned = now
        touched = None
        paths = set(self._paths())
        for path in paths - self._stamps.keys():
            if not self._add(path):
                continue
            if first:
                # The wall clock may have been set since; input in the future is input now.
                self._last = max(self._last, now - max(time.time() - self._stamps[path] / 1e9, 0.0))
            else:
                touched = path
        for path in self._stamps.keys() - paths:
            self._forget(path)
        return touched

    def _paths(self) -> list[str]:
        try:
            pts = os.listdir(os.path.join(self._dev, "pts"))
        except FileNotFoundError:
            pts = []
        try:
            with open(self._console) as active:
                consoles = active.read().split()
        except FileNotFoundError:
            consoles = []
        paths = [os.path.join(self._dev, "pts", name) for name in pts]
        for name in os.listdir(self._dev):
            if name == "ptmx" or (name.startswith("tty") and (name[3:].isdecimal() or name in consoles)):
                paths.append(os.path.join(self._dev, name))
            elif name.startswith(("tty", "hvc")) and name != "tty":
                # A serial line belongs to a device (a GPS, a modem) unless login gave it to a user.
                path = os.path.join(self._dev, name)
                status = _status(path)
                if name in consoles or (status is not None and status.st_uid != 0):
                    paths.append(path)
        return paths

    def _add(self, path: str) -> bool:
        status = _status(path)
        if status is None or not stat.S_ISCHR(status.st_mode):
            return False
        self._stamps[path] = _stamp(path, status)
        if not self._watch(path):
            self._unwatched[path] = status.st_ctime_ns
        return True

    def _watch(self, path: str) -> bool:
        if self._inotify is None or path.endswith("/ptmx"):
            return False
        try:
            self._watched[self._inotify.add(path, IN_ACCESS)] = path
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.ENOENT, errno.ENOSPC):
                raise
            return False
        return True

    def _look(self, path: str) -> str | None:
        status = _status(path)
        if status is None:
            self._forget(path)
            return None
        if status.st_ctime_ns != self._unwatched[path]:
            # Owner or mode changed: sshd and login hand a new terminal to its user. Now it may be readable.
            self._unwatched[path] = status.st_ctime_ns
            if self._watch(path):
                del self._unwatched[path]
        stamp = _stamp(path, status)
        if stamp == self._stamps[path]:
            return None
        self._stamps[path] = stamp
        return path

    def _forget(self, path: str) -> None:
        self._stamps.pop(path, None)
        self._unwatched.pop(path, None)


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _stamp(path: str, status: os.stat_result) -> int:
    return status.st_mtime_ns if path.endswith("/ptmx") else status.st_atime_ns
