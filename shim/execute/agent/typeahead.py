"""What was typed at a job's terminal and has not been read. Shipped.

CRIU does not save it: it lies in the kernel's line discipline. It is taken out through the slave, set to raw and
silent for the moment, and put back through the master so, that it is neither echoed twice nor taken for signals.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios
import time

_LFLAG, _IFLAG, _CC = 3, 0, 6
_MOST = 1.0  # seconds for the kernel to pass on what was written


def take(slave: int) -> bytes:
    """Take everything unread out of the terminal. The job stands still, and nobody types."""
    kept = termios.tcgetattr(slave)
    flags = fcntl.fcntl(slave, fcntl.F_GETFL)
    raw = termios.tcgetattr(slave)
    raw[_LFLAG] &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
    raw[_CC][termios.VMIN], raw[_CC][termios.VTIME] = 0, 0
    out = bytearray()
    try:
        termios.tcsetattr(slave, termios.TCSANOW, raw)
        fcntl.fcntl(slave, fcntl.F_SETFL, flags | os.O_NONBLOCK)
        while True:
            try:
                data = os.read(slave, 4096)
            except BlockingIOError:
                break
            if not data:
                break
            out += data
    finally:
        fcntl.fcntl(slave, fcntl.F_SETFL, flags)
        termios.tcsetattr(slave, termios.TCSANOW, kept)
    return bytes(out)


def put(master: int, slave: int, data: bytes) -> None:
    """Have it unread again, with the settings that the job has made; `master` may be non-blocking."""
    if not data:
        return
    kept = termios.tcgetattr(slave)
    quiet = termios.tcgetattr(slave)
    quiet[_LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ISIG)
    quiet[_IFLAG] &= ~(termios.ICRNL | termios.INLCR | termios.IGNCR)
    try:
        termios.tcsetattr(slave, termios.TCSANOW, quiet)
        os.write(master, data)  # at most what one line discipline held, so there is room for it
        _arrived(slave, data.rfind(b"\n") + 1 if quiet[_LFLAG] & termios.ICANON else len(data))
    finally:
        termios.tcsetattr(slave, termios.TCSANOW, kept)


def _arrived(slave: int, readable: int) -> None:
    """Wait until the line discipline has what was written: `readable` bytes can be read then, of the lines complete.

    The kernel hands it over in a work item; poll(2) completes that where nothing can be read yet (n_tty_poll).
    """
    poll = select.poll()
    poll.register(slave, select.POLLIN)
    until = time.monotonic() + _MOST
    poll.poll(0)
    while struct.unpack("i", fcntl.ioctl(slave, termios.FIONREAD, bytes(4)))[0] < readable:
        if time.monotonic() > until:
            return  # an end-of-file key is among it, which does not count
        time.sleep(0.001)
