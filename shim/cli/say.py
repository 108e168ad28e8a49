"""What every command says, and how: a sentence on standard error, a job's command in a table, a failure's status."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress

from remoteio.printable import printable

FAILED = 125  # exit status where rexec itself failed, as env(1) and timeout(1) have it


def tell(text: str) -> None:
    """Say one sentence to the person, on standard error."""
    if sys.stderr is not None:  # it is None if 2 was closed when we were started
        with suppress(OSError):  # nobody reads it, or the disk it is on is full: the job goes on
            print("rexec:", text, file=sys.stderr, flush=True)


def shown(command: Sequence[str]) -> str:
    """Write a command as a table has room for it."""
    text = printable(shlex.join(command), None)
    return text if len(text) <= 48 else text[:47] + "…"
