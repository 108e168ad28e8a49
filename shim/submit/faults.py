"""Errors of rexec's own: put on record where they can be found, and said in a sentence."""

from __future__ import annotations

import os
import time
import traceback
from pathlib import Path

from checkpoint.errors import CheckpointError
from remoteio.errors import RexecError, named

SAID = (RexecError, CheckpointError)  # what fails and says so itself: its text is a sentence for the user already


def record(errors: Path, doing: str, error: BaseException) -> str:
    """Add the traceback of `error` to the file `errors`; a sentence that says what failed, and where that file is.

    `doing`: what was being done, as in "serving alpha". Raises nothing: where the file cannot be written it says so.
    """
    told = "".join(traceback.format_exception(error))
    at = time.strftime("%Y-%m-%d %H:%M:%S")
    where = f"please report it with its traceback, which is in {errors}"
    try:
        fd = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{at} {doing}:\n{told}")
    except OSError as full:
        where = f"its traceback cannot be written to {errors} ({full.strerror})"
    return f"an error of rexec's own while {doing}: {named(error)}; {where}"
