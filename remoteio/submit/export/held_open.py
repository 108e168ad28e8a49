"""Submit side: who else has a file open, as far as a lease for a moment tells (fcntl(2), F_SETLEASE)."""

from __future__ import annotations

import fcntl
import os
import signal
import stat


def unwritten(fd: int, st: os.stat_result) -> bool:
    """Say whether nobody has that file open for writing; of somebody else's, whether nobody but he could."""
    try:
        # for the moment that it is there, who opens the file for writing waits; and we are sent a signal, which is
        # this one as it ends no process
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except PermissionError:  # somebody else's: nobody but he may write to it
        return not st.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    except OSError:
        return False  # open for writing, or of a filesystem that does not tell
    return True


def unopened(fd: int) -> bool:
    """Say whether the file that is open as `fd` is open nowhere else, and is this user's."""
    try:
        # for the moment that it is there, who opens the file waits; and we are sent a signal that ends no process
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    return True
