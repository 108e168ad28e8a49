"""Who runs and who waits on the desk: a file each, which its process has locked.

`$XDG_STATE_HOME/rexec/desk/N` is the Nth run's, and says what it wants and where it is. The run holds an flock(2) of it
for as long as it lives: so a file that can be locked is of a run that is gone, however it ended, and is removed by
whoever looks. All that is read and written is so under the lock of `turn`, which is held for no longer than that takes.

A member's file that is closed by one who could write to it (with its process, too) or removed is an event of
inotify(7): who waits is woken by it. What was written alone is none, so those who wait do not wake each other.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

from checkpoint.submit import xdg
from remoteio.errors import RexecError
from remoteio.inotify import IN_CLOSE_WRITE, IN_DELETE, Inotify
from shim.submit.desk.line import Member
from shim.wire.wakeup import await_any

_TURN = "turn"
_INSTEAD = "name one host with --on"
_BYTES = 1 << 20  # more than a run says
_CLOSING = 0.1  # seconds from the close of a file, as it is told, to the end of its lock


class Members:
    """The directory of them. Raises RexecError where it cannot be used."""

    def __init__(self, directory: Path | None = None) -> None:
        try:
            self.directory = xdg.state() / "desk" if directory is None else directory
            xdg.make(self.directory)
        except (OSError, RuntimeError) as e:
            raise RexecError(f"the runs of this desk cannot be counted: {e}; {_INSTEAD}") from e

    @contextmanager
    def turn(self, file: str = _TURN) -> Iterator[int]:
        """Hold the lock of a file of the directory, for what is read and written there; gives its descriptor."""
        try:
            fd = os.open(self.directory / file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                yield fd
            finally:
                os.close(fd)
        except OSError as e:
            raise RexecError(f"{self.directory} cannot be used: {e.strerror}; make room there, or {_INSTEAD}") from e

    def join(self, wanted: Member) -> Membership:
        """Take a place at the end of the line, with the next number."""
        with self.turn():
            last = max([each.number for each in self.listed()], default=0)
            counted = self.directory / "last"
            with suppress(FileNotFoundError, ValueError):
                last = max(last, int(counted.read_text()))
            counted.write_text(str(last + 1))
            member = replace(wanted, number=last + 1)
            fd = os.open(self.path(member.number), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            return Membership(self, fd, member)

    def all(self) -> list[Member]:
        """List all that run or wait."""
        with self.turn():
            return self.listed()

    def listed(self) -> list[Member]:
        """List them, within the `turn`."""
        found = []
        for path in self.directory.iterdir():
            if path.name.isdigit() and (member := self._read(path)) is not None:
                found.append(member)
        return found

    def _read(self, path: Path) -> Member | None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None  # it has just left
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            try:
                said = json.loads(os.read(fd, _BYTES).partition(b"\n")[0])
                return Member(**{**said, **{name: tuple(said[name]) for name in ("hosts", "command", "ranks")}})
            except (ValueError, TypeError, KeyError) as e:
                why = "its run is of another version of rexec; wait until that has ended, or"
                raise RexecError(f"{path} cannot be read: {why} {_INSTEAD}") from e
        else:
            path.unlink(missing_ok=True)  # its run is gone
            return None
        finally:
            os.close(fd)

    def path(self, number: int) -> Path:
        """Name the file of that run."""
        return self.directory / str(number)

    def set_priority(self, which: Callable[[Member], bool], priority: int) -> list[Member]:
        """Give some runs another priority; returns them."""
        with self.turn():
            found = [replace(each, priority=priority) for each in self.listed() if which(each)]
            for member in found:
                fd = os.open(self.path(member.number), os.O_WRONLY | os.O_CLOEXEC)
                try:
                    _write(fd, member)
                finally:
                    os.close(fd)
            return found


class Membership:
    """A run's own place among the members, until ``leave`` or the end of this process. Threads: any."""

    def __init__(self, members: Members, fd: int, member: Member) -> None:
        self._members, self._fd, self.member = members, fd, member
        self._lock = threading.Lock()
        _write(fd, member)

    def leave(self) -> None:
        """Give the slots, or the place in the line, to others; who waits for some by it is told so."""
        with self._lock:
            if self._fd < 0:
                return
            with suppress(FileNotFoundError):
                self._members.path(self.member.number).unlink()
            os.close(self._fd)
            self._fd = -1

    def take(self, may: Mapping[str, float], turns: Callable[[list[Member]], dict[int, str]]) -> list[Member]:
        """Take the slots that are this run's by `turns` of all members. Return these, as they were before.

        `may`: the hosts where it may run now, and how much it wants each. What has slots keeps these.
        """
        with self._changing() as found:
            own = self._own(found)
            if not own.host:
                own = replace(own, hosts=tuple(may), ranks=tuple(may.values()))
                found = [own if each.number == own.number else each for each in found]
                self._becomes(replace(own, host=turns(found).get(own.number, "")))
            return found

    def give_back(self, *, began: bool = False) -> None:
        """Wait again, for slots on any of the hosts that the next `take` names; `began`: as one that has run."""
        with self._changing() as found:
            own = self._own(found)
            self._becomes(replace(own, host="", hosts=(), ranks=(), began=own.began or began))
            with suppress(FileNotFoundError):
                os.close(os.open(self._members.path(own.number), os.O_WRONLY | os.O_CLOEXEC))  # those who wait see it

    def claim(self, host: str) -> None:
        """Have the slots on that host, whoever else has some there: it runs there."""
        with self._changing() as found:
            self._becomes(replace(self._own(found), host=host))

    @contextmanager
    def _changing(self) -> Iterator[list[Member]]:
        """Give all members, for as long as nobody else may change them."""
        with self._lock, self._members.turn():
            if self._fd < 0:
                raise RexecError("the run has left the line")
            yield self._members.listed()

    def _own(self, found: list[Member]) -> Member:
        """Return it as it is on the disk: its priority may have been changed there."""
        return next((each for each in found if each.number == self.member.number), self.member)

    def _becomes(self, member: Member) -> None:
        self.member = member
        _write(self._fd, member)


class Changes:
    """Tells when members have gone, or changed. Where the kernel has no inotify left, it is said each second."""

    def __init__(self, members: Members) -> None:
        self._inotify: Inotify | None
        self._soon = False
        try:
            self._inotify = Inotify()
            self._inotify.add(str(members.directory), IN_CLOSE_WRITE | IN_DELETE)
        except OSError:
            self._inotify = None

    def wait(self, seconds: float) -> bool:
        """Wait until something has changed, `seconds` at the most. False: nothing has."""
        if self._soon:
            seconds, self._soon = min(seconds, _CLOSING), False
        until = time.monotonic() + seconds
        if self._inotify is None:
            time.sleep(min(seconds, 1.0))
            return True
        while await_any([self._inotify.fileno()], until - time.monotonic()):
            # what is locked or counted by, such as `turn`, is closed at each look: that is no change
            events = [mask for _, mask, name in self._inotify.read() if name.isdigit() or not name]
            if events:
                # a close is told before the lock goes (__fput of fs/file_table.c): one looks again
                self._soon = any(mask & IN_CLOSE_WRITE for mask in events)
                return True
        return False

    def close(self) -> None:
        """Give the descriptor back."""
        if self._inotify is not None:
            self._inotify.close()


def _write(fd: int, member: Member) -> None:
    # in one piece, to its end of line: who is killed here leaves the one or the other
    os.pwrite(fd, json.dumps(asdict(member)).encode() + b"\n", 0)
