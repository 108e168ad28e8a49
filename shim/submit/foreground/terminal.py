"""The person's own terminal while a job has it: raw, and put back whatever happens.

A process in the background neither reads it nor sets it: it waits to be brought to the foreground. Sources:
termios(3), credentials(7), "Job Control" in the manual of the GNU C library.
"""

from __future__ import annotations

import errno
import os
import termios
import threading
import tty

from shim.wire import terminal_state


def in_foreground(fd: int) -> bool:
    """Tell whether this process may read the terminal at `fd`. It may one that is not ours, which nobody else reads."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return True  # not our controlling terminal, or hung up: the read says so


class Terminal:
    """The terminal open at `fd`, which must be one."""

    def __init__(self, fd: int = 0) -> None:
        self._fd = fd
        self._found = termios.tcgetattr(fd)
        self._lock = threading.Lock()
        self._wanted = self._raw = False

    def take(self) -> None:
        """Give every key to the job as it is, from now on, or from when this process is in the foreground."""
        self._wanted = True
        self.ours()

    def ours(self) -> bool:
        """Make it raw if it is wanted and this process is in the foreground; tell whether it is."""
        with self._lock:
            if not self._wanted or not in_foreground(self._fd):
                return False
            if not self._raw:
                try:
                    self._found = termios.tcgetattr(self._fd)
                    tty.setraw(self._fd, termios.TCSADRAIN)
                except termios.error:
                    return True  # hung up: the read says so
                self._raw = True
            return True

    def size(self) -> list[int] | None:
        """Return rows, columns, x pixels, y pixels; None: it is hung up, and has none."""
        try:
            return terminal_state.window(self._fd)
        except OSError as e:
            if e.errno != errno.EIO:
                raise
            return None

    def restore(self) -> None:
        """Put it back as it was found; no key is taken until the next ``take``."""
        with self._lock:
            self._wanted = False
            if self._raw and in_foreground(self._fd):
                try:
                    termios.tcsetattr(self._fd, termios.TCSADRAIN, self._found)
                except termios.error:
                    return  # hung up: nothing is left to restore
            self._raw = False
