"""The person's own terminal while a job has it: raw, and put back whatever happens."""

from __future__ import annotations

import contextlib
import os
import select
import termios
import time
import tty
from collections.abc import Callable, Iterator


class Terminal:
    """The terminal open at `fd`."""

    def __init__(self, fd: int = 0) -> None:
        self._fd = fd
        self._found = termios.tcgetattr(fd)

    def raw(self) -> None:
        """Every key goes to the job as it is."""
        tty.setraw(self._fd, termios.TCSADRAIN)

    def restore(self) -> None:
        """As it was found."""
        with contextlib.suppress(termios.error):  # it may have been hung up: nothing is left to restore
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._found)

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Raw inside the ``with``, restored after it."""
        try:
            self.raw()
            yield
        finally:
            self.restore()


def in_foreground(fd: int) -> Callable[[], None]:
    """What waits until there is something to read and this process may read it: a background job leaves the keys alone."""

    def wait() -> None:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while True:
            poll.poll()
            try:
                if os.tcgetpgrp(fd) == os.getpgrp():
                    return
            except OSError:
                return  # hung up: the read says so
            time.sleep(0.1)  # there is no event for "became the foreground"; shells poll for it too

    return wait
