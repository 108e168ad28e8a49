"""Write one stream of a job's output to where it goes, and keep count of it for a supervisor after this one.

A supervisor that is killed has written what no image counts. The next one, which goes on from the image, is to drop
that much of what the job says again; so its count is in a file, brought up to date after each write. That costs a
microsecond for each 64 KiB, and as much is said twice if the supervisor is killed between the two. The kernel keeps the
file's bytes whatever becomes of the process, but not over a power cut, before which they may or may not have come to
the disk, as may the output's own: so a count is good only as long as the machine has not been booted anew.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

from remoteio.errors import RexecError
from remoteio.wire import frames
from shim.submit.job.record import JobError
from shim.wire.stream_pumps import is_gone, on_disk

FULL = (errno.ENOSPC, errno.EDQUOT)
_FAULTY = (errno.EIO, errno.EROFS)  # a disk that fails, and what the kernel makes of its filesystem then
AGAIN = 2.0  # seconds between tries to write to a disk that does not take it: there is no event for its getting well
_ROW = struct.Struct("=36sqq")  # boot_id of random(4), bytes of the stream that are written, and where its file begins
_WRITTEN = struct.Struct("=q")
_NAMES = {frames.STDOUT: "stdout.count", frames.STDERR: "stderr.count"}


def boot_id() -> bytes:
    """Name this boot of the machine: another after each, so that what a power cut may have taken back is known."""
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        return file.read(36)


class OutputCount:
    """Keeps how many bytes of a stream are written, in a file of the job's directory.

    written   bytes of the stream, as the last supervisor left them; None: not known
    begins    where in the stream the job's own file of it begins, as that supervisor had it: 0 unless some of it went
              elsewhere

    Threads: one at a time.
    """

    def __init__(self, directory: Path, kind: int) -> None:
        """`kind`: frames.STDOUT or STDERR."""
        self._path = directory / _NAMES[kind]
        self._fd = -1
        self.written: int | None = None
        self.begins = 0
        try:
            boot, written, begins = _ROW.unpack(self._path.read_bytes())
        except (OSError, struct.error):
            return  # there was no supervisor before, or no room for it
        self.begins = begins
        if boot == boot_id() and written >= 0:
            self.written = written

    def begin(self, written: int, begins: int = 0) -> None:
        """Keep count from now on, of a stream of which so much is written already. Raises JobError."""
        new = self._path.with_suffix(".new")
        try:
            self._fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            os.write(self._fd, _ROW.pack(boot_id(), written, begins))
            os.fsync(self._fd)  # where the file begins is good for ever
            os.rename(new, self._path)
        except OSError as error:
            self.close()
            raise JobError(f"{self._path} cannot be written: {error.strerror}; make room there") from error

    def note(self, written: int) -> None:
        """Take note that the stream is written up to there."""
        if self._fd >= 0:
            try:
                os.pwrite(self._fd, _WRITTEN.pack(written), _ROW.size - 2 * _WRITTEN.size)
            except OSError:
                pass  # a file system that writes nothing in place is full: more will be said twice, and none is lost

    def close(self) -> None:
        """Keep count no more, and what was counted."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class OutputFile:
    """Writes a stream to `fd`, until it is shut.

    Threads: one at a time; `closed` may be read by any.
    """

    def __init__(
        self, fd: int, *, close: Callable[[int], None] = os.close, say: Callable[[str], None] = lambda text: None,
        count: OutputCount | None = None,
    ) -> None:  # fmt: skip
        """`close` is called with `fd` when the job closes the stream; `count` is told of each write.

        A disk that is full or fails ends nothing: the job waits for it, as soon as the stream's window is used up, and
        `say` is told so.
        """
        self._fd, self._close, self._say, self._count = fd, close, say, count
        self.closed = False

    def write(self, data: bytes | memoryview, end: int) -> None:
        """Write part of the stream, which ends at `end` of it. Shuts it if nobody reads it any more."""
        left, said = memoryview(data), False
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except OSError as error:
                if is_gone(self._fd, error):
                    self.shut()
                    return
                what = f"the job's output cannot be written: {error.strerror}"
                if error.errno not in FULL and not (error.errno in _FAULTY and on_disk(self._fd)):
                    raise RexecError(what) from error
                if not said:
                    self._say(f"{what}; {'make room there' if error.errno in FULL else 'mend that'}: it waits")
                said = True
                time.sleep(AGAIN)
            else:
                if self._count is not None:
                    self._count.note(end - len(left))

    def shut(self) -> None:
        """Close `fd`, once."""
        if not self.closed:
            self.closed = True
            self._close(self._fd)
            if self._count is not None:
                self._count.close()
