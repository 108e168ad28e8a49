"""A terminal's settings as a list of numbers, to be set on another one. Shipped.

[rows, columns, x pixels, y pixels, iflag, oflag, cflag, lflag, ispeed, ospeed, cc …]: termios(3), tty_ioctl(4).
"""

from __future__ import annotations

import fcntl
import struct
import termios


def read(fd: int) -> list[int]:
    """Return the settings of the terminal open at `fd`. Raises OSError, termios.error."""
    attributes = termios.tcgetattr(fd)
    cc = [c if isinstance(c, int) else c[0] for c in attributes[6]]
    return [*window(fd), *attributes[:6], *cc]


def sane(state: list[int]) -> list[int]:
    """Return the same with line editing, echo and signals, as stty(1) has it for `sane`."""
    iflag, oflag, cflag, lflag = state[4:8]
    iflag = iflag & ~(termios.IGNBRK | termios.INLCR | termios.IGNCR) | termios.BRKINT | termios.ICRNL | termios.IXON
    oflag |= termios.OPOST | termios.ONLCR
    lflag |= termios.ISIG | termios.ICANON | termios.IEXTEN | termios.ECHO | termios.ECHOE | termios.ECHOK
    lflag |= termios.ECHOCTL | termios.ECHOKE
    return [*state[:4], iflag, oflag, cflag, lflag, *state[8:]]


def window(fd: int) -> list[int]:
    """Return rows, columns, x pixels, y pixels."""
    return list(struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8))))


def apply(fd: int, state: list[int]) -> None:
    """Set the terminal open at `fd` so."""
    resize(fd, struct.pack("HHHH", *state[:4]))
    canonical = state[7] & termios.ICANON
    numbers = (termios.VMIN, termios.VTIME)
    cc: list[bytes | int] = []
    for k, n in enumerate(state[10:]):
        cc.append(n if k in numbers and not canonical else bytes((n,)))
    attributes: list[int | list[bytes | int]] = [*state[4:10], cc]
    termios.tcsetattr(fd, termios.TCSANOW, attributes)


def resize(fd: int, size: bytes | memoryview) -> None:
    """Set the window size: struct winsize."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, bytes(size))
