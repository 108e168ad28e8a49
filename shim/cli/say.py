"""What every command says, and how: a sentence on standard error, a job's command in a table, a failure's status."""

from __future__ import annotations

import io
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TextIO

from remoteio.errors import RexecError
from remoteio.printable import printable

FAILED = 125  # exit status where rexec itself failed, as env(1) and timeout(1) have it


def tell(text: str) -> None:
    """Say one sentence to the person, on standard error."""
    if sys.stderr is not None:  # it is None if 2 was closed when we were started
        with suppress(OSError):  # nobody reads it, or the disk it is on is full: the job goes on
            print("rexec:", text, file=sys.stderr, flush=True)


def whole(command: Sequence[str]) -> str:
    """Write a command in one line."""
    return printable(shlex.join(command), None)


def shown(command: Sequence[str]) -> str:
    """Write a command as a line has room for it that says something else too."""
    text = whole(command)
    return text if len(text) <= 48 else text[:47] + "…"


class _Output(io.FileIO):
    """Standard output whose failures are told apart from all other errors of the system."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise  # nobody reads on, which click ends the command for without a word
        except OSError as error:
            # Python would try once more at its end, with a traceback of its own.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            raise RexecError(
                f"standard output cannot be written: {error.strerror}; make room there, or send it elsewhere"
            ) from error


def output(stdout: TextIO) -> TextIO:
    """Make the stream that takes the place of `stdout`; where it cannot be written it raises a RexecError, once."""
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(stdout.fileno(), "w", closefd=False)),
        encoding=stdout.encoding, errors=stdout.errors, line_buffering=stdout.isatty(),
    )  # fmt: skip
