"""A thread that waits for a lock is called back at once, whenever that is asked for, and by nothing else."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from remoteio import syscalls
from remoteio.kernel_structs import FLOCK
from remoteio.submit.export.locks import Locks
from remoteio.submit.interruptible import Wait
from tests.until import until

if TYPE_CHECKING:
    from remoteio.submit.export.inodes import Inodes
    from remoteio.submit.export.sole import Soles

LOCK = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
TAKE: list[Callable[[int], None]] = [
    lambda fd: syscalls.flock(fd, fcntl.LOCK_EX),
    lambda fd: syscalls.lock_range(fd, LOCK),
]


class Waiter(threading.Thread):
    def __init__(self, take: Callable[[int], None], fd: int) -> None:
        super().__init__(daemon=True)
        self.wait, self._take, self._fd = Wait(), take, fd
        self.raised: int | None = None
        self.start()

    def run(self) -> None:
        try:
            self.wait.run(lambda: self._take(self._fd))
        except OSError as e:
            self.raised = e.errno

    def waits(self) -> bool:
        where = Path(f"/proc/self/task/{self.native_id}/wchan").read_text()
        return "lock" in where or "lk" in where  # fcntl_setlk


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[int, int]]:
    pair = [os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT) for _ in range(2)]
    yield pair[0], pair[1]
    for fd in pair:
        os.close(fd)


@pytest.mark.parametrize("take", TAKE, ids=["flock", "range"])
def test_it_is_called_back_and_goes_on_after_any_other_signal(
    take: Callable[[int], None], files: tuple[int, int]
) -> None:
    held, asked = files
    take(held)
    for _ in range(20):
        waiter = Waiter(take, asked)
        until(waiter.waits, "it waits in the kernel")
        assert waiter.ident is not None
        signal.pthread_kill(waiter.ident, signal.SIGURG)
        until(waiter.waits, "it waits again")
        assert waiter.is_alive()
        waiter.wait.end()
        waiter.join(60)
        assert (waiter.is_alive(), waiter.raised) == (False, errno.EINTR)
    granted = Waiter(take, asked)
    until(granted.waits, "it waits in the kernel")
    fcntl.flock(held, fcntl.LOCK_UN)
    fcntl.fcntl(held, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))
    granted.join(60)
    assert (granted.is_alive(), granted.raised) == (False, None)


def test_it_may_be_called_back_at_any_moment(files: tuple[int, int]) -> None:
    """Also just before the system call: a signal that came then would be lost."""
    held, asked = files
    TAKE[0](held)
    for _ in range(200):
        waiter = Waiter(TAKE[0], asked)
        waiter.wait.end()
        waiter.join(60)
        assert (waiter.is_alive(), waiter.raised) == (False, errno.EINTR)


def test_a_lock_that_was_interrupted_before_it_came_is_not_waited_for() -> None:
    locks = Locks(cast("Inodes", None), cast("Soles", None))
    locks.interrupt(7)
    assert locks.expect(7, 2) and locks.expect(9, 2)
    with pytest.raises(InterruptedError):
        locks._waiting[7].run(lambda: pytest.fail("it waits"))
    came: list[bool] = []
    locks._waiting[9].run(lambda: came.append(True))
    assert came, "another is"
    for unique in range(100, 1000):
        locks.interrupt(unique)
    assert len(locks._early) <= 64
